"""aiohttp clients that recognize a refusal of focus-breaker.

    aiohttp 3.12 or later:  ClientSession(middlewares=[RefusalAwareMiddleware()])
    any version:            RefusalAwareSession(ClientSession())
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Awaitable, Callable, Generator, Optional, Type, Union, cast

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from .refusal import Retries, refusal_of

__all__ = ["RefusalAwareMiddleware", "RefusalAwareSession", "Retries", "refusal_of"]


class RefusalAwareMiddleware:
    """Retries a request after a 429, 502, 503 or 504, but not after a refusal because of an outage.

    This is a middleware of a `ClientSession`, which aiohttp supports since 3.12. A request whose body can be
    read only once (a generator, a pipe) is not retried.
    """

    def __init__(self, retries: Optional[Retries] = None) -> None:
        self._retries = Retries() if retries is None else retries

    async def __call__(
        self,
        request: aiohttp.ClientRequest,
        handler: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]],
    ) -> aiohttp.ClientResponse:
        sent = 0
        while True:
            response = await handler(request)
            sent += 1
            pause = self._retries.pause_after(request.method, response.status, response.headers, sent)
            if pause is None or getattr(request.body, "consumed", False):
                return response
            response.release()
            await asyncio.sleep(pause)


class RefusalAwareSession:
    """Wraps a `ClientSession` of any version of aiohttp in the same way; has its request methods.

    It is not a subclass, because aiohttp warns about subclasses. Everything else (cookies, `closed`,
    `ws_connect`) is available at `session`. A request is retried only if its body is `json`, bytes, text or a
    dict.
    """

    def __init__(self, session: aiohttp.ClientSession, retries: Optional[Retries] = None) -> None:
        self.session = session
        self._retries = Retries() if retries is None else retries

    def request(self, method: str, url: Union[str, URL], **options: Any) -> RefusalAwareRequest:
        """Like the method of `ClientSession`: await it, or use it in `async with`."""
        return RefusalAwareRequest(self.session, self._retries, method, url, options)

    def get(self, url: Union[str, URL], **options: Any) -> RefusalAwareRequest:
        return self.request("GET", url, **options)

    def head(self, url: Union[str, URL], **options: Any) -> RefusalAwareRequest:
        # The default of aiohttp.
        return self.request("HEAD", url, **{"allow_redirects": False, **options})

    def options(self, url: Union[str, URL], **options: Any) -> RefusalAwareRequest:
        return self.request("OPTIONS", url, **options)

    def post(self, url: Union[str, URL], **options: Any) -> RefusalAwareRequest:
        return self.request("POST", url, **options)

    def put(self, url: Union[str, URL], **options: Any) -> RefusalAwareRequest:
        return self.request("PUT", url, **options)

    def patch(self, url: Union[str, URL], **options: Any) -> RefusalAwareRequest:
        return self.request("PATCH", url, **options)

    def delete(self, url: Union[str, URL], **options: Any) -> RefusalAwareRequest:
        return self.request("DELETE", url, **options)

    async def close(self) -> None:
        """Closes the session."""
        await self.session.close()

    async def __aenter__(self) -> RefusalAwareSession:
        return self

    async def __aexit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc_value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        await self.close()


class RefusalAwareRequest:
    """A request, sent when it is awaited or entered with `async with`, which also releases the response."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        retries: Retries,
        method: str,
        url: Union[str, URL],
        options: Any,
    ) -> None:
        self._session = session
        self._retries = retries
        self._method = method
        self._url = url
        self._options = options
        self._response: Optional[aiohttp.ClientResponse] = None

    def __await__(self) -> Generator[Any, Any, aiohttp.ClientResponse]:
        return self._send().__await__()

    async def __aenter__(self) -> aiohttp.ClientResponse:
        self._response = await self._send()
        return self._response

    async def __aexit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc_value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        if self._response is not None:
            self._response.release()

    async def _send(self) -> aiohttp.ClientResponse:
        sent = 0
        while True:
            response: Optional[aiohttp.ClientResponse] = None
            failure: Optional[aiohttp.ClientResponseError] = None
            try:
                response = await self._session.request(self._method, self._url, **self._options)
                status, headers = response.status, response.headers
            # If the session or the request has `raise_for_status`.
            except aiohttp.ClientResponseError as error:
                failure = error
                status, headers = error.status, cast("CIMultiDictProxy[str]", error.headers)
            sent += 1
            pause = self._retries.pause_after(self._method, status, headers, sent)
            if pause is None or not _can_repeat(self._options.get("data")):
                if response is None:
                    assert failure is not None
                    raise failure
                return response
            if response is not None:
                response.release()
            await asyncio.sleep(pause)


def _can_repeat(data: object) -> bool:
    if isinstance(data, dict):
        return all(isinstance(value, (str, int, float)) for value in data.values())
    return data is None or isinstance(data, (bytes, bytearray, str))
