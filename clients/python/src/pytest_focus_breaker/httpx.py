"""httpx transports that recognize a refusal of focus-breaker.

    client = httpx.Client(transport=RefusalAwareTransport())
    client = httpx.AsyncClient(transport=AsyncRefusalAwareTransport())
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Optional, Type

# httpx depends on it too. Its `sleep` works with asyncio and with trio.
import anyio
import httpx

from .refusal import Retries, refusal_of

__all__ = ["AsyncRefusalAwareTransport", "RefusalAwareTransport", "Retries", "refusal_of"]


class RefusalAwareTransport(httpx.BaseTransport):
    """Retries a request after a 429, 502, 503 or 504, but not after a refusal because of an outage.

    `transport` sends the requests. For a client with a transport, httpx ignores `verify`, `cert`, `http2`,
    `limits` and the proxies of the environment: pass them to `httpx.HTTPTransport`. A request whose body is
    not in memory (a generator, a file) is not retried.
    """

    def __init__(
        self, transport: Optional[httpx.BaseTransport] = None, *, retries: Optional[Retries] = None
    ) -> None:
        self._transport = httpx.HTTPTransport() if transport is None else transport
        self._retries = Retries() if retries is None else retries

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        sent = 0
        while True:
            response = self._transport.handle_request(request)
            sent += 1
            pause = _pause_after(self._retries, request, response, sent)
            if pause is None:
                return response
            response.close()
            time.sleep(pause)

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> RefusalAwareTransport:
        self._transport.__enter__()
        return self

    def __exit__(
        self,
        exc_type: Optional[Type[BaseException]] = None,
        exc_value: Optional[BaseException] = None,
        traceback: Optional[TracebackType] = None,
    ) -> None:
        self._transport.__exit__(exc_type, exc_value, traceback)


class AsyncRefusalAwareTransport(httpx.AsyncBaseTransport):
    """The same for `httpx.AsyncClient`, under asyncio and trio."""

    def __init__(
        self, transport: Optional[httpx.AsyncBaseTransport] = None, *, retries: Optional[Retries] = None
    ) -> None:
        self._transport = httpx.AsyncHTTPTransport() if transport is None else transport
        self._retries = Retries() if retries is None else retries

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        sent = 0
        while True:
            response = await self._transport.handle_async_request(request)
            sent += 1
            pause = _pause_after(self._retries, request, response, sent)
            if pause is None:
                return response
            await response.aclose()
            await anyio.sleep(pause)

    async def aclose(self) -> None:
        await self._transport.aclose()

    async def __aenter__(self) -> AsyncRefusalAwareTransport:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: Optional[Type[BaseException]] = None,
        exc_value: Optional[BaseException] = None,
        traceback: Optional[TracebackType] = None,
    ) -> None:
        await self._transport.__aexit__(exc_type, exc_value, traceback)


def _pause_after(
    retries: Retries, request: httpx.Request, response: httpx.Response, sent: int
) -> Optional[float]:
    # Any other stream can be read only once.
    if not isinstance(request.stream, httpx.ByteStream):
        return None
    return retries.pause_after(request.method, response.status_code, response.headers, sent)
