"""A client of focus-breaker's HTTP routes. This module does not depend on pytest."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Optional, Union

from pytest_focus_breaker.http_request import Response, ask, context_of, now
from pytest_focus_breaker.run_id import focus_headers, test_run_id

# For a whole request, to which the proxy responds within a millisecond.
TIMEOUT_SECONDS = 5.0

_WORDS = {
    "waiting_for_fiber": "waiting for fiber",
    "metadata_unavailable": "metadata unavailable",
    "forced_open": "stopped by a manual override",
}


@dataclass(frozen=True)
class Admitted:
    """A test that needs the fiber can run."""

    state: str
    since: str


@dataclass(frozen=True)
class Refused:
    """The proxy would refuse the test's requests. Times are the proxy's own, as text."""

    status: str
    reason: str
    since: str
    until: Optional[str]
    last_ready_at: Optional[str]

    @property
    def is_momentary(self) -> bool:
        """Whether it ends after a moment: the fiber is connected, and there are only too many requests."""
        return self.status in ("recovering", "overloaded")

    def __str__(self) -> str:
        # No duration: with the same text for all tests of an outage, pytest can combine them into one line.
        words = f"{_WORDS.get(self.status, self.status.replace('_', ' '))} since {self.since}"
        if self.until is not None:
            words += f" until {self.until}"
        words += f" ({self.reason}"
        if self.last_ready_at is not None and self.status != "forced_open":
            words += f"; the fiber was last connected at {self.last_ready_at}"
        return f"{words})"


@dataclass(frozen=True)
class Unreachable:
    """There was no response, or one that is not from focus-breaker."""

    problem: str
    # How long the request took. A refused connection takes a millisecond, a silent proxy the whole timeout.
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"focus-breaker is unreachable: {self.problem}"


Answer = Union[Admitted, Refused, Unreachable]


@dataclass(frozen=True)
class Override:
    """A manual override that is in force at the proxy."""

    state: str
    reason: str
    since: str
    until: str
    by: str

    def __str__(self) -> str:
        return f"{self.state!r}, set by {self.by} at {self.since} until {self.until}: {self.reason}"


class FocusBreakerError(Exception):
    """The proxy did not fulfil a request; the message says what to do."""


class Proxy:
    """Sends requests to the proxy at `url`: without trailing slash, with focus-server's base path if any."""

    def __init__(
        self,
        url: str,
        *,
        insecure: bool = False,
        token: Optional[str] = None,
        authorization: Optional[str] = None,
        interrupts: tuple[type[Exception], ...] = (),
    ) -> None:
        """
        `authorization` is for a gateway in front of the proxy; requests that need the admin token send the
        token instead.

        `interrupts` are exceptions that end the run, raised in a signal handler for instance; they are passed
        on.
        """
        self.url = url
        self._interrupts = interrupts
        self._insecure = insecure
        self._token = token
        self._authorization = authorization
        # Created for the first request: it reads files, and their errors also make the proxy `Unreachable`.
        self._context: Optional[ssl.SSLContext] = None

    @property
    def has_token(self) -> bool:
        return self._token is not None

    def fiber(self) -> Answer:
        """Whether a job could start now. Raises nothing: any failure is `Unreachable`."""
        path = "/-/fiber"
        return self._judged(path, self._sent("GET", path, TIMEOUT_SECONDS))

    def wait(self, seconds: float) -> Optional[Answer]:
        """Like `fiber`, but waits until a job can start; None if the proxy is too old for it."""
        path = f"/-/wait?timeout={max(1, round(seconds * 1000))}ms"
        response = self._sent("GET", path, seconds + TIMEOUT_SECONDS)
        if isinstance(response, Response) and response.code == 404:
            return None
        return self._judged(path, response)

    def refusals(self) -> Optional[int]:
        """How many requests of this test run were refused; None if the proxy does not report it."""
        response = self._sent("GET", f"/-/runs/{test_run_id()}", TIMEOUT_SECONDS)
        if isinstance(response, Unreachable):
            return None
        count = response.json.get("refused") if isinstance(response.json, Mapping) else None
        if isinstance(count, int):
            return count
        # The proxy has not seen a request of the run yet.
        return 0 if response.code == 404 else None

    def current_override(self) -> Optional[Override]:
        """The manual override that is in force now."""
        answer = self._asked("GET", "/-/override")
        override = answer.get("override") if isinstance(answer, Mapping) else None
        return _override(override) if isinstance(override, Mapping) else None

    def force_open(self, reason: str, seconds: int) -> Override:
        """Makes the proxy refuse every guarded request, of all its clients, for so many seconds."""
        body = {"state": "open", "reason": reason, "forSeconds": seconds}
        answer = self._asked("PUT", "/-/override", body)
        if not isinstance(answer, Mapping):
            raise FocusBreakerError(f"the response to PUT {self.url}/-/override is not an override")
        return _override(answer)

    def remove_override(self) -> None:
        """Removes the manual override that is in force, whichever client set it."""
        self._asked("DELETE", "/-/override")

    def _judged(self, path: str, response: Union[Response, Unreachable]) -> Answer:
        if isinstance(response, Unreachable):
            return response
        answer = response.json
        circuit = answer.get("circuit") if isinstance(answer, Mapping) else None
        if not isinstance(circuit, Mapping):
            return Unreachable(self._not_ours(path, response))
        since = shown(circuit.get("since"))
        if response.code == 200:
            return Admitted(state=shown(circuit.get("state")), since=since)
        # The status code of a refusal is an option of the proxy; the body always has this form.
        if not isinstance(answer.get("status"), str):
            return Unreachable(self._not_ours(path, response))
        override = answer.get("override")
        if not isinstance(override, Mapping):
            override = {}
        last_ready_at = answer.get("lastReadyAt")
        return Refused(
            status=shown(answer["status"]),
            reason=shown(answer.get("reason") or answer.get("message") or "no reason given"),
            since=shown(override.get("since") or since),
            until=shown(override["until"]) if "until" in override else None,
            last_ready_at=None if last_ready_at is None else shown(last_ready_at),
        )

    def _not_ours(self, path: str, response: Response) -> str:
        where = f" to {shown(response.location)}" if response.location else ""
        return f"{self.url}{path} responded with {response.code}{where}, but not as focus-breaker does"

    def _asked(self, method: str, path: str, body: Optional[Mapping[str, Any]] = None) -> Any:
        response = self._sent(method, path, TIMEOUT_SECONDS, body=body, as_admin=method != "GET")
        if isinstance(response, Unreachable):
            raise FocusBreakerError(str(response))
        if response.code in (200, 204):
            return response.json
        _fail(f"{method} {self.url}{path}", response)

    def _sent(
        self,
        method: str,
        path: str,
        seconds: float,
        *,
        body: Optional[Mapping[str, Any]] = None,
        as_admin: bool = False,
    ) -> Union[Response, Unreachable]:
        started_at = now()
        headers = {"Accept": "application/json", "User-Agent": "pytest-focus-breaker", **focus_headers()}
        if self._authorization is not None:
            headers["Authorization"] = self._authorization
        if as_admin and self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        try:
            if self._context is None and self.url.startswith("https:"):
                self._context = context_of(insecure=self._insecure)
            return ask(
                method, self.url + path, headers=headers, body=data, seconds=seconds, context=self._context
            )
        except self._interrupts:
            raise
        # Every exception: a host name can raise UnicodeError and an audit hook anything, and none of that may
        # end a session of hundreds of tests.
        except Exception as error:
            return self._problem(path, error, now() - started_at, seconds)

    def _problem(self, path: str, error: Exception, took: float, timeout: float) -> Unreachable:
        # The same class since Python 3.10.
        if isinstance(error, (TimeoutError, socket.timeout)):
            return Unreachable(f"{self.url}{path} did not respond within {timeout:g} s", timeout)
        problem = f"{self.url}{path}: {shown(error).strip() or type(error).__name__}"
        if isinstance(error, ssl.SSLCertVerificationError):
            problem += "; set SSL_CERT_FILE to its authority, or use --focus-breaker-insecure"
        return Unreachable(problem, took)


def _fail(what: str, response: Response) -> NoReturn:
    hints = {
        401: "the admin token does not match the proxy's option admin.token",
        404: "the proxy has no admin.token, so it cannot be changed over HTTP",
        429: "too many attempts with a wrong token",
    }
    message = response.json.get("message") if isinstance(response.json, Mapping) else None
    hint = hints.get(response.code) or shown(message or "no reason given")
    raise FocusBreakerError(f"{what} failed with status {response.code}: {hint}")


def _override(value: Mapping[str, Any]) -> Override:
    state, reason, since, until, by = (
        shown(value.get(name)) for name in ("state", "reason", "since", "until", "by")
    )
    return Override(state, reason, since, until, by)


def shown(value: object) -> str:
    """Makes an external value safe for a terminal: one line, shortened, without control characters."""
    try:
        text = str(value)
    # Deeply nested values, and errors whose `__str__` fails.
    except Exception as error:
        text = type(error).__name__
    return "".join(character if character.isprintable() else " " for character in text)[:300]
