"""Whether a round has a place for a device that checks in."""

from datetime import UTC, datetime

import pytest

from coordinator.offer import Candidate, refusal
from coordinator.round import Late, Round, RoundPolicy
from coordinator.selection import Crowd, Standing, Uniform
from schedules.duration import Duration
from schedules.schedule import Schedule

NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(("check_in", "population"), [(1200.0, 10_000), (60.0, 1_000_000)])
def test_everybody_is_admitted_while_there_is_time_to_train(check_in: float, population: int):
    policy = RoundPolicy(goal=10, minimum=5, deadline=1800.0, late=Late.REFUSE, max_staleness=0)
    begun = Round(1, 0, policy, 13, opened=0.0, working=1, started=0.0)
    schedule = Schedule(round_deadline=Duration(1800.0), check_in=Duration(check_in))

    def admitted(now: float) -> int:
        return sum(
            refusal(
                Candidate(f"device-{number}", Standing(), 0),
                *("digits", begun, Uniform(), schedule, Crowd(population=population)),
                *(now, NOON, 0.0),
            )
            is None
            for number in range(100)
        )

    assert admitted(1.0) < 5
    assert admitted(0.6 * 1800.0 + 1) == 100
