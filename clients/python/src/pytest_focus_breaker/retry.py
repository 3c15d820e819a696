"""A `Retry` for sessions of requests and urllib3 that use focus-server through focus-breaker."""

from __future__ import annotations

import sys
from typing import Any, Optional

from urllib3.exceptions import MaxRetryError, ResponseError
from urllib3.util.retry import Retry

from .refusal import is_momentary, refusal_of

__all__ = ["RefusalAwareRetry", "RefusedError", "refusal_of"]


class RefusedError(MaxRetryError):
    """Ends the retries of a refused request. urllib3 catches it, and the caller gets the response."""


class RefusalAwareRetry(Retry):
    """A `Retry` that does not retry refusals of focus-breaker: the caller gets the response and its body.

    A missing fiber does not come back within three attempts. Everything else is as with `Retry`: a 503 of
    focus-server itself is retried, and so is a momentary refusal.
    """

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
        if refusal is None or is_momentary(refusal):
            return super().increment(method, url, response, error, _pool, _stacktrace)
        raise RefusedError(_pool, url, ResponseError(f"refused by focus-breaker: {refusal}"))

    @property
    def raise_on_status(self) -> bool:
        """The value that was set, but False during a `RefusedError`, so that urllib3 returns the response.

        `increment` cannot set it, because the requests and threads of a session share one object.
        """
        return self._raise_on_status and not isinstance(sys.exc_info()[1], RefusedError)

    @raise_on_status.setter
    def raise_on_status(self, value: bool) -> None:
        self._raise_on_status = value
