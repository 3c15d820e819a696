"""How the plugin handles any behavior of the server, and patches made by a suite."""

import http.client
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Callable

import pytest
from conftest import admitted

from pytest_focus_breaker import proxy as proxy_module
from pytest_focus_breaker.proxy import Admitted, FocusBreakerError, Proxy, Unreachable

JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
ADMITTED = b'{"circuit": {"state": "closed", "since": "then"}}'

Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A server that reads a request, sends these parts, and then repeats one part if there is one."""
    ended = threading.Event()
    servers: list[socket.socket] = []

    def start(*parts: bytes, forever: bytes = b"", closes: bool = True) -> str:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)

        def answer(connection: socket.socket) -> None:
            with connection:
                try:
                    connection.recv(65_536)
                    for part in parts:
                        connection.sendall(part)
                    while forever and not ended.wait(0.02):
                        connection.sendall(forever)
                    if not closes:
                        ended.wait()
                except OSError:
                    pass

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        return f"http://127.0.0.1:{server.getsockname()[1]}"

    yield start
    ended.set()
    for server in servers:
        server.close()


@pytest.mark.parametrize(
    "parts, forever",
    [
        ([], b""),
        ([b"HTTP/1.1 200 OK\r\nX: "], b"x"),
        ([b"HTTP/1.1 100 Continue\r\n\r\n"], b"HTTP/1.1 100 Continue\r\n\r\n"),
        ([JSON, b"\r\n"], b" "),
        ([JSON, b"Content-Length: 5000000\r\n\r\n"], b" "),
        ([JSON, b"Transfer-Encoding: chunked\r\n\r\n"], b"1\r\n \r\n"),
    ],
)
def test_a_request_has_one_deadline_however_slowly_the_response_arrives(serve, monkeypatch, parts, forever):
    monkeypatch.setattr(proxy_module, "TIMEOUT_SECONDS", 0.3)
    url = serve(*parts, forever=forever, closes=False)
    assert Proxy(url).fiber() == Unreachable(f"{url}/-/fiber did not respond within 0.3 s", 0.3)


def test_an_event_stream_is_not_read_to_its_end(serve):
    url = serve(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", forever=b"data: 1\n\n")
    answer = Proxy(url).fiber()
    assert isinstance(answer, Unreachable)
    assert answer.problem.endswith("responded with 200, but not as focus-breaker does")


@pytest.mark.parametrize(
    "parts",
    [
        [b""],
        [b"\0\1\2\r\n\r\n"],
        [b"SSH-2.0-OpenSSH_9.2\r\n"],
        [b"HTTP/1.1 abc\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 1000 + b"\r\n"],
        [b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"],
        [JSON, b"Transfer-Encoding: chunked\r\n\r\n", b"zz\r\n"],
        [JSON, b"\r\n", b"[" * 60_000],
        [JSON, b"\r\n", b'{"circuit":' * 10_000],
        [JSON, b"\r\n", b"9" * 60_000],
        [JSON, b"\r\n", b"\xff\xfe"],
        [JSON, b"\r\n", b"x" * 1_000_000],
        [JSON, b"Content-Length: 100\r\n\r\n", ADMITTED[:20]],
        [b"HTTP/1.1 503 No\r\nContent-Type: application/json\r\n\r\n", b'{"circuit": {}, "status": 1}'],
    ],
)
def test_any_response_is_a_reason_and_not_an_exception(serve, parts):
    answer = Proxy(serve(*parts)).fiber()
    assert isinstance(answer, Unreachable)
    assert answer.problem.strip()[-1] not in ":"


@pytest.mark.parametrize(
    "url",
    [
        "http://a..b:80",
        f"http://{'a' * 70}.example:80",
        "http://no-such-host.invalid",
        "http://127.0.0.1:1",
        "https://127.0.0.1:1",
        "http://[::1]:1",
        "http://256.256.256.256",
        "http://[fe80::1%25none]:1",
    ],
)
def test_an_unreachable_host_is_a_reason_and_not_an_exception(url):
    answer = Proxy(url).fiber()
    assert isinstance(answer, Unreachable)
    assert answer.problem.startswith(f"{url}/-/fiber")


def test_deeply_nested_values_are_shown_and_not_an_exception(serve):
    body = b'{"circuit": {"state": "closed", "since": ' + b"[" * 900 + b"]" * 900 + b"}}"
    answer = Proxy(serve(JSON, b"\r\n", body)).fiber()
    assert isinstance(answer, Admitted)
    assert len(answer.since) <= 300


@pytest.mark.parametrize(
    "parts",
    [
        [JSON, b"\r\n", ADMITTED],
        [JSON, b"Content-Length: %d\r\n\r\n" % len(ADMITTED), ADMITTED],
        [JSON, b"Transfer-Encoding: chunked\r\n\r\n", b"%x\r\n%b\r\n0\r\n\r\n" % (len(ADMITTED), ADMITTED)],
        [b"HTTP/1.1 100 Continue\r\n\r\n", JSON, b"\r\n", ADMITTED],
        [JSON.replace(b"1.1", b"1.0"), b"\r\n", ADMITTED],
        [bytes([byte]) for byte in JSON + b"\r\n" + ADMITTED],
    ],
)
def test_a_body_is_read_in_every_framing(serve, parts):
    assert Proxy(serve(*parts)).fiber() == Admitted("closed", "then")


def blocked(*_args: object, **_kwargs: object) -> None:
    pytest.fail("a test must not use the network")


class Blocked(socket.socket):
    __init__ = __new__ = blocked  # type: ignore[assignment]


@pytest.mark.parametrize(
    "patched",
    [
        [(socket, "socket", Blocked)],
        [(socket, "create_connection", blocked), (socket, "getaddrinfo", blocked)],
        [(socket.socket, name, blocked) for name in ("connect", "send", "sendall", "recv", "recv_into")],
        [(http.client, "HTTPConnection", blocked), (http.client.HTTPConnection, "request", blocked)],
        [(urllib.request, "urlopen", blocked), (urllib.request, "build_opener", blocked)],
        [(time, "monotonic", lambda: 0.0), (time, "time", lambda: 0.0)],
        [(threading, "Thread", blocked), (threading.Thread, "start", blocked)],
        [(threading, name, blocked) for name in ("Lock", "Event", "Condition", "_start_new_thread")],
    ],
)
def test_patches_of_a_suite_do_not_affect_the_request(monkeypatch, patched):
    # A refused connection, because a server in this process would be patched as well.
    with monkeypatch.context() as patch:
        for target, name, value in patched:
            patch.setattr(target, name, value)
        answer = Proxy("http://localhost:1").fiber()
    assert isinstance(answer, Unreachable) and "refused" in answer.problem


def test_the_proxys_name_is_resolved_if_gevent_patches_threads_after_pytest_started(
    pytester, stub
):
    pytest.importorskip("gevent")
    pytester.makeconftest("from gevent import monkey; monkey.patch_all()")
    pytester.makepyfile("""
        import pytest

        @pytest.mark.needs_fiber
        def test_needs():
            pass
    """)
    stub.answers["/-/fiber"] = [admitted()]
    url = stub.url.replace("127.0.0.1", "localhost")
    pytester.runpytest_subprocess(f"--focus-breaker-url={url}").assert_outcomes(passed=1)


def test_an_unexpected_error_is_a_reason_and_not_an_exception(stub, monkeypatch):
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text either")

    def raise_odd(*_args: object, **_kwargs: object) -> None:
        raise Odd

    monkeypatch.setattr(proxy_module, "ask", raise_odd)
    proxy = Proxy(stub.url)
    assert isinstance(proxy.fiber(), Unreachable)
    assert isinstance(proxy.wait(1), Unreachable)
    with pytest.raises(FocusBreakerError):
        proxy.current_override()


def test_tls_is_verified_and_read_within_the_same_deadline(tmp_path, monkeypatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    try:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
            + ["-subj", "/CN=proxy", "-addext", "subjectAltName=IP:127.0.0.1"]
            + ["-keyout", str(key), "-out", str(certificate)],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    settings = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    settings.load_cert_chain(certificate, key)
    server = socket.create_server(("127.0.0.1", 0))
    stays_silent = threading.Event()

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            try:
                with settings.wrap_socket(connection, server_side=True) as secure:
                    secure.recv(65_536)
                    if not stays_silent.is_set():
                        secure.sendall(JSON + b"\r\n" + ADMITTED + b" " * 40_000)
                    else:
                        stays_silent.wait(1)
                        time.sleep(1)
            except OSError:
                pass

    threading.Thread(target=accept, daemon=True).start()
    url = f"https://127.0.0.1:{server.getsockname()[1]}"
    try:
        distrusted = Proxy(url).fiber()
        assert isinstance(distrusted, Unreachable) and "certificate verify failed" in distrusted.problem
        assert Proxy(url, insecure=True).fiber() == Admitted("closed", "then")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert Proxy(url).fiber() == Admitted("closed", "then")
        monkeypatch.setattr(proxy_module, "TIMEOUT_SECONDS", 0.3)
        stays_silent.set()
        assert Proxy(url).fiber() == Unreachable(f"{url}/-/fiber did not respond within 0.3 s", 0.3)
    finally:
        server.close()
