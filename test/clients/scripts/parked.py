"""Users that need the fiber, under real Locust, with the different ends of a load test.

Each response is one line of JSON on stdout. The environment variables below control what the users do.
"""

import json
import os
from typing import Any

# Imported before Locust, which a locustfile must be able to do.
import pytest_focus_breaker.locust
from pytest_focus_breaker.locust import FiberAware

import gevent.pool
import locust.runners
from locust import FastHttpUser, HttpUser, LoadTestShape, constant, events, task
from locust.exception import StopUser

BODY = json.loads(os.environ["CONFIGURE_BODY"])
CLIENT = FastHttpUser if os.environ.get("FAST_CLIENT") == "1" else HttpUser
WAY = os.environ.get("WAY", "")

pytest_focus_breaker.locust.POLL_SECONDS = 0.3
if "REQUEST_SECONDS" in os.environ:
    pytest_focus_breaker.locust.REQUEST_SECONDS = float(os.environ["REQUEST_SECONDS"])
# Debian's package has an empty version, and a master takes a worker without a version for one that is too old.
locust.runners.__version__ = locust.runners.__version__ or "2.12.1"


class ConfigureUser(FiberAware, CLIENT):
    wait_time = constant(0.1)
    focus_breaker_url = os.environ.get("NAMED_PROXY")
    parked_exit_code = int(os.environ["PARKED_EXIT_CODE"]) if "PARKED_EXIT_CODE" in os.environ else None
    place = "task"

    def configure(self, *_: Any) -> None:
        self.client.post("/configure", json=BODY)

    def on_start(self) -> None:
        if WAY == "on_start":
            self.configure()

    @task
    def start_job(self) -> None:
        if WAY == "a user that stops":
            raise StopUser()
        if WAY == "greenlets of a task":
            gevent.pool.Pool(3).map(self.configure, range(3))
        else:
            self.configure()

    def on_stop(self) -> None:
        self.place = "on_stop"
        try:
            raise ValueError("as in a failed clean-up")
        except ValueError:
            if WAY == "greenlets of on_stop":
                gevent.pool.Pool(3).map(self.configure, range(3))
            else:
                self.configure()

    def context(self) -> Any:
        return {"place": self.place}


def counts(environment: Any) -> Any:
    """The number of users of the run, and of those that are parked."""
    account = pytest_focus_breaker.locust._account_of(environment)
    of_workers = isinstance(environment.runner, locust.runners.MasterRunner)
    all_counts = list(account._of_workers.values()) if of_workers else [account._now()]
    return tuple(map(sum, zip(*all_counts))) or (0, 0)


def quit_when(environment: Any, when: str) -> None:
    """Ends the run as its run time does, but at a moment that does not depend on the machine."""
    expected = environment.parsed_options.num_users
    is_reached = {
        "parked": lambda: counts(environment) == (expected, expected),
        "answered": lambda: environment.stats.total.num_requests >= expected,
    }[when]
    while not is_reached():
        gevent.sleep(0.05)
    environment.runner.quit()


if WAY == "fewer users":

    class Shape(LoadTestShape):
        """Four users until all wait, then one for a moment, while the run continues."""

        since_fewer: Any = None

        def tick(self) -> Any:
            if self.since_fewer is None:
                if counts(the_environment) != (4, 4):
                    return 4, 100
                self.since_fewer = self.get_run_time()
            return (1, 100) if self.get_run_time() < self.since_fewer + 1 else None


@events.init.add_listener
def begin(environment: Any, **_: Any) -> None:
    global the_environment
    the_environment = environment
    if "QUIT_WHEN" in os.environ and not isinstance(environment.runner, locust.runners.WorkerRunner):
        gevent.spawn(quit_when, environment, os.environ["QUIT_WHEN"])


@events.request.add_listener
def answered(context: Any, response: Any, **_: Any) -> None:
    os.write(1, f"{json.dumps({'place': context['place'], 'status': response.status_code})}\n".encode())
