"""Recognizes a refusal of focus-breaker, and decides when a client retries a request. Has no dependencies."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import FrozenSet, Iterable, Optional, Protocol, Tuple

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_FIELD = re.compile(rf'(?:[^"]|{_QUOTED})*')
# The text between two commas, or two semicolons, that are not inside a quoted string.
_MEMBERS = re.compile(rf'(?:[^,"]|{_QUOTED})+')
_PARTS = re.compile(rf'(?:[^;"]|{_QUOTED})+')

_MOMENTARY = frozenset({"recovering", "overloaded"})

IDEMPOTENT = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PUT", "TRACE"})
"""Methods that can be sent twice with the same effect (RFC 9110, 9.2.2)."""


class Headers(Protocol):
    """The headers of a response, in any HTTP library. A name may occur several times."""

    def items(self) -> Iterable[Tuple[str, str]]: ...


def refusal_of(headers: Optional[Headers]) -> Optional[str]:
    """Returns the reason of a refusal, such as `waiting for fiber`, or None for any other response.

    It comes from `Proxy-Status` (RFC 9209), because focus-server also sends a 503 with a JSON body. The
    header is a list: other proxies on the path add members.
    """
    field = _value_of(headers, "proxy-status") or ""
    # A malformed header is ignored.
    for member in _MEMBERS.findall(field) if _FIELD.fullmatch(field) else ():
        parts = [part.strip() for part in _PARTS.findall(member)]
        parameters = dict(part.split("=", 1) for part in parts[1:] if "=" in part)
        if parts[:1] == ["focus-breaker"] and parameters.get("error") == "destination_unavailable":
            return re.sub(r"\\(.)", r"\1", parameters.get("details", '""')[1:-1])
    return None


def is_momentary(refusal: str) -> bool:
    """Whether the refusal ends after a moment: there were too many requests. An outage takes longer."""
    return refusal in _MOMENTARY


@dataclass(frozen=True)
class Retries:
    """Decides whether a request is retried, for each client of this package.

    A refusal because of an outage is not retried: a missing fiber does not come back within a few attempts.
    After a momentary refusal any method is retried, because the proxy has not forwarded the request.
    """

    total: int = 3
    """The maximum number of retries."""

    statuses: FrozenSet[int] = frozenset({429, 502, 503, 504})
    """Statuses of focus-server and of gateways that are retried."""

    methods: Optional[FrozenSet[str]] = IDEMPOTENT
    """Methods that are retried after such a status; None for all of them."""

    backoff_seconds: float = 1.0
    """The pause before the first retry if the response has no `Retry-After`. It doubles each time."""

    max_pause_seconds: float = 60.0
    """A response that asks for a longer pause is not retried."""

    def pause_after(
        self, method: str, status: int, headers: Optional[Headers], sent: int
    ) -> Optional[float]:
        """Returns the seconds until the next attempt, or None if there is none.

        `sent` is how often the request was sent so far.
        """
        if sent > self.total:
            return None
        refusal = refusal_of(headers)
        if refusal is not None:
            is_repeated = is_momentary(refusal)
        else:
            is_repeated = status in self.statuses and (
                self.methods is None or method.upper() in self.methods
            )
        if not is_repeated:
            return None
        pause = retry_after_of(headers)
        if pause is None:
            # Bounded, because a large power of 2 overflows a float.
            pause = min(self.backoff_seconds * 2.0 ** min(sent - 1, 30), self.max_pause_seconds)
        return pause if pause <= self.max_pause_seconds else None


def retry_after_of(headers: Optional[Headers]) -> Optional[float]:
    """The seconds of `Retry-After`, which is a number or a date. None if it is missing or invalid."""
    value = (_value_of(headers, "retry-after") or "").strip()
    # Longer numbers are nonsense and may overflow `float`.
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    # Python 3.9 raises a TypeError.
    except (TypeError, ValueError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=timezone.utc)
    return max(0.0, (at - datetime.now(timezone.utc)).total_seconds())


def _value_of(headers: Optional[Headers], name: str) -> Optional[str]:
    """The value of a header, whose name is compared without case; several are joined as in RFC 9110, 5.3."""
    # Not `get`: in some libraries it returns only the first value, or a list.
    items = () if headers is None else headers.items()
    values = [
        value
        for key, value in items
        if isinstance(key, str) and isinstance(value, str) and key.lower() == name
    ]
    return ", ".join(values) if values else None
