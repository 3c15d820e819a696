"""How long answers are reused and how long a test waits, with a clock that only moves during waits."""

from typing import Any, Optional

import pytest

from pytest_focus_breaker.gate import Gate
from pytest_focus_breaker.patience import OwnPatience, WorkersPatience
from pytest_focus_breaker.proxy import Admitted, Refused, Unreachable

THERE = Admitted("closed", "then")
MISSING = Refused("waiting_for_fiber", "prr", "then", None, None)
RECOVERING = Refused("recovering", "full", "then", None, None)
GONE = Unreachable("refused")
SILENT = Unreachable("timeout", seconds=5)


class World:
    """A proxy with the answers of `timeline`, each until its second."""

    def __init__(self, *timeline: tuple[float, Any], has_wait: bool = True) -> None:
        self.timeline = timeline
        self.has_wait = has_wait
        self.now = 0.0
        self.requests = 0
        self.waits: list[tuple[str, float]] = []

    def fiber(self) -> Any:
        self.requests += 1
        return next(answer for until, answer in self.timeline if self.now < until)

    def wait(self, seconds: float) -> Optional[Any]:
        self.requests += 1
        if not self.has_wait:
            return None
        end = self.now + seconds
        while self.now < end and not isinstance(self._now(), (Admitted, Unreachable)):
            self.now += 0.25
        return self._now()

    def _now(self) -> Any:
        return next(answer for until, answer in self.timeline if self.now < until)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def gate(self, wait_seconds: float = 0.0, patience: Optional[OwnPatience] = None) -> Gate:
        proxy: Any = self
        return Gate(
            proxy,
            patience or OwnPatience(wait_seconds, self.on_wait, clock=lambda: self.now),
            max_age_seconds=3,
            clock=lambda: self.now,
            sleep=self.sleep,
        )

    def on_wait(self, what: str, seconds: float) -> None:
        self.waits.append((what.split(" since ")[0], seconds))


EVER = float("inf")


def test_an_answer_is_reused_until_its_maximum_age():
    world = World((2, THERE), (EVER, MISSING))
    gate = world.gate()
    assert gate.ask() == THERE
    world.now = 2.9
    assert gate.ask() == THERE
    assert gate.peek(fresh=True) == MISSING
    world.now = 5.0
    assert gate.ask() == MISSING
    assert world.requests == 2
    world.now = 6.0
    gate.ask()
    assert world.requests == 3


def test_a_proxy_that_does_not_respond_is_asked_again_after_a_while():
    world = World((10, SILENT), (EVER, THERE))
    gate = world.gate()
    assert gate.ask() == SILENT
    world.now = 29
    assert gate.peek(fresh=True) == SILENT
    assert gate.admit() == SILENT
    assert world.requests == 1
    world.now = 31
    assert gate.ask() == THERE


def test_a_connection_that_is_refused_is_tried_again_for_each_test():
    world = World((10, GONE), (EVER, THERE))
    gate = world.gate()
    for _ in range(100):
        assert gate.admit() == GONE
    # One pause, not one per test.
    assert (world.now, world.requests) == (1, 101)
    world.now = 10
    assert gate.admit() == THERE


@pytest.mark.parametrize("absence", [GONE, SILENT])
def test_an_unreachable_proxy_is_not_remembered_if_no_test_asked(absence):
    world = World((3, absence), (EVER, THERE))
    gate = world.gate()
    assert gate.peek() == absence
    assert (world.now, world.requests) == (0, 1)
    world.now = 3
    assert gate.admit() == THERE
    world.timeline = ((4, absence), (EVER, THERE))
    assert gate.peek(fresh=True) == absence
    world.now = 4
    assert gate.admit() == THERE
    assert world.requests == 4


def test_a_proxy_that_starts_late_is_waited_for_like_the_fiber():
    world = World((3, GONE), (20, MISSING), (EVER, THERE))
    assert world.gate(wait_seconds=60).admit() == THERE
    world = World((3, GONE), (EVER, THERE))
    assert world.gate().admit() == GONE
    assert world.now == 1


@pytest.mark.parametrize("wait_seconds, waited", [(10, 10), (600, 30)])
def test_a_proxy_that_never_starts_is_waited_for_only_briefly(wait_seconds, waited):
    world = World((EVER, GONE))
    gate = world.gate(wait_seconds)
    for _ in range(100):
        assert gate.admit() == GONE
    assert waited <= world.now <= waited + 3


class Interrupted(BaseException):
    """An exception of a timer, a signal or Ctrl+C in the middle of a wait."""


def test_an_interrupted_wait_does_not_start_again():
    world = World((EVER, MISSING))
    gate = world.gate(wait_seconds=60)
    hold = world.wait

    def interrupted(seconds: float) -> Any:
        world.wait = hold  # type: ignore[method-assign]
        world.now += 2
        raise Interrupted

    world.wait = interrupted  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        gate.admit()
    for _ in range(100):
        assert gate.admit() == MISSING
    assert 60 <= world.now <= 62
    assert world.waits == [("waiting for fiber", 60)]


def test_the_processes_of_a_run_wait_once_together():
    world = World((EVER, MISSING))
    patience = OwnPatience(60, world.on_wait, clock=lambda: world.now)
    first, second = world.gate(patience=patience), world.gate(patience=patience)
    assert first.admit() == MISSING
    assert second.admit() == MISSING
    assert 60 <= world.now <= 62
    assert world.waits == [("waiting for fiber", 60)]


class Channel:
    """Both ends of the channel between a pytest-xdist controller and its worker."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.sent: list[Any] = []

    def send(self, message: Any) -> None:
        self.sent.append(message)

    def receive(self, timeout: float) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_a_worker_asks_its_controller_and_continues_without_it():
    world = World((EVER, MISSING))
    channel = Channel(7.0)
    patience = WorkersPatience(channel, OwnPatience(60, world.on_wait, clock=lambda: world.now))
    patience.renew()
    assert patience.begin("the fiber", "outage") == 7.0
    patience.renew()
    patience.renew()
    assert channel.sent == [("begin", "the fiber", "outage"), ("renew",)]
    channel.answer = TimeoutError()
    assert patience.begin("the fiber", "outage") == 60
    channel.answer = 7.0
    world.now += 10
    assert patience.begin("the fiber", "outage") == 50
    assert len(channel.sent) == 3


def test_a_missing_fiber_is_waited_for_only_on_request():
    world = World((EVER, MISSING))
    assert world.gate().admit() == MISSING
    assert (world.now, world.waits) == (0, [])


@pytest.mark.parametrize("has_wait", [True, False])
def test_a_recovery_is_waited_for_a_moment(has_wait):
    world = World((12, RECOVERING), (EVER, THERE), has_wait=has_wait)
    assert world.gate().admit() == THERE
    assert 12 <= world.now <= 14
    assert world.waits == [("recovering", 30)]


@pytest.mark.parametrize("has_wait", [True, False])
def test_a_recovery_that_does_not_end_costs_its_moment_once(has_wait):
    world = World((EVER, RECOVERING), has_wait=has_wait)
    gate = world.gate()
    for _ in range(100):
        assert gate.admit() == RECOVERING
    assert 30 <= world.now <= 32


@pytest.mark.parametrize("has_wait", [True, False])
def test_there_is_one_wait_per_outage_and_not_one_per_test(has_wait):
    world = World((1000, MISSING), (1010, THERE), (EVER, MISSING), has_wait=has_wait)
    gate = world.gate(wait_seconds=60)
    for _ in range(100):
        assert gate.admit() == MISSING
    assert 60 <= world.now <= 62
    assert world.waits == [("waiting for fiber", 60)]
    world.now = 1005
    assert gate.admit() == THERE
    world.now = 1010
    assert gate.admit() == MISSING
    assert 1070 <= world.now <= 1072


def test_a_proxy_that_disappears_during_a_wait_may_come_back():
    world = World((10, MISSING), (25, GONE), (40, MISSING), (EVER, THERE))
    assert world.gate(wait_seconds=600).admit() == THERE
    assert world.now <= 43


def test_a_proxy_that_disappears_for_good_is_waited_for_only_briefly():
    world = World((10, MISSING), (EVER, GONE))
    assert world.gate(wait_seconds=600).admit() == GONE
    assert world.now <= 45


def test_a_proxy_that_responds_to_waits_at_once_is_not_asked_in_a_tight_loop():
    world = World((EVER, MISSING))
    world.wait = lambda seconds: MISSING  # type: ignore[method-assign]
    assert world.gate(wait_seconds=60).admit() == MISSING
    assert world.now == 60


def test_the_answer_can_be_forgotten():
    world = World((EVER, THERE))
    gate = world.gate()
    gate.ask()
    gate.forget()
    gate.ask()
    assert world.requests == 2
