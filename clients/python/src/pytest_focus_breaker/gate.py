"""What is known of the fiber, how long it is believed, and how long somebody waits for it."""

from __future__ import annotations

import time
from typing import Callable, Optional

from pytest_focus_breaker.proxy import Admitted, Answer, Proxy, Refused, Unreachable

# For what ends by itself in a moment, and for a proxy that is restarted while somebody waits.
MOMENT_SECONDS = 30.0
# Hundreds of tests must not wait for a timeout each, and a proxy that comes back should be noticed.
UNREACHABLE_AGE_SECONDS = 30.0
# Short, so that gateways in front let it pass and Ctrl+C is heard on Windows.
SLICE_SECONDS = 5.0
# How often a proxy that cannot hold a question is asked.
POLL_SECONDS = 2.0
# Between two questions in any case: a proxy that shuts down lets everybody go at once.
PAUSE_SECONDS = 1.0


class Gate:
    """Decides for each test, with as few questions to the proxy as that needs."""

    def __init__(
        self,
        proxy: Proxy,
        *,
        max_age_seconds: float,
        wait_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._proxy = proxy
        self._max_age_seconds = max_age_seconds
        self._wait_seconds = wait_seconds
        self._clock = clock
        self._sleep = sleep
        self._answer: Optional[Answer] = None
        self._asked_at = 0.0
        self._can_hold = True
        # Patience is for an outage and not for a test: the second of hundreds does not wait again.
        self._patience = {True: MOMENT_SECONDS, False: wait_seconds}

    def look(self, *, fresh: bool = False) -> Answer:
        """The answer of the proxy: a new one when that of before is too old, or a fresh one is asked for."""
        age = self._clock() - self._asked_at
        if isinstance(self._answer, Unreachable):
            if age < UNREACHABLE_AGE_SECONDS:
                return self._answer
        elif self._answer is not None and not fresh and age < self._max_age_seconds:
            return self._answer
        answer = self._proxy.fiber()
        if isinstance(answer, Unreachable) and not answer.was_slow:
            # One connection that was cut, by a restart for instance, is no reason to give up.
            self._sleep(PAUSE_SECONDS)
            answer = self._proxy.fiber()
        return self._learned(answer)

    def admit(self, on_wait: Callable[[Refused, float], None]) -> Answer:
        """
        The answer for a test that is about to run, after waiting as long as there is patience.

        `on_wait` is told once of what is waited for, and how many seconds at the most.
        """
        answer = self.look()
        if isinstance(answer, Refused):
            left = self._left(answer)
            if left > 0:
                on_wait(answer, left)
        # A proxy that is not there at all is not waited for: only one that goes away meanwhile.
        has_waited = False
        while not isinstance(answer, Admitted) and (has_waited or isinstance(answer, Refused)):
            left = self._left(answer)
            if left <= 0:
                break
            has_waited = True
            answer = self._learned(self._hold(min(left, SLICE_SECONDS), answer))
        return answer

    def forget(self) -> None:
        """The next look asks the proxy, whatever is known."""
        self._answer = None

    def _left(self, answer: Answer) -> float:
        if isinstance(answer, Unreachable) or (_is_moment(answer) and self._patience[True] > 0):
            return self._patience[True]
        return self._patience[False]

    def _hold(self, seconds: float, before: Answer) -> Answer:
        started_at = self._clock()
        answer = None
        if self._can_hold and not isinstance(before, Unreachable):
            answer = self._proxy.wait(seconds)
            self._can_hold = answer is not None
        if answer is None:
            self._sleep(min(seconds, POLL_SECONDS))
            answer = self._proxy.fiber()
        spent = self._clock() - started_at
        if not isinstance(answer, Admitted) and spent < PAUSE_SECONDS:
            self._sleep(PAUSE_SECONDS - spent)
            spent = PAUSE_SECONDS
        is_moment = _is_moment(before) and self._patience[True] > 0
        self._patience[is_moment] -= spent
        return answer

    def _learned(self, answer: Answer) -> Answer:
        self._answer = answer
        self._asked_at = self._clock()
        if isinstance(answer, Admitted):
            self._patience = {True: MOMENT_SECONDS, False: self._wait_seconds}
        return answer


def _is_moment(answer: Answer) -> bool:
    return isinstance(answer, Unreachable) or (isinstance(answer, Refused) and answer.is_moment)
