"""Lets a pytest suite ask focus-breaker for the fiber before it runs a test that needs it."""

from pytest_focus_breaker.run_id import focus_headers, test_run_id

__all__ = ["focus_headers", "test_run_id"]
