"""Caches the answer about the fiber, and waits for the fiber."""

from __future__ import annotations

import time
from typing import Callable, Optional

from pytest_focus_breaker.patience import Patience
from pytest_focus_breaker.proxy import Admitted, Answer, Proxy, Refused, Unreachable
from pytest_focus_breaker.http_request import now

# An unreachable proxy is remembered for a multiple of the time that the request took: after a refused
# connection the next test tries again at once, and hundreds of tests do not each wait for a timeout.
UNREACHABLE_AGE_PER_SECOND = 6.0
MAX_UNREACHABLE_AGE_SECONDS = 30.0
# Short, so that gateways in front do not cut the request and Ctrl+C works on Windows.
SLICE_SECONDS = 5.0
# How often a proxy without /-/wait is asked.
POLL_SECONDS = 2.0
# The minimum time between two requests: a proxy that shuts down responds to all waiting clients at once.
PAUSE_SECONDS = 1.0


class Gate:
    """Decides for each test, with as few requests to the proxy as possible."""

    def __init__(
        self,
        proxy: Proxy,
        patience: Patience,
        *,
        max_age_seconds: float,
        clock: Callable[[], float] = now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._proxy = proxy
        self._patience = patience
        self._max_age_seconds = max_age_seconds
        self._clock = clock
        self._sleep = sleep
        self._answer: Optional[Answer] = None
        self._asked_at = 0.0
        self._was_unreachable = False
        self._has_wait = True

    def ask(self) -> Answer:
        """Returns the proxy's answer: a new one if the last one is too old."""
        if self._answer is not None and self._is_current(self._answer):
            return self._answer
        answer = self._proxy.fiber()
        if isinstance(answer, Unreachable) and not self._was_unreachable and answer.seconds < PAUSE_SECONDS:
            # A single connection failure, for instance during a restart, is no reason to give up.
            self._sleep(PAUSE_SECONDS)
            answer = self._proxy.fiber()
        return self._remember(answer)

    def peek(self, *, fresh: bool = False) -> Answer:
        """
        Like `ask`, for purposes that no test depends on. `fresh` asks again even if the last answer is not
        too old.

        An unreachable proxy is not remembered: the next test asks again.
        """
        known = self._answer
        may_reuse = not fresh or isinstance(known, Unreachable)
        if known is not None and may_reuse and self._is_current(known):
            return known
        answer = self._proxy.fiber()
        if isinstance(answer, Unreachable):
            self.forget()
            return answer
        return self._remember(answer)

    def admit(self) -> Answer:
        """Returns the answer for a test that is about to run, after waiting as long as the settings allow."""
        answer = self.ask()
        was_there = False
        while not isinstance(answer, Admitted):
            was_there = was_there or isinstance(answer, Refused)
            left = self._left(answer, was_there)
            if left <= 0:
                break
            answer = self._remember(self._wait(min(left, SLICE_SECONDS), answer))
        return answer

    def forget(self) -> None:
        """Makes the next call ask the proxy."""
        self._answer = None

    def _is_current(self, answer: Answer) -> bool:
        age = self._clock() - self._asked_at
        if isinstance(answer, Unreachable):
            return age < min(answer.seconds * UNREACHABLE_AGE_PER_SECOND, MAX_UNREACHABLE_AGE_SECONDS)
        return age < self._max_age_seconds

    def _left(self, answer: Answer, was_there: bool) -> float:
        if isinstance(answer, Unreachable):
            return self._patience.begin(str(answer), "moment" if was_there else "absence")
        if isinstance(answer, Refused) and answer.is_momentary:
            left = self._patience.begin(str(answer), "moment")
            if left > 0:
                return left
        return self._patience.begin(str(answer), "outage")

    def _wait(self, seconds: float, before: Answer) -> Answer:
        started_at = self._clock()
        answer = None
        if self._has_wait and not isinstance(before, Unreachable):
            answer = self._proxy.wait(seconds)
            self._has_wait = answer is not None
        if answer is None:
            self._sleep(min(seconds, POLL_SECONDS))
            answer = self._proxy.fiber()
        spent = self._clock() - started_at
        if not isinstance(answer, Admitted) and spent < PAUSE_SECONDS:
            self._sleep(PAUSE_SECONDS - spent)
        return answer

    def _remember(self, answer: Answer) -> Answer:
        self._answer = answer
        self._asked_at = self._clock()
        self._was_unreachable = isinstance(answer, Unreachable)
        if isinstance(answer, Admitted):
            self._patience.renew()
        return answer
