"""A simulated outage for the tests of a client: sets the proxy's override and always removes it."""

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
    Inside the `with` block the proxy refuses every guarded request, of all its clients.

    An override that is already in force is never replaced. The outage ends after `seconds` even if this
    process is killed.
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
        # Between the request and the response it is unknown whether the override is set, so `end` checks.
        self._may_be_set = False
        self._override: Optional[Override] = None

    def __enter__(self) -> Override:
        __tracebackhide__ = True
        current = self._proxy.current_override()
        if current is not None:
            raise FocusBreakerError(
                f"focus_outage does not replace the override in force at {self._proxy.url}: {current}. "
                "Wait until it ends, or remove it with DELETE /-/override"
            )
        self._may_be_set = True
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
        """Removes the override, if it is still this one. A second call does nothing."""
        if not self._may_be_set:
            return
        for attempt in range(1, _REMOVAL_ATTEMPTS + 1):
            try:
                self._remove()
                break
            except FocusBreakerError as error:
                if attempt == _REMOVAL_ATTEMPTS:
                    raise FocusBreakerError(
                        f"the override of focus_outage may stay in force at {self._proxy.url} for up to "
                        f"{self._seconds} s, because it could not be removed: {error}"
                    ) from error
                time.sleep(1)
            finally:
                self._on_change()
        self._may_be_set = False

    def _remove(self) -> None:
        current = self._proxy.current_override()
        if current is None:
            return
        is_ours = current == self._override
        if self._override is None:
            is_ours = current.reason == shown(self._reason)
        if is_ours:
            self._proxy.remove_override()
        else:
            warnings.warn(
                f"focus_outage did not remove the override at {self._proxy.url}, because another client has "
                f"set it in the meantime: {current}",
                stacklevel=2,
            )
