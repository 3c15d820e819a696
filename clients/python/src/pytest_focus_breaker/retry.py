"""A `Retry` for sessions that talk to focus-server through focus-breaker."""

from __future__ import annotations

import re
import sys
from typing import Any, Mapping, Optional

from urllib3.exceptions import MaxRetryError, ResponseError
from urllib3.util.retry import Retry

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_FIELD = re.compile(rf'(?:[^"]|{_QUOTED})*')
# What stands between the commas, or the semicolons, that are not inside of a quoted string.
_MEMBERS = re.compile(rf'(?:[^,"]|{_QUOTED})+')
_PARTS = re.compile(rf'(?:[^;"]|{_QUOTED})+')


def refusal_of(headers: Optional[Mapping[str, str]]) -> Optional[str]:
    """Why focus-breaker refused, in its words, like `waiting for fiber`; None for any other answer.

    Read from `Proxy-Status` (RFC 9209), because status and body may be those of a 503 of focus-server itself.
    It is a list: proxies on the way add members of their own.
    """
    field = (headers or {}).get("Proxy-Status") or ""
    # Of what does not parse as a whole nothing counts.
    for member in _MEMBERS.findall(field) if _FIELD.fullmatch(field) else ():
        parts = [part.strip() for part in _PARTS.findall(member)]
        parameters = dict(part.split("=", 1) for part in parts[1:] if "=" in part)
        if parts[:1] == ["focus-breaker"] and parameters.get("error") == "destination_unavailable":
            return re.sub(r"\\(.)", r"\1", parameters.get("details", '""')[1:-1])
    return None


class RefusedError(MaxRetryError):
    """Ends the attempts of a refused request. urllib3 catches it: who sent the request gets the answer."""


class RefusalAwareRetry(Retry):
    """A `Retry` that does not ask again what focus-breaker refused: the caller gets the answer, body and all.

    A missing fiber does not come back within three attempts. Everything else is as with `Retry`, a 503 of
    focus-server itself included, and so are refusals for want of a place, where asking again helps.
    """

    # Refused for now and not for an outage.
    _MOMENTARY = frozenset({"recovering", "overloaded"})

    def increment(
        self,
        method: Optional[str] = None,
        url: Optional[str] = None,
        response: Any = None,
        error: Optional[Exception] = None,
        _pool: Any = None,
        _stacktrace: Any = None,
    ) -> Retry:
        refusal = None if response is None else refusal_of(response.headers)
        if refusal is None or refusal in self._MOMENTARY:
            return super().increment(method, url, response, error, _pool, _stacktrace)
        raise RefusedError(_pool, url, ResponseError(f"refused by focus-breaker: {refusal}"))

    @property
    def raise_on_status(self) -> bool:
        """As it was set, but False while urllib3 handles a `RefusedError`: it then returns the answer.

        Not a value that `increment` sets, because sessions share one object among their requests and threads.
        """
        return self._raise_on_status and not isinstance(sys.exc_info()[1], RefusedError)

    @raise_on_status.setter
    def raise_on_status(self, value: bool) -> None:
        self._raise_on_status = value
