import httpProxy from '@fastify/http-proxy'
import Fastify from 'fastify'
import { announce } from './own-server.js'

/**
 * A peer of forwarding: @fastify/http-proxy as its documentation shows it, with logging off. The argument is the
 * upstream's URL.
 */
const app = Fastify({ logger: false })
await app.register(httpProxy, { upstream: process.argv[2] ?? '' })

announce(await app.listen({ host: '127.0.0.1', port: 0 }))
