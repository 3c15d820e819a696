"""What counts as a refusal, and when a request is retried; test/clients tests the clients."""

import sys
from datetime import datetime, timedelta, timezone
from email.message import Message
from email.utils import format_datetime
from typing import Any, Optional, Union

import pytest

from pytest_focus_breaker.refusal import Retries, refusal_of, retry_after_of

REFUSED = "focus-breaker; error=destination_unavailable"
OUTAGE = f'{REFUSED}; details="waiting for fiber"'


class Pairs:
    """Headers with a useless `get`, as in some libraries."""

    def __init__(self, *pairs: Any) -> None:
        self._pairs = pairs

    def items(self) -> Any:
        return iter(self._pairs)


def message(*pairs: tuple[str, str]) -> Message:
    headers = Message()
    for name, value in pairs:
        headers[name] = value
    return headers


@pytest.mark.parametrize(
    "headers",
    [
        {"Proxy-Status": OUTAGE},
        {"proxy-status": OUTAGE},
        {"PROXY-STATUS": OUTAGE},
        message(("Proxy-Status", "ingress.example"), ("proxy-status", OUTAGE)),
        Pairs(("Proxy-Status", "ingress.example"), ("Proxy-Status", OUTAGE)),
        Pairs(("Proxy-Status", OUTAGE), ("Proxy-Status", 'ingress.example; details="a, b"')),
        # Names and values of a mock that are not text are ignored.
        Pairs((b"proxy-status", b"x"), ("Proxy-Status", None), (1, 2), ("Proxy-Status", OUTAGE)),
    ],
)
def test_a_refusal_is_recognized_in_the_headers_of_every_library(headers: Any) -> None:
    assert refusal_of(headers) == "waiting for fiber"


@pytest.mark.parametrize("headers", [None, {}, {"Proxy-Status": ""}, {"Proxy-Status": 'a; details="'}])
def test_other_headers_are_not_a_refusal(headers: Any) -> None:
    assert refusal_of(headers) is None


def http_date(seconds: float) -> str:
    return format_datetime(datetime.now(timezone.utc) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("0", 0, 0),
        (" 5 ", 5, 5),
        # Counted from now: the test may run long after collection.
        (90, 60, 90),
        (-90, 0, 0),
        ("Wed, 21 Oct 2015 07:28:00 -0000", 0, 0),
    ],
)
def test_retry_after_is_a_number_or_a_date(value: Union[str, int], least: float, most: float) -> None:
    seconds = retry_after_of({"Retry-After": http_date(value) if isinstance(value, int) else value})
    assert seconds is not None and least <= seconds <= most


@pytest.mark.parametrize("value", ["", "-1", "1.5", "soon", "9" * 400, "Xxx, 99 Xxx 0000 00:00:00 GMT", "１"])
def test_an_invalid_retry_after_is_ignored(value: str) -> None:
    assert retry_after_of({"Retry-After": value}) is None


@pytest.mark.parametrize("method", ["GET", "get", "PUT", "POST", "PATCH"])
@pytest.mark.parametrize("status", [200, 404, 409, 500, 502, 503])
@pytest.mark.parametrize("reason", [None, "waiting for fiber", "recovering", "overloaded"])
@pytest.mark.parametrize("sent", [1, 3, 4])
def test_which_requests_are_retried(method: str, status: int, reason: Optional[str], sent: int) -> None:
    headers = {} if reason is None else {"Proxy-Status": f'{REFUSED}; details="{reason}"'}
    pause = Retries(total=3, backoff_seconds=1).pause_after(method, status, headers, sent)
    is_repeated = reason in ("recovering", "overloaded") or (
        reason is None and status in (502, 503) and method in ("GET", "get", "PUT")
    )
    # The pause doubles.
    assert pause == (2.0 ** (sent - 1) if is_repeated and sent <= 3 else None)


def test_the_server_sets_the_pause_and_the_client_its_maximum() -> None:
    retries = Retries(max_pause_seconds=10)
    assert retries.pause_after("GET", 503, {"Retry-After": "7"}, 1) == 7
    assert retries.pause_after("GET", 503, {"Retry-After": "11"}, 1) is None
    assert Retries(total=99, max_pause_seconds=10).pause_after("GET", 503, {}, 99) == 10
    assert Retries(total=10_000).pause_after("GET", 503, {}, 9_999) == 60
    assert Retries(total=0).pause_after("GET", 503, {}, 1) is None
    assert Retries(methods=None).pause_after("POST", 503, {}, 1) == 1


def test_the_core_imports_only_the_standard_library() -> None:
    import subprocess

    script = (
        "import sys; before = set(sys.modules); import pytest_focus_breaker.refusal; "
        "print(*(set(sys.modules) - before))"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    known = {*sys.stdlib_module_names, "pytest_focus_breaker"} if sys.version_info >= (3, 10) else None
    if known is not None:
        assert {name.split(".")[0] for name in said.split()} <= known
