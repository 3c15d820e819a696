"""Sends requests with a client of httpx or aiohttp, one after another.

    PYTHONPATH=clients/python/src python3 test/clients/scripts/http_library.py CLIENT < requests.json

The requests are a JSON list of {url, method, body?, generator?, raises?, everyMethod?}. The result is a JSON list on
stdout: status, body and refusal of each response, or the class of the error, and the duration in seconds.
"""

import asyncio
import json
import sys
import time
import warnings
from typing import Any, AsyncIterator, Dict, Iterator

client_name = sys.argv[1]
wanted = json.load(sys.stdin)

HEADERS = {"Content-Type": "application/json"}


def retries_of(request: Dict[str, Any]) -> Any:
    from pytest_focus_breaker.refusal import IDEMPOTENT, Retries

    methods = None if request.get("everyMethod") else IDEMPOTENT
    return Retries(backoff_seconds=0.01, max_pause_seconds=5, methods=methods)


def content_of(request: Dict[str, Any]) -> Any:
    body = request.get("body")
    return None if body is None else body.encode()


def in_parts(content: bytes) -> Iterator[bytes]:
    yield content


async def in_parts_later(content: bytes) -> AsyncIterator[bytes]:
    yield content


def report(status: int, text: str, headers: Any) -> Dict[str, Any]:
    from pytest_focus_breaker.refusal import refusal_of

    return {"status": status, "text": text, "refusal": refusal_of(headers)}


def with_httpx(request: Dict[str, Any]) -> Dict[str, Any]:
    import httpx

    from pytest_focus_breaker.httpx import RefusalAwareTransport

    own = httpx.HTTPTransport()
    transport = own if client_name == "httpx unchanged" else RefusalAwareTransport(own, retries=retries_of(request))
    content = content_of(request)
    with httpx.Client(transport=transport, timeout=30) as client:
        response = client.request(
            request["method"],
            request["url"],
            headers=HEADERS,
            content=in_parts(content) if request.get("generator") else content,
        )
        try:
            if request.get("raises"):
                response.raise_for_status()
        except httpx.HTTPStatusError as error:
            return {"error": type(error).__name__, "refusal": report(0, "", error.response.headers)["refusal"]}
        return report(response.status_code, response.text, response.headers)


async def with_httpx_later(request: Dict[str, Any]) -> Dict[str, Any]:
    import httpx

    from pytest_focus_breaker.httpx import AsyncRefusalAwareTransport

    content = content_of(request)
    transport = AsyncRefusalAwareTransport(retries=retries_of(request))
    async with httpx.AsyncClient(transport=transport, timeout=30) as client:
        response = await client.request(
            request["method"],
            request["url"],
            headers=HEADERS,
            content=in_parts_later(content) if request.get("generator") else content,
        )
        try:
            if request.get("raises"):
                response.raise_for_status()
        except httpx.HTTPStatusError as error:
            return {"error": type(error).__name__, "refusal": report(0, "", error.response.headers)["refusal"]}
        return report(response.status_code, response.text, response.headers)


async def with_aiohttp(request: Dict[str, Any]) -> Dict[str, Any]:
    import aiohttp

    from pytest_focus_breaker.aiohttp import RefusalAwareMiddleware, RefusalAwareSession

    options: Any = {"raise_for_status": bool(request.get("raises"))}
    if client_name == "aiohttp, middleware":
        options["middlewares"] = [RefusalAwareMiddleware(retries_of(request))]
    async with aiohttp.ClientSession(**options) as session:
        client: Any = session
        if client_name == "aiohttp, session":
            client = RefusalAwareSession(session, retries_of(request))
        content = content_of(request)
        data = in_parts_later(content) if request.get("generator") else content
        try:
            async with client.request(
                request["method"], request["url"], headers=HEADERS, data=data
            ) as response:
                return report(response.status, await response.text(), response.headers)
        except aiohttp.ClientResponseError as error:
            return {"error": type(error).__name__, "refusal": report(0, "", error.headers)["refusal"]}


def answer(request: Dict[str, Any]) -> Dict[str, Any]:
    started_at = time.monotonic()
    if client_name.startswith("aiohttp"):
        answered = asyncio.run(with_aiohttp(request))
    elif client_name == "httpx, asyncio":
        answered = asyncio.run(with_httpx_later(request))
    elif client_name == "httpx, trio":
        import trio

        answered = trio.run(with_httpx_later, request)
    else:
        answered = with_httpx(request)
    return {**answered, "seconds": time.monotonic() - started_at}


# For example, a response that is not closed.
warnings.simplefilter("error", ResourceWarning)
json.dump([answer(request) for request in wanted], sys.stdout)
