"""A fake focus-breaker, for responses that the real one cannot be made to send; test/clients uses the real one."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable

import pytest

pytest_plugins = ["pytester"]

SINCE = "2026-11-23T18:05:20.524Z"


def admitted(state: str = "closed", since: str = SINCE) -> tuple[int, Any]:
    circuit = {"state": state, "since": since}
    return 200, {"admits": True, "message": "admitted", "circuit": circuit, "observedAt": since}


def refused(status: str = "waiting_for_fiber", code: int = 503, **others: Any) -> tuple[int, Any]:
    body = {
        "error": "Cannot configure job",
        "message": "a message",
        "status": status,
        "reason": "a reason",
        "forwarded": False,
        "circuit": {"state": "open", "since": SINCE},
        "lastReadyAt": None,
    }
    return code, {**body, **others}


class Stub:
    """Responds to each path with the next of its `answers`, then always with the last; to any other path with 404."""

    def __init__(self) -> None:
        self.answers: dict[str, list[tuple[int, Any]]] = {}
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.delay_seconds = 0.0
        self.url = ""

    def answer(self, path: str) -> tuple[int, Any]:
        answers = self.answers.get(path, [(404, {"message": "no such route"})])
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.fixture
def stub() -> Iterator[Stub]:
    state = Stub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            state.asked.append(path)
            state.headers.append(dict(self.headers.items()))
            time.sleep(state.delay_seconds)
            code, body = state.answer(path)
            self.send_response(code)
            is_text = isinstance(body, str)
            if is_text and code in (301, 302, 307, 308):
                self.send_header("Location", body)
            self.send_header("Content-Type", "text/html" if is_text else "application/json")
            self.end_headers()
            # A client that has given up does not fail the test.
            with suppress(OSError):
                self.wfile.write((body if is_text else json.dumps(body)).encode())

        def log_message(self, *_args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def without_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "ADMIN_TOKEN", "TEST_RUN"):
        monkeypatch.delenv(f"FOCUS_BREAKER_{name}", raising=False)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)


@pytest.fixture(autouse=True)
def without_other_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other installed plugins must not affect these tests."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "pytest_focus_breaker.plugin")


@pytest.fixture
def run(pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """Runs pytest in this process, so that patches made here apply there."""
    return lambda *args: pytester.runpytest_inprocess("-p", "no:cacheprovider", *args)
