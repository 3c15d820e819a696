"""One HTTP request with one deadline. It is not affected by a test suite that patches or blocks sockets."""

from __future__ import annotations

import _socket
import _thread
import io
import json
import os
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import Any, Callable, Optional, Union, cast
from urllib.parse import urlsplit

# The proxy's responses are smaller than 2 KiB; a page of megabytes is not one of them.
MAX_BYTES = 65_536

_CHUNK_BYTES = 16_384


class _Early:
    """
    The system functions that a request uses, stored when pytest loads the plugin, before a suite can patch
    them.

    They are attributes of a class, because freezegun replaces clock functions in the globals of modules.
    `_socket.socket` is the base type of `socket.socket`: VCR.py, HTTPretty, pytest-socket and a monkeypatched
    `socket.socket.connect` change only the subclass; the base type cannot be changed.
    """

    now = staticmethod(time.monotonic)
    make_socket = _socket.socket
    addresses = staticmethod(_socket.getaddrinfo)
    # `threading.Thread` uses parts that a suite may patch later, as gevent does in a conftest.
    start_thread = staticmethod(_thread.start_new_thread)
    make_lock = staticmethod(_thread.allocate_lock)
    make_context = staticmethod(ssl.create_default_context)
    memory = ssl.MemoryBIO


def now() -> float:
    """Seconds of a clock that no test has frozen."""
    return _Early.now()


class Deadline:
    """The deadline of a whole request: name lookup, connection, TLS, head and body of the response."""

    def __init__(self, seconds: float) -> None:
        self._ends_at = now() + seconds

    def left(self) -> float:
        """Returns the seconds left; raises a TimeoutError if there are none."""
        left = self._ends_at - now()
        if left <= 0:
            raise TimeoutError
        return left


@dataclass(frozen=True)
class Response:
    """A response of any server. `json` is None if the body is not JSON."""

    code: int
    location: Optional[str]
    json: Any


def ask(
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    body: Optional[bytes],
    seconds: float,
    context: Optional[ssl.SSLContext],
) -> Response:
    """
    Sends one request and reads its response, within `seconds` in total. Does not follow redirects.

    Raises any error; a missed deadline is a TimeoutError.
    """
    deadline = Deadline(seconds)
    parts = urlsplit(url)
    host = parts.hostname or ""
    is_tls = parts.scheme == "https"
    connection = _connect(host, parts.port or (443 if is_tls else 80), deadline)
    try:
        stream: Union[_Plain, _Tls]
        stream = plain = _Plain(connection, deadline)
        if is_tls:
            stream = _Tls(plain, context or _Early.make_context(), host)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        stream.send(_head(method, target, parts.netloc, headers, body) + (body or b""))
        # It only calls `makefile` of its socket.
        response = HTTPResponse(cast(socket.socket, _File(stream)), method=method)
        response.begin()
        # An event stream never ends, and an HTML page is not from the proxy.
        is_json = "json" in response.headers.get("Content-Type", "").lower()
        text = response.read(MAX_BYTES) if is_json else b""
        return Response(response.status, response.headers.get("Location"), _parsed(text))
    finally:
        connection.close()


# In the order that requests uses. requests ignores SSL_CERT_FILE, and OpenSSL uses only that one.
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


def ca_bundle() -> Optional[str]:
    """The file or folder of certificate authorities that the environment names."""
    return next((os.environ[name] for name in _BUNDLES if os.environ.get(name)), None)


def context_of(*, insecure: bool) -> ssl.SSLContext:
    """The TLS settings of a request; `insecure` accepts any certificate."""
    context = _Early.make_context()
    bundle = ca_bundle()
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif bundle is not None:
        is_folder = os.path.isdir(bundle)
        context.load_verify_locations(**{"capath" if is_folder else "cafile": bundle})
    return context


def _head(
    method: str, target: str, authority: str, headers: Mapping[str, str], body: Optional[bytes]
) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {authority}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def _connect(host: str, port: int, deadline: Deadline) -> _socket.socket:
    addresses = _resolve(host, port, deadline)
    problem: Optional[OSError] = None
    for index, (family, kind, protocol, _, address) in enumerate(addresses):
        connection = _Early.make_socket(family, kind, protocol)
        try:
            # An address that does not respond leaves time for the others.
            connection.settimeout(deadline.left() / (len(addresses) - index))
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            problem = error
        except BaseException:
            connection.close()
            raise
    raise problem or OSError(f"{host} has no address")


def _resolve(host: str, port: int, deadline: Deadline) -> list[Any]:
    """The addresses of the host. The resolver has no timeout, so a thread waits for it."""
    try:
        return _Early.addresses(host, port, 0, _socket.SOCK_STREAM, 0, _socket.AI_NUMERICHOST)
    except OSError:
        pass
    found: list[Any] = []
    problems: list[BaseException] = []
    running = _Early.make_lock()

    def resolve() -> None:
        try:
            found.extend(_Early.addresses(host, port, 0, _socket.SOCK_STREAM))
        # Any exception is raised again in the calling thread.
        except BaseException as error:
            problems.append(error)
        finally:
            running.release()

    running.acquire()
    # It does not keep the process alive.
    _Early.start_thread(resolve, ())
    if not running.acquire(True, deadline.left()):
        raise TimeoutError
    if problems:
        raise problems[0]
    return found


class _Plain:
    """The bytes of a connection; every wait ends at the deadline."""

    def __init__(self, connection: _socket.socket, deadline: Deadline) -> None:
        self._connection = connection
        self._deadline = deadline

    def send(self, data: bytes) -> None:
        while data:
            self._connection.settimeout(self._deadline.left())
            data = data[self._connection.send(data) :]

    def receive(self) -> bytes:
        self._connection.settimeout(self._deadline.left())
        return self._connection.recv(_CHUNK_BYTES)


class _Tls:
    """TLS over a plain connection, in memory: `SSLContext.wrap_socket` would need a `socket.socket`."""

    def __init__(self, below: _Plain, context: ssl.SSLContext, host: str) -> None:
        self._below = below
        self._incoming = _Early.memory()
        self._outgoing = _Early.memory()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._moved(self._tls.do_handshake)

    def send(self, data: bytes) -> None:
        while data:
            part = data
            data = data[self._moved(lambda: self._tls.write(part)) :]

    def receive(self) -> bytes:
        try:
            data: bytes = self._moved(lambda: self._tls.read(_CHUNK_BYTES))
            return data
        # Both mean the end of the response; its length shows whether it is complete.
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def _moved(self, step: Callable[[], Any]) -> Any:
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self._flush()
                data = self._below.receive()
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            else:
                self._flush()
                return result

    def _flush(self) -> None:
        self._below.send(self._outgoing.read())


class _File(io.RawIOBase):
    """A stream as the file that `HTTPResponse` reads from."""

    def __init__(self, stream: Union[_Plain, _Tls]) -> None:
        self._stream = stream
        self._rest = b""

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = self._stream.receive()
        part, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    # Deep nesting raises a RecursionError.
    except (ValueError, RecursionError):
        return None
