"""A simulated outage for the tests of a client: the proxy's override, set and always taken back."""

from __future__ import annotations

import time
import warnings
from types import TracebackType
from typing import Callable, Optional

from pytest_focus_breaker.proxy import FocusBreakerError, Override, Proxy, shown

DEFAULT_SECONDS = 60
MAX_SECONDS = 86_400
MAX_REASON_LENGTH = 500

_REMOVAL_ATTEMPTS = 3


class Outage:
    """
    While entered, the proxy refuses every guarded request, of all of its clients.

    An override that stands already is never replaced. The end, `seconds` from now, comes by itself even when
    this process is killed.
    """

    def __init__(self, proxy: Proxy, reason: str, seconds: int, on_change: Callable[[], None]) -> None:
        if not isinstance(seconds, int) or isinstance(seconds, bool) or not 1 <= seconds <= MAX_SECONDS:
            expected = f"a whole number from 1 to {MAX_SECONDS}"
            raise ValueError(f"focus_outage: seconds: expected {expected}, given {seconds!r}")
        reason = reason.strip()
        if not 1 <= len(reason) <= MAX_REASON_LENGTH:
            expected = f"1 to {MAX_REASON_LENGTH} characters"
            raise ValueError(f"focus_outage: reason: expected {expected}, given {len(reason)}")
        self._proxy = proxy
        self._reason = reason
        self._seconds = seconds
        self._on_change = on_change
        # Between the question and the answer nobody knows whether the override stands: then it is looked for.
        self._may_stand = False
        self._override: Optional[Override] = None

    def __enter__(self) -> Override:
        __tracebackhide__ = True
        standing = self._proxy.standing_override()
        if standing is not None:
            raise FocusBreakerError(
                f"focus_outage does not replace the override that stands at {self._proxy.url}: {standing}. "
                "Wait for its end, or take it back with DELETE /-/override"
            )
        self._may_stand = True
        try:
            self._override = self._proxy.force_open(self._reason, self._seconds)
        except BaseException:
            self.end()
            raise
        self._on_change()
        return self._override

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        __tracebackhide__ = True
        self.end()

    def end(self) -> None:
        """Takes the override back, if it still is this one. A second call does nothing."""
        if not self._may_stand:
            return
        for attempt in range(1, _REMOVAL_ATTEMPTS + 1):
            try:
                self._remove()
                break
            except FocusBreakerError as error:
                if attempt == _REMOVAL_ATTEMPTS:
                    raise FocusBreakerError(
                        f"the override of focus_outage may stand at {self._proxy.url} for up to "
                        f"{self._seconds} s, because it could not be taken back: {error}"
                    ) from error
                time.sleep(1)
            finally:
                self._on_change()
        self._may_stand = False

    def _remove(self) -> None:
        standing = self._proxy.standing_override()
        if standing is None:
            return
        is_ours = standing == self._override
        if self._override is None:
            is_ours = standing.reason == shown(self._reason)
        if is_ours:
            self._proxy.remove_override()
        else:
            warnings.warn(
                f"focus_outage left the override at {self._proxy.url} that somebody else has set meanwhile: "
                f"{standing}",
                stacklevel=2,
            )
