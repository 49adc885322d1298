"""The referee catches what is wrong, with its story, and accuses nobody else."""

from dataclasses import replace

import pytest

from coordinator.aggregation import Sum, recipe
from coordinator.round import Arrival, Ending, Late, Phase, Reason, Round
from fleet.virtual import HONEST, LYING, SILENT, SLOW, Behaviour, InvariantBroken
from tests.fleet.virtual.play import EVERY, SOME, late, played, task
from wire.messages import WaitReason


class Wrong(Round):
    """A round that goes wrong, and so do those after it."""

    def following(self, version, places, now):
        return type(self)(**vars(super().following(version, places, now)))


class CountsTwice(Wrong):
    def arrival(self, held, now):
        found = super().arrival(held, now)
        return Arrival.COUNTS if found is Arrival.DUPLICATE else found


class CountsAfterTheEnd(Wrong):
    def arrival(self, held, now):
        return Arrival.COUNTS if held.state == "expired" else super().arrival(held, now)


class TakesNothing(Wrong):
    def arrival(self, held, now):
        return Arrival.LATE


class ForgetsWhatCounted(Wrong):
    def counted(self, held, now):
        found = super().counted(held, now)
        return replace(found, arrived=2) if found.arrived == 3 else found


class WaitsForTheGoal(Wrong):
    def due(self, now):
        found = super().due(now)
        return found if found and found.reason is Reason.GOAL else None


class MovesItsDeadline(Wrong):
    def counted(self, held, now):
        found = super().counted(held, now)
        return replace(found, started=found.started + 30)


class GoesOnAfterTheGoal(Wrong):
    def due(self, now):
        found = super().due(now)
        return None if found and found.reason is Reason.GOAL else found


class EndsEarly(Wrong):
    def due(self, now):
        early = self.arrived >= self.policy.minimum and self.ending is None
        return Ending(Phase.CLOSED, Reason.GOAL) if early else super().due(now)


class ClosesWithTooFew(Wrong):
    def due(self, now):
        found = super().due(now)
        few = found and found.reason is Reason.TOO_FEW
        return Ending(Phase.CLOSED, Reason.DEADLINE) if few else found


class TakesEverybody(Wrong):
    def refusal(self, served, now):
        found = super().refusal(served, now)
        return None if found is WaitReason.ROUND_FULL else found


class ServesTwice(Wrong):
    def refusal(self, served, now):
        return super().refusal(False, now)


class OneAtATime(Wrong):
    def refusal(self, served, now):
        return super().refusal(served, now) or (WaitReason.ROUND_FULL if self.working else None)


class KeepsThePlaceOfTheGone(Wrong):
    def left(self, held):
        return self


class NeverEnds(Wrong):
    deadline = None


class WrongStaleness(Wrong):
    def staleness(self, held):
        return 0


class AsksTooMany(Wrong):
    def following(self, version, places, now):
        return super().following(version, 1000, now)


TARDY = {HONEST: 20, Behaviour(training=1500.0, spread=0.5): 20}


@pytest.mark.parametrize(
    ("broken", "devices", "policy", "story"),
    [
        (CountsTwice, SOME, Late.REFUSE, "counts twice"),
        (CountsAfterTheEnd, SOME, Late.REFUSE, "counts without a place"),
        (TakesNothing, SOME, Late.REFUSE, "came in time and for the first time, but is called la"),
        (ForgetsWhatCounted, SOME, Late.REFUSE, "its own counts are wrong"),
        (WaitsForTheGoal, {SILENT: 10, HONEST: 3}, Late.REFUSE, "it goes on after its deadline"),
        (MovesItsDeadline, {SILENT: 10, HONEST: 6}, Late.REFUSE, "says that it opened at"),
        (GoesOnAfterTheGoal, SOME, Late.REFUSE, "it has its goal and goes on"),
        (EndsEarly, SOME, Late.REFUSE, r"it ended as closed \(goal\)"),
        (ClosesWithTooFew, {SILENT: 15}, Late.REFUSE, r"it ended as closed \(deadline\)"),
        (TakesEverybody, SOME, Late.REFUSE, "15 places were taken when one more was given"),
        (ServesTwice, {LYING: 5, SILENT: 3}, Late.REFUSE, "serves twice in it"),
        (OneAtATime, SOME, Late.REFUSE, "got none of its free places"),
        (KeepsThePlaceOfTheGone, {LYING: 15}, Late.REFUSE, "its own counts are wrong"),
        (NeverEnds, {Behaviour(vanishes=1.0): 3}, Late.REFUSE, "it was never ended"),
        (WrongStaleness, TARDY, Late.FOLD, "is not 0 versions late"),
        (AsksTooMany, SOME, Late.BUFFER, "it asks 1000 devices for 10 updates"),
    ],
)
def test_a_broken_round_is_caught_with_its_story(broken, devices, policy, story):
    terms = late(policy, 0 if policy is Late.REFUSE else 2)
    with pytest.raises(InvariantBroken, match=story) as caught:
        played(devices, task(policy=terms, rounds=10, make_round=broken))
    text = str(caught.value)
    assert text.startswith("round ")
    assert "policy: RoundPolicy(goal=10" in text
    assert "begins with" in text or " counts" in text or " to d" in text


def test_a_wrong_sum_is_caught(monkeypatch):
    right = Sum.add

    def twice(self, update):
        right(self, update)
        right(self, update)
        self.weight -= update.examples

    monkeypatch.setattr(Sum, "add", twice)
    with pytest.raises(InvariantBroken, match="its model is"):
        played(SOME)


def test_a_wrong_staleness_factor_is_caught(monkeypatch):
    monkeypatch.setattr(recipe, "staleness_factor", lambda staleness, exponent: 1.0)
    with pytest.raises(InvariantBroken, match="its model is"):
        played(TARDY, task(policy=late(Late.BUFFER, 5), rounds=20))


def test_an_honest_round_is_never_accused():
    for seed in range(12):
        for policy in Late:
            terms = late(policy, 0 if policy is Late.REFUSE else 2)
            played({**EVERY, SLOW: 20}, task(policy=terms, rounds=2), seed=seed)
