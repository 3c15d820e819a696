"""How long an outage may still be waited for, by all processes of a run together."""

from __future__ import annotations

import threading
from typing import Any, Callable, Literal, Optional, Protocol

from pytest_focus_breaker.question import now

# For what ends by itself in a moment, and for a proxy that is restarted during a wait.
MOMENT_SECONDS = 30.0

# A controller of pytest-xdist answers within milliseconds.
_REPLY_SECONDS = 5.0


# What is waited for: the end of an outage, of what ends by itself in a moment, or the start of a proxy.
Kind = Literal["outage", "moment", "absence"]


class Patience(Protocol):
    """An outage has one wait. Its end is fixed before it begins, so an interrupted wait does not restart."""

    def begin(self, what: str, kind: Kind) -> float:
        """The seconds that are left to wait. The first call fixes the end; `what` is printed then."""

    def renew(self) -> None:
        """The outage is over: the next one has a wait of its own."""


class OwnPatience:
    """The patience of this process. Threads share it: each worker of pytest-xdist is answered by one."""

    def __init__(
        self,
        wait_seconds: float,
        on_wait: Callable[[str, float], None],
        clock: Callable[[], float] = now,
    ) -> None:
        self._seconds: dict[Kind, float] = {
            "outage": wait_seconds,
            "moment": MOMENT_SECONDS,
            # The URL may be wrong, which no wait makes right.
            "absence": min(wait_seconds, MOMENT_SECONDS),
        }
        self._on_wait = on_wait
        self._clock = clock
        self._ends_at: dict[Kind, float] = {}
        self._lock = threading.Lock()

    def begin(self, what: str, kind: Kind) -> float:
        with self._lock:
            is_first = kind not in self._ends_at
            if is_first:
                self._ends_at[kind] = self._clock() + self._seconds[kind]
            left = self._ends_at[kind] - self._clock()
        if is_first and left > 0:
            self._on_wait(what, left)
        return left

    def renew(self) -> None:
        with self._lock:
            self._ends_at.clear()


class WorkersPatience:
    """The patience of a worker of pytest-xdist: its controller decides, and prints what is waited for."""

    def __init__(self, channel: Any, own: Patience) -> None:
        self._channel: Optional[Any] = channel
        # For when the controller does not answer.
        self._own = own
        self._has_begun = False

    def begin(self, what: str, kind: Kind) -> float:
        self._has_begun = True
        if self._channel is not None:
            try:
                self._channel.send(("begin", what, kind))
                return float(self._channel.receive(_REPLY_SECONDS))
            except Exception:
                # A late reply would be taken for that of another question.
                self._channel = None
        return self._own.begin(what, kind)

    def renew(self) -> None:
        # Not a message for each test that is admitted.
        if not self._has_begun:
            return
        self._has_begun = False
        self._own.renew()
        if self._channel is not None:
            try:
                self._channel.send(("renew",))
            except Exception:
                self._channel = None
