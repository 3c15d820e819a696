"""Exactly the session of test/interop/client.py, except for the class of its `Retry`.

    PYTHONPATH=clients/python/src /usr/bin/python3 test/clients/scripts/session.py BASE_URL < requests.json

With `--quick` as the last argument the backoff, otherwise 12 s, is cut to a moment; a Retry-After is not.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "interop"))

import client  # noqa: E402

from pytest_focus_breaker.retry import RefusalAwareRetry  # noqa: E402

if sys.argv[-1] == "--quick":
    sys.argv.pop()
    RefusalAwareRetry.DEFAULT_BACKOFF_MAX = 0.01
client.Retry = RefusalAwareRetry
client.main()
