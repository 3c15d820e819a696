"""Load test users that wait while focus-breaker refuses, instead of sending configures that it refuses.

    class ConfigureUser(FiberAware, HttpUser):
        ...
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple, Union
from weakref import WeakKeyDictionary, WeakSet

# Locust first: it makes gevent patch `ssl`. If requests is imported before that, TLS never works.
import locust  # isort: split

import gevent
import requests
from locust.exception import StopUser
from locust.runners import STATE_RUNNING, STATE_SPAWNING, MasterRunner, WorkerRunner
from locust.user.task import LOCUST_STATE_RUNNING, LOCUST_STATE_STOPPING, LOCUST_STATE_WAITING

from .refusal import refusal_of
from .url import EXPECTED, ProxyUrl, read_url

if TYPE_CHECKING:
    from locust.env import Environment
    from locust.user.users import User as _User
else:
    _User = object

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
"""The minimum time between two requests of a process."""

WAIT_SECONDS = 30
"""How long the proxy may wait with its response. Gateways cut off requests that take longer than a minute."""

REQUEST_SECONDS = WAIT_SECONDS + 10.0
"""The time limit of a whole request, from the name lookup to the last byte."""

MAX_BYTES = 65_536
"""The proxy's responses are smaller than 2 KiB."""

UNEXPECTED_RESPONSES = 3
"""After this many unexpected responses in a row users continue: a load test must show what is broken."""

CHECK_SECONDS = 0.5
"""How often a waiting user checks whether the run has ended."""

END_CHECKS = 10
"""After this many such checks in a row a user ends itself if Locust has not ended it."""


class FiberAware(_User):
    """A mixin for users of Locust that start jobs through focus-breaker; before `HttpUser` or `FastHttpUser`.

    Before a configure such a user waits while the circuit is open. Then it resumes at a random moment within
    a period that grows with the number of waiting users. The wait is not part of a request, so Locust counts
    no failure and no delay. The request that discovers an outage is refused and counts as a failure.
    Everything else is sent as without the mixin, including the configures of `on_stop`.
    """

    focus_breaker_url: Optional[str] = None
    """The URL of focus-breaker, with focus-server's prefix if it has one. The default is `host`.

    `FOCUS_BREAKER_URL` overrides it, like `--host` overrides `host`."""

    spread_seconds_per_user = 0.05
    """How much each waiting user extends the period, up to the maximum: 20 users resume per second."""

    max_spread_seconds = 10.0

    parked_exit_code: Optional[int] = None
    """Locust's exit code if every user of this mixin was waiting when the run ended."""

    client: Any

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._waits = 0
        self._killed = False
        _account_of(environment).add(self)
        client = self.client
        send = client.request
        self._gate = gate = _gate_at(
            os.environ.get("FOCUS_BREAKER_URL", "").strip() or self.focus_breaker_url or str(self.host)
        )

        # On the instance, because `get`, `post` and the other methods of both clients call it.
        def request(method: str, url: str, *args: Any, **kwargs: Any) -> Any:
            if self.needs_fiber(method, url):
                gate.pass_through(self, kwargs.get("verify", getattr(client, "verify", False)))
            response = send(method, url, *args, **kwargs)
            gate.heard(refusal_of(getattr(response, "headers", None)))
            return response

        client.request = request

    def needs_fiber(self, method: str, url: str) -> bool:
        """Whether to wait before this request. Override it if `guard.routes` has other paths."""
        return method.upper() == "POST" and re.search(r"/configure/?(?:[?#]|$)", url) is not None

    def stop(self, force: bool = False) -> bool:
        # From here on only `on_stop` runs, possibly in separate greenlets.
        if force or self._state == LOCUST_STATE_WAITING:
            self._killed = True
        stopped: bool = super().stop(force)
        return stopped

    @property
    def is_parked(self) -> bool:
        """Whether the user waits because the proxy refuses, not only for the proxy's first response."""
        return self._waits > 0 and self._gate.refuses

    def _is_ending(self) -> bool:
        """Whether Locust runs `on_stop`, which it does while it handles the exception that ended the user."""
        error = sys.exc_info()[1]
        while error is not None:
            if isinstance(error, (gevent.GreenletExit, StopUser)):
                return True
            error = error.__context__
        return self._killed

    def _end_if_over(self, is_overdue: bool) -> None:
        """Ends the current greenlet if the run has ended for this user; nothing else would end its wait."""
        if gevent.getcurrent() is not self.greenlet and self.greenlet is not None:
            # A task spawned this greenlet, so Locust does not know it.
            if self._is_over():
                raise gevent.GreenletExit()
        # Locust ends the user's own greenlet. If the greenlet ended earlier, Locust would cut off its
        # `on_stop`.
        elif self._state == LOCUST_STATE_STOPPING or (is_overdue and self._is_over()):
            raise StopUser()

    def _is_over(self) -> bool:
        # A single user that is being debugged has no runner.
        runner = self.environment.runner
        is_running = runner is None or runner.state in (STATE_SPAWNING, STATE_RUNNING)
        return self._killed or self._state == LOCUST_STATE_STOPPING or not is_running


class _Gate:
    """What this process knows about the circuit of one proxy.

    The users report their responses. While the gate is closed and users wait, one greenlet asks the proxy for
    all of them.
    """

    def __init__(self, proxy: Optional[ProxyUrl]) -> None:
        """Creates the gate; without a proxy it is always open."""
        self._proxy = proxy
        self._admits = proxy is None
        self._refused_at: Optional[float] = None
        self._waiting = 0
        self._poller: Optional[gevent.Greenlet] = None

    @property
    def refuses(self) -> bool:
        """Whether the proxy's last answer was a refusal."""
        return self._refused_at is not None

    def heard(self, refusal: Optional[str]) -> None:
        """Records a response: the reason of a refusal, or None."""
        # `overloaded` is not an outage: the circuit is closed, and finding this limit is the purpose of a
        # load test.
        if refusal is None or refusal == "overloaded" or self._refused_at is not None or self._proxy is None:
            return
        self._admits = False
        self._refused_at = time.monotonic()
        log.info("focus-breaker refuses (%s): users wait before their next configure", refusal)

    def pass_through(self, user: FiberAware, verify: Union[bool, str]) -> None:
        """Returns when a configure may be sent: at once, or at this user's random moment after the wait."""
        # Check again after the pause, because the first users that resumed may have been refused.
        while not self._admits and not user._is_ending():
            user._end_if_over(is_overdue=False)
            # As in Locust's own waits: the end of the test may end the user here.
            user._state = LOCUST_STATE_WAITING
            released = self._wait(user, verify)
            spread = min(released * user.spread_seconds_per_user, user.max_spread_seconds)
            gevent.sleep(random.uniform(0, spread))
            # Another greenlet of the user may have done this already, or the test may be ending.
            if user._state == LOCUST_STATE_WAITING:
                user._state = LOCUST_STATE_RUNNING

    def _wait(self, user: FiberAware, verify: Union[bool, str]) -> int:
        """Waits for the poller, and returns the number of users that are released together."""
        if self._poller is None:
            assert self._proxy is not None
            self._poller = gevent.spawn(self._poll, self._proxy, verify)
        poller = self._poller
        self._waiting += 1
        user._waits += 1
        try:
            checks_after_end = 0
            while not poller.ready():
                poller.join(timeout=CHECK_SECONDS)
                checks_after_end = checks_after_end + 1 if user._is_over() else 0
                user._end_if_over(is_overdue=checks_after_end > END_CHECKS)
            released: int = poller.get()
            return released
        finally:
            self._waiting -= 1
            user._waits -= 1
            # No user is waiting any more: the test has ended.
            if self._waiting == 0 and self._poller is poller:
                self._poller = None
                poller.kill(block=False)

    def _poll(self, proxy: ProxyUrl, verify: Union[bool, str]) -> int:
        """Asks until the proxy admits: `/-/fiber`, which responds at once, then `/-/wait` if there is one.

        The first request after a refusal is sent after a pause. Otherwise users would resume and wait
        repeatedly during a recovery.
        """
        if self._refused_at is not None:
            gevent.sleep(POLL_SECONDS)
        path, long_path = "/-/fiber", f"/-/wait?timeout={WAIT_SECONDS}s"
        odd, unexpected = "", 0
        with requests.Session() as session:
            session.verify = verify
            # Like Locust's own clients, do not use the proxies and the CA bundle of the environment.
            session.trust_env = False
            if proxy.authorization is not None:
                session.headers["Authorization"] = proxy.authorization
            while unexpected < UNEXPECTED_RESPONSES:
                asked_at = time.monotonic()
                odd, admits, refusal = self._ask(session, proxy.base, path)
                if admits or refusal == "overloaded":
                    return self._release()
                if refusal is not None:
                    self.heard(refusal)
                    path, unexpected = long_path, 0
                elif odd == "status 404" and path == long_path:
                    path = long_path = "/-/fiber"
                else:
                    # A server without this route is not focus-breaker, and another request does not change
                    # that.
                    unexpected += UNEXPECTED_RESPONSES if odd == "status 404" else 1
                gevent.sleep(max(0.0, POLL_SECONDS - (time.monotonic() - asked_at)))
        log.warning(
            "GET %s does not return the state of the circuit (%s): users continue without focus-breaker. "
            "If it is not at %s, set focus_breaker_url",
            path,
            odd,
            proxy.base,
        )
        return self._release()

    def _ask(self, session: requests.Session, base: str, path: str) -> Tuple[str, bool, Optional[str]]:
        """Asks once. Returns what was unexpected, whether the proxy admits, and why it refuses."""
        try:
            # A single deadline, because the timeouts of requests start again with each byte.
            with gevent.Timeout(REQUEST_SECONDS):
                with session.get(
                    base + path,
                    headers={"Accept": "application/json"},
                    timeout=REQUEST_SECONDS,
                    allow_redirects=False,
                    stream=True,
                ) as response:
                    refusal = refusal_of(response.headers)
                    if response.status_code != 200:
                        return f"status {response.status_code}", False, refusal
                    text = response.raw.read(MAX_BYTES, decode_content=True)
            # Otherwise it may be a page that is served for every path.
            is_ours = "circuit" in _parsed(text)
            return "status 200, unexpected body", is_ours, refusal
        except gevent.Timeout:
            return f"no response within {REQUEST_SECONDS:g} s", False, None
        # Every exception: one that is not caught would end all waiting users.
        except Exception as error:
            return type(error).__name__, False, None

    def _release(self) -> int:
        """Opens the gate and returns the number of released users; 0 if there was no outage."""
        released, self._admits, self._poller = self._waiting, True, None
        if self._refused_at is None:
            return 0
        seconds, self._refused_at = time.monotonic() - self._refused_at, None
        log.info("focus-breaker admits again after %.0f s: %d waiting users resume", seconds, released)
        return released


class _Account:
    """Counts the users of the mixin in a run, and how many of them are parked; the workers report theirs."""

    REPORT = "focus_breaker"

    def __init__(self, environment: Environment) -> None:
        self._users: WeakSet[FiberAware] = WeakSet()
        self._at_end: Optional[Tuple[int, int]] = None
        self._of_workers: Dict[str, Tuple[int, int]] = {}
        events = environment.events
        events.test_start.add_listener(self._begin)
        events.test_stopping.add_listener(self._stop)
        events.report_to_master.add_listener(self._report)
        events.worker_report.add_listener(self._hear)
        events.quitting.add_listener(self._quit)

    def add(self, user: FiberAware) -> None:
        self._users.add(user)

    def _begin(self, **_: Any) -> None:
        self._at_end = None
        self._of_workers.clear()

    def _stop(self, **_: Any) -> None:
        # Count before the users are stopped, which ends their waits.
        if self._at_end is None:
            self._at_end = self._now()

    def _now(self) -> Tuple[int, int]:
        alive = [user for user in self._users if user.greenlet is not None and not user.greenlet.ready()]
        return len(alive), sum(user.is_parked for user in alive)

    def _report(self, data: Dict[str, Any], **_: Any) -> None:
        data[self.REPORT] = self._at_end or self._now()

    def _hear(self, client_id: str, data: Mapping[str, Any], **_: Any) -> None:
        # A worker with another version of this package reports something else, or nothing.
        try:
            users, parked = data[self.REPORT]
            self._of_workers[client_id] = (int(users), int(parked))
        except (KeyError, TypeError, ValueError):
            return

    def _quit(self, environment: Environment, **_: Any) -> None:
        runner = environment.runner
        if isinstance(runner, WorkerRunner):
            return
        counts = [self._at_end or self._now()]
        if isinstance(runner, MasterRunner):
            counts = list(self._of_workers.values())
        users, parked = (sum(count) for count in zip(*counts)) if counts else (0, 0)
        codes = [getattr(user_class, "parked_exit_code", None) for user_class in environment.user_classes]
        code = next((code for code in codes if code is not None), None)
        if users == 0 or parked < users:
            return
        log.warning("the run ended while all %d users that need the fiber were waiting for it", users)
        # A listener in the locustfile may have set another one.
        if code is not None and environment.process_exit_code is None:
            environment.process_exit_code = code


def _account_of(environment: Environment) -> _Account:
    account = _accounts.get(environment)
    if account is None:
        account = _accounts[environment] = _Account(environment)
    return account


def _gate_at(text: str) -> _Gate:
    """Returns the gate of the proxy with this URL, which is parsed as in the plugin and the commands."""
    gate = _gates.get(text)
    if gate is None:
        proxy: Optional[ProxyUrl] = None
        try:
            proxy = read_url(text)
        # The load test continues as if there were no proxy.
        except ValueError as error:
            message = "the URL of focus-breaker: expected %s, given %s: users continue without focus-breaker"
            log.error(message, EXPECTED, error)
        gate = _gates[text] = _Gate(proxy)
    return gate


def _parsed(text: bytes) -> Mapping[str, Any]:
    try:
        body = json.loads(text)
    # Deep nesting raises a RecursionError.
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, Mapping) else {}


@locust.events.init.add_listener
def _attach(environment: Environment, **_: Any) -> None:
    # A master has no users, but receives the counts of its workers.
    _account_of(environment)


_gates: Dict[str, _Gate] = {}
"""The gates by the URL of the proxy as it was given: the users of a process share them."""

_accounts: WeakKeyDictionary[Environment, _Account] = WeakKeyDictionary()
"""One per environment, because its users and the master's listener need the same one."""
