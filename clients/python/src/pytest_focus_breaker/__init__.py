"""Lets a pytest suite check with focus-breaker that the fiber is connected before a test needs it."""

from pytest_focus_breaker.run_id import focus_headers, test_run_id

__all__ = ["focus_headers", "test_run_id"]
