"""How long the processes of a run may still wait for the end of an outage, all together."""

from __future__ import annotations

import threading
from typing import Any, Callable, Literal, Optional, Protocol

from pytest_focus_breaker.http_request import now

# For refusals that end after a moment, and for a proxy that is restarted during a wait.
MOMENT_SECONDS = 30.0

# A controller of pytest-xdist replies within milliseconds.
_REPLY_SECONDS = 5.0


# What a test waits for: the end of an outage, the end of a momentary refusal, or the start of a proxy.
Kind = Literal["outage", "moment", "absence"]


class Patience(Protocol):
    """An outage has one wait. Its end is fixed at the start, so an interrupted wait does not restart."""

    def begin(self, what: str, kind: Kind) -> float:
        """Returns the seconds left to wait. The first call fixes the end and prints `what`."""

    def renew(self) -> None:
        """The outage has ended: the next one has its own wait."""


class OwnPatience:
    """The patience of this process. Threads share it: one thread serves each worker of pytest-xdist."""

    def __init__(
        self,
        wait_seconds: float,
        on_wait: Callable[[str, float], None],
        clock: Callable[[], float] = now,
    ) -> None:
        self._seconds: dict[Kind, float] = {
            "outage": wait_seconds,
            "moment": MOMENT_SECONDS,
            # The URL may be wrong, and no wait corrects that.
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
    """The patience of a worker of pytest-xdist: its controller decides, and prints what the run waits for."""

    def __init__(self, channel: Any, own: Patience) -> None:
        self._channel: Optional[Any] = channel
        # For a controller that does not reply.
        self._own = own
        self._has_begun = False

    def begin(self, what: str, kind: Kind) -> float:
        self._has_begun = True
        if self._channel is not None:
            try:
                self._channel.send(("begin", what, kind))
                return float(self._channel.receive(_REPLY_SECONDS))
            except Exception:
                # A late reply would be mistaken for the reply to another message.
                self._channel = None
        return self._own.begin(what, kind)

    def renew(self) -> None:
        # Do not send a message for each admitted test.
        if not self._has_begun:
            return
        self._has_begun = False
        self._own.renew()
        if self._channel is not None:
            try:
                self._channel.send(("renew",))
            except Exception:
                self._channel = None
