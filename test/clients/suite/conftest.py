"""
A small suite like the team's. It has 40 tests: 12 only read, 12 start live jobs, 8 start historic ones, and 8 start
jobs from several threads.

FOCUS_SERVER_URL is the URL of focus-server, or of a proxy in front of it. SIMULATOR_URL is that of the simulator
itself; if LOSE_FIBER_IN is the name of a test, the simulator loses the fiber when that test starts.
"""

import json
import os
import time
import urllib.request
from collections.abc import Iterator
from typing import Any, Callable

import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

Send = Callable[[str, str], requests.Response]

BASE_URL = os.environ.get("FOCUS_SERVER_URL", "")
TIMEOUT_SECONDS = 60


def job(channel: int = 11, start: Any = None, end: Any = None) -> dict[str, Any]:
    return {
        "displayTimeAxisDuration": 30,
        "nfftSelection": 1024,
        "displayInfo": {"height": 200},
        "channels": {"min": channel, "max": channel + 20},
        "frequencyRange": {"min": 0, "max": 1000},
        "start_time": start,
        "end_time": end,
        "view_type": "0",
    }


@pytest.fixture(scope="session")
def session() -> Iterator[requests.Session]:
    """The team's session, with the team's settings."""
    retry = Retry(
        total=3,
        backoff_factor=2.0,
        status_forcelist=[429, 500, 502, 503, 504],
        allowed_methods=["HEAD", "GET", "POST", "PUT", "DELETE", "OPTIONS", "TRACE"],
    )
    with requests.Session() as session:
        session.mount("http://", HTTPAdapter(max_retries=retry, pool_connections=200, pool_maxsize=200))
        session.headers["User-Agent"] = "Focus-Server-Automation/1.0.0"
        session.trust_env = False
        yield session


@pytest.fixture
def get(session: requests.Session) -> Callable[[str], requests.Response]:
    return lambda path: session.get(BASE_URL + path, timeout=TIMEOUT_SECONDS)


@pytest.fixture
def post(session: requests.Session) -> Callable[[str, Any], requests.Response]:
    return lambda path, body: session.post(BASE_URL + path, json=body, timeout=TIMEOUT_SECONDS)


@pytest.fixture(autouse=True)
def losing_the_fiber(request: pytest.FixtureRequest) -> None:
    if request.node.name != os.environ.get("LOSE_FIBER_IN"):
        return
    simulator = os.environ["SIMULATOR_URL"]
    change = urllib.request.Request(
        f"{simulator}/_simulator/fiber", data=json.dumps({"state": "missing"}).encode(), method="PUT"
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(change, timeout=10):
        pass
    if BASE_URL == simulator:
        return
    # Wait until the proxy has noticed: then the outcome of this test and of those after it is the same in each run.
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with opener.open(f"{BASE_URL}/-/status", timeout=10) as answer:
            if json.load(answer)["circuit"]["state"] == "open":
                return
        time.sleep(0.05)
    raise AssertionError("the proxy did not notice within 20 s that the fiber was taken away")
