import { Agent, createServer, ServerResponse } from 'node:http'
import httpProxy from 'http-proxy'
import { SERVER_OPTIONS, serve } from './own-server.js'

/**
 * A peer of forwarding: the package `http-proxy`, with connections that are kept. The argument is the upstream's URL.
 */
const proxy = httpProxy.createProxyServer({
  target: process.argv[2] ?? '',
  agent: new Agent({ keepAlive: true }),
})
proxy.on('error', (error, _request, response) => {
  if (response instanceof ServerResponse && !response.headersSent) response.writeHead(502).end(error.message)
  else response.destroy()
})

serve(createServer(SERVER_OPTIONS, (request, response) => proxy.web(request, response)))
