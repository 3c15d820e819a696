"""Load tests that wait while focus-breaker refuses, in place of storming it.

    class ConfigureUser(FiberAware, HttpUser):
        ...
"""

from __future__ import annotations

import logging
import random
import re
import time
from typing import TYPE_CHECKING, Any, Dict, Optional, Union

import gevent
import requests
from locust.exception import StopUser
from locust.user.task import LOCUST_STATE_RUNNING, LOCUST_STATE_STOPPING, LOCUST_STATE_WAITING

from .retry import refusal_of

if TYPE_CHECKING:
    from locust.env import Environment
    from locust.user.users import User as _User
else:
    _User = object

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
"""The least time from one question of a process to its next."""

WAIT_SECONDS = 30
"""How long the proxy may hold a question until it admits; gateways cut what takes longer than a minute."""

ODD_ANSWERS = 3
"""After so many in a row that tell nothing users go on: a load test has to see what is broken."""


class FiberAware(_User):
    """A mixin for users of Locust that start jobs by focus-breaker; before `HttpUser` or `FastHttpUser`.

    Before a configure such a user waits for as long as the circuit is open, and comes back at a random
    moment of a span that grows with the crowd. The wait is part of no request: Locust counts neither failure
    nor delay. What discovers the outage is a request that was refused, and that does count. The rest is sent
    as ever.
    """

    spread_seconds_per_user = 0.05
    """How much longer the span becomes with each user that waits, up to the maximum: 20 return a second."""

    max_spread_seconds = 10.0

    client: Any

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        client = self.client
        send = client.request
        proxy = str(self.host).rstrip("/")
        gate = _gates.setdefault(proxy, _Gate(proxy))

        # On the instance: get, post and the others of both clients come by here.
        def request(method: str, url: str, *args: Any, **kwargs: Any) -> Any:
            if self.needs_fiber(method, url):
                gate.pass_through(self, kwargs.get("verify", getattr(client, "verify", False)))
            response = send(method, url, *args, **kwargs)
            gate.heard(refusal_of(getattr(response, "headers", None)))
            return response

        client.request = request

    def needs_fiber(self, method: str, url: str) -> bool:
        """Whether to wait before this request. To be overridden where `guard.routes` names others."""
        return method.upper() == "POST" and re.search(r"/configure/?(?:[?#]|$)", url) is not None


class _Gate:
    """What this process knows of the circuit of one proxy.

    The users tell it what they were answered. While it is shut and somebody waits, one greenlet asks for all.
    """

    def __init__(self, proxy: str) -> None:
        self._proxy = proxy
        self._admits = False
        self._refused_at: Optional[float] = None
        self._waiting = 0
        self._poller: Optional[gevent.Greenlet] = None

    def heard(self, refusal: Optional[str]) -> None:
        """Takes note of the answer to a request: why it was refused, or None."""
        # Overloaded is no outage: the circuit is closed, and that limit is what a load test is looking for.
        if refusal is None or refusal == "overloaded" or self._refused_at is not None:
            return
        self._admits = False
        self._refused_at = time.monotonic()
        log.info("focus-breaker refuses (%s): users wait before their next configure", refusal)

    def pass_through(self, user: FiberAware, verify: Union[bool, str]) -> None:
        """Returns when a configure may be sent: at once, or at this user's own moment after the wait."""
        # Again after the pause, because those who came first may have found the circuit open anew.
        while not self._admits:
            if user._state == LOCUST_STATE_STOPPING:
                raise StopUser()
            # As in a wait of Locust's own: whoever stops the test may end it here.
            user._state = LOCUST_STATE_WAITING
            crowd = self._wait(verify)
            spread = min(crowd * user.spread_seconds_per_user, user.max_spread_seconds)
            gevent.sleep(random.uniform(0, spread))
            user._state = LOCUST_STATE_RUNNING

    def _wait(self, verify: Union[bool, str]) -> int:
        """Waits for the poller, and gives the number of those who are let go together."""
        if self._poller is None:
            self._poller = gevent.spawn(self._poll, verify)
        poller = self._poller
        self._waiting += 1
        try:
            return poller.get()
        finally:
            self._waiting -= 1
            # Nobody is left to ask for: the test has ended.
            if self._waiting == 0 and self._poller is poller:
                self._poller = None
                poller.kill(block=False)

    def _poll(self, verify: Union[bool, str]) -> int:
        """Asks until the proxy admits: `/-/fiber`, which answers at once, then `/-/wait` where it is known.

        The first question after a refusal is not put at once, lest in a recovery users ran to and fro.
        """
        if self._refused_at is not None:
            gevent.sleep(POLL_SECONDS)
        path, long_path = "/-/fiber", f"/-/wait?timeout={WAIT_SECONDS}s"
        odd_answers = 0
        with requests.Session() as session:
            session.verify = verify
            # As Locust's own clients: a proxy of the environment is not asked about the circuit of ours.
            session.trust_env = False
            while odd_answers < ODD_ANSWERS:
                asked_at = time.monotonic()
                try:
                    answer = session.get(self._proxy + path, timeout=WAIT_SECONDS + 10)
                except requests.RequestException as error:
                    odd, refusal = type(error).__name__, None
                else:
                    odd, refusal = f"status {answer.status_code}", refusal_of(answer.headers)
                    if answer.status_code == 200 or refusal == "overloaded":
                        return self._release()
                if refusal is not None:
                    self.heard(refusal)
                    path, odd_answers = long_path, 0
                elif odd == "status 404" and path == long_path:
                    path = long_path = "/-/fiber"
                else:
                    # What does not know the route is no focus-breaker, and will not become one.
                    odd_answers += ODD_ANSWERS if odd == "status 404" else 1
                gevent.sleep(max(0.0, POLL_SECONDS - (time.monotonic() - asked_at)))
        log.warning("GET %s says nothing about the circuit (%s): users go on without it", path, odd)
        return self._release()

    def _release(self) -> int:
        """Opens the gate, and gives the number of those who are let go; 0 where there was no outage."""
        crowd, self._admits, self._poller = self._waiting, True, None
        if self._refused_at is None:
            return 0
        seconds, self._refused_at = time.monotonic() - self._refused_at, None
        log.info("focus-breaker admits again after %.0f s: %d users that waited come back", seconds, crowd)
        return crowd


_gates: Dict[str, _Gate] = {}
"""By the URL of the proxy: users of one process share what they know."""
