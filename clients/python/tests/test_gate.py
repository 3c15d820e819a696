"""How long answers are believed and how long is waited, with a clock that only moves when somebody waits."""

from typing import Any, Optional

import pytest

from pytest_focus_breaker.gate import Gate
from pytest_focus_breaker.proxy import Admitted, Refused, Unreachable

THERE = Admitted("closed", "then")
MISSING = Refused("waiting_for_fiber", "prr", "then", None, None)
RECOVERING = Refused("recovering", "full", "then", None, None)
GONE = Unreachable("refused")


class World:
    """A proxy that says what stands in `timeline`, each until its second."""

    def __init__(self, *timeline: tuple[float, Any], can_hold: bool = True) -> None:
        self.timeline = timeline
        self.can_hold = can_hold
        self.now = 0.0
        self.questions = 0
        self.told: list[tuple[str, float]] = []

    def fiber(self) -> Any:
        self.questions += 1
        return next(answer for until, answer in self.timeline if self.now < until)

    def wait(self, seconds: float) -> Optional[Any]:
        self.questions += 1
        if not self.can_hold:
            return None
        end = self.now + seconds
        while self.now < end and not isinstance(self._now(), (Admitted, Unreachable)):
            self.now += 0.25
        return self._now()

    def _now(self) -> Any:
        return next(answer for until, answer in self.timeline if self.now < until)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def gate(self, wait_seconds: float = 0.0) -> Gate:
        proxy: Any = self
        return Gate(
            proxy, max_age_seconds=3, wait_seconds=wait_seconds, clock=lambda: self.now, sleep=self.sleep
        )

    def tell(self, answer: Refused, seconds: float) -> None:
        self.told.append((answer.status, seconds))


EVER = float("inf")


def test_an_answer_is_believed_for_its_age_and_no_longer():
    world = World((2, THERE), (EVER, MISSING))
    gate = world.gate()
    assert gate.look() == THERE
    world.now = 2.9
    assert gate.look() == THERE
    assert gate.look(fresh=True) == MISSING
    world.now = 5.0
    assert gate.look() == MISSING
    assert world.questions == 2
    world.now = 6.0
    gate.look()
    assert world.questions == 3


def test_the_absence_of_the_proxy_is_believed_longer_and_then_looked_at_again():
    world = World((10, GONE), (EVER, THERE))
    gate = world.gate()
    assert gate.look() == GONE
    assert world.questions == 2
    world.now = 29
    assert gate.look(fresh=True) == GONE
    assert gate.admit(world.tell) == GONE
    assert world.questions == 2
    world.now = 40
    assert gate.look() == THERE


def test_a_missing_fiber_is_not_waited_for_unless_that_is_wanted():
    world = World((EVER, MISSING))
    assert world.gate().admit(world.tell) == MISSING
    assert (world.now, world.told) == (0, [])


@pytest.mark.parametrize("can_hold", [True, False])
def test_a_recovery_is_waited_for_a_moment(can_hold):
    world = World((12, RECOVERING), (EVER, THERE), can_hold=can_hold)
    assert world.gate().admit(world.tell) == THERE
    assert 12 <= world.now <= 14
    assert world.told == [("recovering", 30)]


@pytest.mark.parametrize("can_hold", [True, False])
def test_a_recovery_that_does_not_end_costs_its_moment_once(can_hold):
    world = World((EVER, RECOVERING), can_hold=can_hold)
    gate = world.gate()
    for _ in range(100):
        assert gate.admit(world.tell) == RECOVERING
    assert 30 <= world.now <= 32


@pytest.mark.parametrize("can_hold", [True, False])
def test_the_wait_is_once_an_outage_and_not_once_a_test(can_hold):
    world = World((1000, MISSING), (1010, THERE), (EVER, MISSING), can_hold=can_hold)
    gate = world.gate(wait_seconds=60)
    for _ in range(100):
        assert gate.admit(world.tell) == MISSING
    assert 60 <= world.now <= 62
    assert world.told == [("waiting_for_fiber", 60)]
    world.now = 1005
    assert gate.admit(world.tell) == THERE
    world.now = 1010
    assert gate.admit(world.tell) == MISSING
    assert 1070 <= world.now <= 1072


def test_a_proxy_that_goes_away_while_somebody_waits_may_come_back():
    world = World((10, MISSING), (25, GONE), (40, MISSING), (EVER, THERE))
    assert world.gate(wait_seconds=600).admit(world.tell) == THERE
    assert world.now <= 43


def test_a_proxy_that_goes_away_for_good_is_not_waited_for_all_the_time():
    world = World((10, MISSING), (EVER, GONE))
    assert world.gate(wait_seconds=600).admit(world.tell) == GONE
    assert world.now <= 45


def test_a_proxy_that_lets_everybody_go_at_once_is_not_asked_in_a_whirl():
    world = World((EVER, MISSING))
    world.wait = lambda seconds: MISSING  # type: ignore[method-assign]
    assert world.gate(wait_seconds=60).admit(world.tell) == MISSING
    assert world.now == 60


def test_what_is_known_can_be_forgotten():
    world = World((EVER, THERE))
    gate = world.gate()
    gate.look()
    gate.forget()
    gate.look()
    assert world.questions == 2
