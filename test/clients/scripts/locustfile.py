"""Users that configure repeatedly under real Locust: with the mixin if `FIBER_AWARE=1`.

Every request is one line of JSON on stdout: its user, the time it was sent, and the status. The last line is what
Locust counted.
"""

import json
import os
from typing import Any

from locust import FastHttpUser, HttpUser, between, events

from pytest_focus_breaker.locust import FiberAware

BODY = json.loads(os.environ["CONFIGURE_BODY"])


def emit(**line: Any) -> None:
    # One write, because other lines use the same descriptor.
    os.write(1, f"{json.dumps(line)}\n".encode())


class Configures:
    wait_time = between(0.1, 0.5)
    tasks = [lambda user: user.client.post("/configure", json=BODY)]

    def context(self) -> Any:
        return {"user": id(self)}


if os.environ.get("FIBER_AWARE") != "1":

    class ConfigureUser(Configures, HttpUser):
        pass

elif os.environ.get("FAST_CLIENT") != "1":

    class ConfigureUser(Configures, FiberAware, HttpUser):
        pass

else:

    class ConfigureUser(Configures, FiberAware, FastHttpUser):
        pass


@events.request.add_listener
def answered(context: Any, response: Any, start_time: float, **_: Any) -> None:
    emit(user=context["user"], status=response.status_code, sentMs=start_time * 1000)


@events.quitting.add_listener
def count(environment: Any, **_: Any) -> None:
    total = environment.stats.total
    emit(requests=total.num_requests, failures=total.num_failures)
