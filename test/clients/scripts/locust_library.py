"""Locust as a library, with the mixin imported first: one user sends one configure to HOST, over TLS."""

import json
import os
import sys

from pytest_focus_breaker.locust import FiberAware

import gevent
from locust import HttpUser, constant, task
from locust.env import Environment


class ConfigureUser(FiberAware, HttpUser):
    host = sys.argv[1]
    wait_time = constant(0.1)

    def on_start(self) -> None:
        self.client.verify = sys.argv[2]

    @task
    def configure(self) -> None:
        self.client.post("/configure", json=json.loads(os.environ["CONFIGURE_BODY"]))


environment = Environment(user_classes=[ConfigureUser])
runner = environment.create_local_runner()
runner.start(1, spawn_rate=1)
with gevent.Timeout(15):
    while environment.stats.total.num_requests == 0:
        gevent.sleep(0.05)
runner.quit()
print(json.dumps({"failures": environment.stats.total.num_failures}))
