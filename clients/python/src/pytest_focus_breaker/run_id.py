"""The name of a test run, by which the proxy can tell whose requests it sees."""

from __future__ import annotations

import os
import re
import uuid
from functools import cache

HEADER = "X-Test-Run"
MAX_LENGTH = 64

# The first that is set counts. pytest-xdist gives all of its workers the same id of its own.
_VARIABLES = (
    "FOCUS_BREAKER_TEST_RUN",
    "GITHUB_RUN_ID",
    # GitLab
    "CI_PIPELINE_ID",
    # Jenkins
    "BUILD_TAG",
    # Azure Pipelines
    "BUILD_BUILDID",
    "CIRCLE_WORKFLOW_ID",
    "PYTEST_XDIST_TESTRUNUID",
)


@cache
def test_run_id() -> str:
    """One name for the whole run: at most 64 characters of `A-Za-z0-9._-`, others are replaced by `-`."""
    for variable in _VARIABLES:
        # The end of a long name is kept: Jenkins puts the number of the build there.
        safe = re.sub(r"[^A-Za-z0-9._-]+", "-", os.environ.get(variable, "").strip())[-MAX_LENGTH:]
        if safe.strip("-"):
            return safe
    return uuid.uuid4().hex


# Otherwise pytest takes the function for a test wherever a test module imports it.
test_run_id.__test__ = False  # type: ignore[attr-defined]


def focus_headers() -> dict[str, str]:
    """What a client of a test run sends with each request: `session.headers.update(focus_headers())`."""
    return {HEADER: test_run_id()}
