"""Load tests that wait while focus-breaker refuses, instead of sending configures that it refuses.

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

# Locust first: it lets gevent patch `ssl`, and TLS fails for ever where requests was imported before that.
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
"""The least time between two questions of a process."""

WAIT_SECONDS = 30
"""How long the proxy may hold a question until it admits. Gateways end what takes longer than a minute."""

QUESTION_SECONDS = WAIT_SECONDS + 10.0
"""The time of a whole question, from the name lookup to the last byte."""

MAX_BYTES = 65_536
"""Responses of the proxy have less than 2 KiB."""

ODD_ANSWERS = 3
"""After so many responses in a row that are not focus-breaker's, users go on: a load test has to see what is broken."""

CHECK_SECONDS = 0.5
"""How often a user that waits checks whether the run is over."""

END_CHECKS = 10
"""After so many of these checks in a row a user ends by itself, if Locust has not ended it."""


class FiberAware(_User):
    """A mixin for users of Locust that start jobs through focus-breaker; before `HttpUser` or `FastHttpUser`.

    Before a configure such a user waits for as long as the circuit is open. Then it comes back at a random moment
    of a span that grows with the number of users that wait. The wait is part of no request, so Locust counts no
    failure and no delay. The request that discovers an outage is refused, and does count. Everything else is sent
    as without the mixin, and so are the configures of `on_stop`.
    """

    focus_breaker_url: Optional[str] = None
    """Where focus-breaker answers, with focus-server's prefix if it has one. `FOCUS_BREAKER_URL` outranks it, as
    `--host` outranks `host`. Without both it is `host`."""

    spread_seconds_per_user = 0.05
    """By how much each user that waits extends the span, up to the maximum: 20 users return a second."""

    max_spread_seconds = 10.0

    parked_exit_code: Optional[int] = None
    """Locust's exit code for a run at whose end every user of this mixin was waiting."""

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

        # On the instance, because `get`, `post` and the others of both clients call it.
        def request(method: str, url: str, *args: Any, **kwargs: Any) -> Any:
            if self.needs_fiber(method, url):
                gate.pass_through(self, kwargs.get("verify", getattr(client, "verify", False)))
            response = send(method, url, *args, **kwargs)
            gate.heard(refusal_of(getattr(response, "headers", None)))
            return response

        client.request = request

    def needs_fiber(self, method: str, url: str) -> bool:
        """Whether to wait before this request. Override it where `guard.routes` has other paths."""
        return method.upper() == "POST" and re.search(r"/configure/?(?:[?#]|$)", url) is not None

    def stop(self, force: bool = False) -> bool:
        # From here on there is only `on_stop`, perhaps in greenlets of its own.
        if force or self._state == LOCUST_STATE_WAITING:
            self._killed = True
        stopped: bool = super().stop(force)
        return stopped

    @property
    def is_parked(self) -> bool:
        """Whether the user waits because the proxy refuses, and not only for the first response of the proxy."""
        return self._waits > 0 and self._gate.refuses

    def _is_ending(self) -> bool:
        """Whether Locust runs `on_stop`: it does so while it handles what ended the user."""
        error = sys.exc_info()[1]
        while error is not None:
            if isinstance(error, (gevent.GreenletExit, StopUser)):
                return True
            error = error.__context__
        return self._killed

    def _end_if_over(self, is_overdue: bool) -> None:
        """Ends the current greenlet where the run is over for this user; otherwise nothing would end its wait."""
        if gevent.getcurrent() is not self.greenlet and self.greenlet is not None:
            # Spawned by a task. Locust does not know it.
            if self._is_over():
                raise gevent.GreenletExit()
        # Locust ends the user's own greenlet. If it ended by itself before that, Locust would cut its `on_stop`.
        elif self._state == LOCUST_STATE_STOPPING or (is_overdue and self._is_over()):
            raise StopUser()

    def _is_over(self) -> bool:
        # A single user that is debugged has no runner.
        runner = self.environment.runner
        is_running = runner is None or runner.state in (STATE_SPAWNING, STATE_RUNNING)
        return self._killed or self._state == LOCUST_STATE_STOPPING or not is_running


class _Gate:
    """What this process knows of the circuit of one proxy.

    The users report their responses. While the gate is shut and users wait, one greenlet asks the proxy for all.
    """

    def __init__(self, proxy: Optional[ProxyUrl]) -> None:
        """Without a proxy the gate is always open."""
        self._proxy = proxy
        self._admits = proxy is None
        self._refused_at: Optional[float] = None
        self._waiting = 0
        self._poller: Optional[gevent.Greenlet] = None

    @property
    def refuses(self) -> bool:
        """Whether the last word of the proxy was a refusal."""
        return self._refused_at is not None

    def heard(self, refusal: Optional[str]) -> None:
        """Takes note of a response: why the request was refused, or None."""
        # Overloaded is no outage: the circuit is closed, and a load test looks for that limit.
        if refusal is None or refusal == "overloaded" or self._refused_at is not None or self._proxy is None:
            return
        self._admits = False
        self._refused_at = time.monotonic()
        log.info("focus-breaker refuses (%s): users wait before their next configure", refusal)

    def pass_through(self, user: FiberAware, verify: Union[bool, str]) -> None:
        """Returns when a configure may be sent: at once, or at this user's own moment after the wait."""
        # Again after the pause, because the first users that came back may have been refused.
        while not self._admits and not user._is_ending():
            user._end_if_over(is_overdue=False)
            # As in a wait of Locust's own: the end of the test may end it here.
            user._state = LOCUST_STATE_WAITING
            crowd = self._wait(user, verify)
            spread = min(crowd * user.spread_seconds_per_user, user.max_spread_seconds)
            gevent.sleep(random.uniform(0, spread))
            # Another greenlet of the user may have been the first, and the test may end since.
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
            crowd: int = poller.get()
            return crowd
        finally:
            self._waiting -= 1
            user._waits -= 1
            # No user is left to ask for: the test has ended.
            if self._waiting == 0 and self._poller is poller:
                self._poller = None
                poller.kill(block=False)

    def _poll(self, proxy: ProxyUrl, verify: Union[bool, str]) -> int:
        """Asks until the proxy admits: `/-/fiber`, which answers at once, then `/-/wait` where the proxy has it.

        The first question after a refusal comes after a pause. Otherwise users would go back and forth in a
        recovery.
        """
        if self._refused_at is not None:
            gevent.sleep(POLL_SECONDS)
        path, long_path = "/-/fiber", f"/-/wait?timeout={WAIT_SECONDS}s"
        odd, odd_answers = "", 0
        with requests.Session() as session:
            session.verify = verify
            # As with Locust's own clients, the proxies and the CA bundle of the environment are not used.
            session.trust_env = False
            if proxy.authorization is not None:
                session.headers["Authorization"] = proxy.authorization
            while odd_answers < ODD_ANSWERS:
                asked_at = time.monotonic()
                odd, admits, refusal = self._ask(session, proxy.base, path)
                if admits or refusal == "overloaded":
                    return self._release()
                if refusal is not None:
                    self.heard(refusal)
                    path, odd_answers = long_path, 0
                elif odd == "status 404" and path == long_path:
                    path = long_path = "/-/fiber"
                else:
                    # A server without this route is not focus-breaker, and asking again does not change that.
                    odd_answers += ODD_ANSWERS if odd == "status 404" else 1
                gevent.sleep(max(0.0, POLL_SECONDS - (time.monotonic() - asked_at)))
        log.warning(
            "GET %s says nothing about the circuit (%s): users go on without it. "
            "If focus-breaker is not at %s, set focus_breaker_url",
            path,
            odd,
            proxy.base,
        )
        return self._release()

    def _ask(self, session: requests.Session, base: str, path: str) -> Tuple[str, bool, Optional[str]]:
        """One question: what is odd about the response, whether the proxy admits, and why it refuses."""
        try:
            # One deadline, because the timeouts of requests begin again with each byte.
            with gevent.Timeout(QUESTION_SECONDS):
                with session.get(
                    base + path,
                    headers={"Accept": "application/json"},
                    timeout=QUESTION_SECONDS,
                    allow_redirects=False,
                    stream=True,
                ) as response:
                    refusal = refusal_of(response.headers)
                    if response.status_code != 200:
                        return f"status {response.status_code}", False, refusal
                    text = response.raw.read(MAX_BYTES, decode_content=True)
            # A page that is shown for every path, for instance.
            is_ours = "circuit" in _parsed(text)
            return "status 200, but another body", is_ours, refusal
        except gevent.Timeout:
            return f"no response within {QUESTION_SECONDS:g} s", False, None
        # Not a list of classes: an error here would end every user that waits.
        except Exception as error:
            return type(error).__name__, False, None

    def _release(self) -> int:
        """Opens the gate, and returns the number of users that are released; 0 where there was no outage."""
        crowd, self._admits, self._poller = self._waiting, True, None
        if self._refused_at is None:
            return 0
        seconds, self._refused_at = time.monotonic() - self._refused_at, None
        log.info("focus-breaker admits again after %.0f s: %d users that waited come back", seconds, crowd)
        return crowd


class _Account:
    """How many users of the mixin a run has, and how many of them are parked; the workers report theirs."""

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
        # Before the users are stopped, which ends their waits.
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
        # A listener of the locustfile may have set its own.
        if code is not None and environment.process_exit_code is None:
            environment.process_exit_code = code


def _account_of(environment: Environment) -> _Account:
    account = _accounts.get(environment)
    if account is None:
        account = _accounts[environment] = _Account(environment)
    return account


def _gate_at(text: str) -> _Gate:
    """The gate of the proxy with this URL. It is read as the plugin and the commands read it."""
    gate = _gates.get(text)
    if gate is None:
        proxy: Optional[ProxyUrl] = None
        try:
            proxy = read_url(text)
        # The load test goes on, as where there is no proxy.
        except ValueError as error:
            log.error("the URL of focus-breaker: expected %s, given %s: users go on without it", EXPECTED, error)
        gate = _gates[text] = _Gate(proxy)
    return gate


def _parsed(text: bytes) -> Mapping[str, Any]:
    try:
        body = json.loads(text)
    # Nested too deeply, it is a RecursionError.
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, Mapping) else {}


@locust.events.init.add_listener
def _attach(environment: Environment, **_: Any) -> None:
    # A master has no users, but hears of those of its workers.
    _account_of(environment)


_gates: Dict[str, _Gate] = {}
"""By the URL of the proxy as it was given: users of one process share what they know."""

_accounts: WeakKeyDictionary[Environment, _Account] = WeakKeyDictionary()
"""One for each environment, because its users and the master's listener need the same."""
