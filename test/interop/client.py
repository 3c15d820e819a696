"""The HTTP session of the team's pytest suite, with its own settings, driven by a test.

    /usr/bin/python3 test/interop/client.py BASE_URL [--no-retries] [--threads N] < requests.json

The requests are a JSON list of {method, path, headers?, json? | text? | randomBytes?, chunked?, redirects?}. They are
sent one after another, or by N threads. The result is one JSON object on stdout: `answers`, the responses in the order
of the requests, and `wire`, every response on the wire, including those before a retry.
"""

import argparse
import hashlib
import json
import random
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection
from urllib3.util.retry import Retry

TIMEOUT_SECONDS = 60
POOL_SIZE = 200

wire: List[Dict[str, Any]] = []
wire_lock = threading.Lock()


def watch_the_wire() -> None:
    """Records each response as http.client passes it to urllib3, below any retries."""
    getresponse = HTTPConnection.getresponse

    def watched(self: HTTPConnection, *args: Any, **kwargs: Any) -> Any:
        answer = getresponse(self, *args, **kwargs)
        with wire_lock:
            wire.append({"status": answer.status, "retryAfter": answer.headers.get("Retry-After")})
        return answer

    HTTPConnection.getresponse = watched


def team_session() -> requests.Session:
    session = requests.Session()
    retry = Retry(
        total=3,
        backoff_factor=2.0,
        status_forcelist=[429, 500, 502, 503, 504],
        allowed_methods=["HEAD", "GET", "POST", "PUT", "DELETE", "OPTIONS", "TRACE"],
    )
    adapter = HTTPAdapter(max_retries=retry, pool_connections=POOL_SIZE, pool_maxsize=POOL_SIZE)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return dressed(session)


def plain_session() -> requests.Session:
    return dressed(requests.Session())


def dressed(session: requests.Session) -> requests.Session:
    session.verify = False
    # A proxy or a netrc of the machine that runs the tests must not come between the client and our proxy.
    session.trust_env = False
    session.headers.update({"User-Agent": "Focus-Server-Automation/1.0.0"})
    return session


def send(session: requests.Session, base_url: str, wanted: Dict[str, Any]) -> Dict[str, Any]:
    body = body_of(wanted)
    started_at = time.monotonic()
    try:
        answer = session.request(
            wanted["method"],
            base_url + wanted["path"],
            headers=wanted.get("headers"),
            json=wanted.get("json"),
            data=in_chunks(body) if wanted.get("chunked") and body is not None else body,
            allow_redirects=wanted.get("redirects", True),
            timeout=TIMEOUT_SECONDS,
        )
    except requests.exceptions.RequestException as error:
        return {
            "error": type(error).__name__,
            "message": str(error),
            "hasResponse": error.response is not None,
            "elapsedSeconds": time.monotonic() - started_at,
        }
    return {
        "status": answer.status_code,
        "headers": sorted([name.lower(), value] for name, value in answer.headers.items()),
        "text": answer.text,
        "sha256": hashlib.sha256(answer.content).hexdigest(),
        "url": answer.url,
        "elapsedSeconds": time.monotonic() - started_at,
    }


def body_of(wanted: Dict[str, Any]) -> Any:
    if "text" in wanted:
        return wanted["text"].encode("latin-1")
    if "randomBytes" in wanted:
        # The same bytes each time, so that what arrives directly and through the proxy can be compared.
        return random.Random(1).randbytes(wanted["randomBytes"])
    return None


def in_chunks(body: bytes) -> Any:
    for start in range(0, len(body), 10_000):
        yield body[start : start + 10_000]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("base_url")
    parser.add_argument("--no-retries", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)
    watch_the_wire()
    session = plain_session() if arguments.no_retries else team_session()
    with ThreadPoolExecutor(arguments.threads) as threads:
        answers = list(threads.map(lambda wanted: send(session, arguments.base_url, wanted), json.load(sys.stdin)))
    json.dump({"answers": answers, "wire": wire}, sys.stdout)


if __name__ == "__main__":
    main()
