"""Whether a round has a place for a device that checks in."""

from datetime import UTC, datetime

import pytest

from coordinator.offer import Candidate, Offered, Refusal, come_back, may_serve, refusal
from coordinator.round import Late, Round, RoundPolicy
from coordinator.selection import Crowd, Standing, Uniform
from fleet.clients import FACTS
from schedules.duration import Duration
from schedules.schedule import Schedule
from wire.messages import CheckIn, WaitReason

NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(("check_in", "population"), [(1200.0, 10_000), (60.0, 1_000_000)])
def test_everybody_is_admitted_while_there_is_time_to_train(check_in: float, population: int):
    policy = RoundPolicy(goal=10, minimum=5, deadline=1800.0, late=Late.REFUSE, max_staleness=0)
    begun = Round(1, 0, policy, 13, opened=0.0, working=1, started=0.0)
    schedule = Schedule(round_deadline=Duration(1800.0), check_in=Duration(check_in))

    offered = Offered("digits", begun, Uniform(), schedule, Crowd(population=population))

    def admitted(now: float) -> int:
        candidates = [Candidate(f"device-{number}", Standing(), 0) for number in range(100)]
        return sum(refusal(each, offered, now, NOON, 0.0) is None for each in candidates)

    assert admitted(1.0) < 5
    assert admitted(0.6 * 1800.0 + 1) == 100


@pytest.mark.parametrize(
    ("tasks", "without", "labels", "expected"),
    [
        (None, (), {}, False),
        (None, (), {"site": "north"}, True),
        (None, (), {"site": "south"}, False),
        (None, (), {"site": "north", "board": "pi"}, True),
        (None, ("digits",), {"site": "north"}, False),
        (("digits",), (), {"site": "north"}, True),
        (("other",), (), {"site": "north"}, False),
        (("digits",), ("digits",), {"site": "north"}, False),
    ],
)
def test_a_device_serves_what_it_wants_to_and_has_the_labels_for(
    tasks: tuple[str, ...] | None,
    without: tuple[str, ...],
    labels: dict[str, str],
    expected: bool,
):
    message = CheckIn(protocols=(1,), facts=FACTS, tasks=tasks, without=without)
    assert may_serve(message, labels, "digits", {"site": "north"}) is expected


def test_it_comes_back_when_the_first_of_its_tasks_may_have_work():
    closed, resting = Refusal(WaitReason.WINDOW_CLOSED, 7200.0), Refusal(WaitReason.RESTING, 900.0)
    done = Refusal(WaitReason.TASK_DONE)
    wait = come_back([(closed, 600.0), (done, 60.0), (resting, 600.0)], population=10, now=0.0)
    assert wait.reason is WaitReason.RESTING
    assert 900.0 <= wait.after < wait.before < 1800.0


@pytest.mark.parametrize(
    ("refusals", "reason"),
    [([], WaitReason.NO_TASK), ([(Refusal(WaitReason.TASK_DONE), 60.0)], WaitReason.TASK_DONE)],
)
def test_without_a_task_it_comes_by_now_and_then(
    refusals: list[tuple[Refusal, float]], reason: WaitReason
):
    wait = come_back(refusals, population=10, now=0.0)
    assert wait.reason is reason
    assert 75.0 <= wait.after < wait.before <= 600.0
