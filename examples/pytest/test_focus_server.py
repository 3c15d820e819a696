"""Two tests of focus-server: one starts a job and needs the fiber, the other only reads."""

import json
from pathlib import Path
from urllib.request import ProxyHandler, Request, build_opener

URL = "http://127.0.0.1:8080"
JOB = (Path(__file__).parent.parent / "live-job.json").read_bytes()

# Without the machine's proxy settings, which may not lead to this machine.
opener = build_opener(ProxyHandler({}))


def test_channels():
    with opener.open(f"{URL}/channels", timeout=10) as response:
        assert json.load(response)["lowest_channel"] == 1


def test_configure_live_job():
    request = Request(f"{URL}/configure", data=JOB, headers={"Content-Type": "application/json"})
    with opener.open(request, timeout=60) as response:
        assert "job_id" in json.load(response)
