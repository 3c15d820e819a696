"""What is known of the fiber, how long it is believed, and how it is waited for."""

from __future__ import annotations

import time
from typing import Callable, Optional

from pytest_focus_breaker.patience import Patience
from pytest_focus_breaker.proxy import Admitted, Answer, Proxy, Refused, Unreachable
from pytest_focus_breaker.question import now

# An absence is believed for a multiple of the time that it took to learn: a refused connection is tried again
# at once, and hundreds of tests do not wait for a timeout each.
UNREACHABLE_AGE_PER_SECOND = 6.0
MAX_UNREACHABLE_AGE_SECONDS = 30.0
# Short, so that gateways in front let it pass and Ctrl+C is heard on Windows.
SLICE_SECONDS = 5.0
# How often a proxy that cannot hold a question is asked.
POLL_SECONDS = 2.0
# Between two questions in any case: a proxy that shuts down answers all that wait at once.
PAUSE_SECONDS = 1.0


class Gate:
    """Decides for each test, with as few questions to the proxy as that needs."""

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
        self._was_gone = False
        self._can_hold = True

    def look(self) -> Answer:
        """The answer of the proxy: a new one when the last is too old."""
        if self._answer is not None and self._is_believed(self._answer):
            return self._answer
        answer = self._proxy.fiber()
        if isinstance(answer, Unreachable) and not self._was_gone and answer.seconds < PAUSE_SECONDS:
            # One connection that was cut, by a restart for instance, is no reason to give up.
            self._sleep(PAUSE_SECONDS)
            answer = self._proxy.fiber()
        return self._learned(answer)

    def peek(self, *, fresh: bool = False) -> Answer:
        """
        The same for what no test depends on. `fresh` asks again although the last answer is not too old.

        That the proxy is absent is not kept: the test that comes next asks for itself.
        """
        known = self._answer
        is_wanted = not fresh or isinstance(known, Unreachable)
        if known is not None and is_wanted and self._is_believed(known):
            return known
        answer = self._proxy.fiber()
        if isinstance(answer, Unreachable):
            self.forget()
            return answer
        return self._learned(answer)

    def admit(self) -> Answer:
        """The answer for a test that is about to run, after waiting as long as there is patience."""
        answer = self.look()
        was_there = False
        while not isinstance(answer, Admitted):
            was_there = was_there or isinstance(answer, Refused)
            left = self._left(answer, was_there)
            if left <= 0:
                break
            answer = self._learned(self._hold(min(left, SLICE_SECONDS), answer))
        return answer

    def forget(self) -> None:
        """The next look asks the proxy, whatever is known."""
        self._answer = None

    def _is_believed(self, answer: Answer) -> bool:
        age = self._clock() - self._asked_at
        if isinstance(answer, Unreachable):
            return age < min(answer.seconds * UNREACHABLE_AGE_PER_SECOND, MAX_UNREACHABLE_AGE_SECONDS)
        return age < self._max_age_seconds

    def _left(self, answer: Answer, was_there: bool) -> float:
        if isinstance(answer, Unreachable):
            return self._patience.begin(str(answer), "moment" if was_there else "absence")
        if isinstance(answer, Refused) and answer.is_moment:
            left = self._patience.begin(str(answer), "moment")
            if left > 0:
                return left
        return self._patience.begin(str(answer), "outage")

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
        return answer

    def _learned(self, answer: Answer) -> Answer:
        self._answer = answer
        self._asked_at = self._clock()
        self._was_gone = isinstance(answer, Unreachable)
        if isinstance(answer, Admitted):
            self._patience.renew()
        return answer
