"""Shows how `RefusalAwareRetry` interprets 503s with these values of `Proxy-Status`, a JSON list on stdin."""

import json
import sys

from urllib3 import HTTPResponse
from urllib3.exceptions import MaxRetryError

from pytest_focus_breaker.retry import RefusalAwareRetry, refusal_of

judged = []
for value in json.load(sys.stdin):
    answer = HTTPResponse(status=503, headers={} if value is None else {"proxy-status": value})
    try:
        left = RefusalAwareRetry(total=3).increment("POST", "/configure", response=answer).total
    except MaxRetryError:
        left = None
    judged.append({"refusal": refusal_of(answer.headers), "retries": left})
json.dump(judged, sys.stdout)
