"""The id of a test run, by which the proxy distinguishes the requests of different runs."""

from __future__ import annotations

import os
import re
import uuid
from functools import cache

HEADER = "X-Test-Run"
MAX_LENGTH = 64

# The first one that is set counts. pytest-xdist gives all its workers the same id.
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
    """Returns the id of the run: at most 64 characters of `A-Za-z0-9._-`; others become `-`."""
    for variable in _VARIABLES:
        # Keep the end of a long id: Jenkins puts the build number there.
        safe = re.sub(r"[^A-Za-z0-9._-]+", "-", os.environ.get(variable, "").strip())[-MAX_LENGTH:]
        if safe.strip("-"):
            return safe
    return uuid.uuid4().hex


# Otherwise pytest collects the function as a test in each module that imports it.
test_run_id.__test__ = False  # type: ignore[attr-defined]


def focus_headers() -> dict[str, str]:
    """Returns the headers for each request of a test run: `session.headers.update(focus_headers())`."""
    return {HEADER: test_run_id()}
