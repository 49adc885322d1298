"""A model of one weight, learnt in whole numbers: every sum of them is exact, so that the rounds'
arithmetic can be held against a second account to the last bit."""

import math
from random import Random

import numpy as np

from coordinator.aggregation import Contribution, aggregator
from coordinator.aggregation.options import FedAvg
from coordinator.round import Round
from edge_agent.job import Outcome
from fleet.virtual.behaviour import Behaviour
from fleet.virtual.book import VirtualAssignment
from fleet.virtual.learning import Update
from fleet.virtual.reference import ReferenceSum
from fleet.virtual.task import VirtualTask
from wire.errors import WireError
from wire.messages import Assignment
from wire.plan import Parameter

_MODEL = (Parameter(name="w", shape=(1,)),)
_LARGEST_CHANGE, _MOST_EXAMPLES = 8, 15
"""Whole numbers, so small that every sum is exact, staleness and all: see `ReferenceSum`."""
_LEAST_WEIGHT = 2.0**-16  # of a stale update: below it they are not
_LIES = (math.nan, math.inf, -1e30)
_DIGEST = "sha256:" + "0" * 64


class OneWeight:
    """See `fleet.virtual.learning.Learning`. A device's change is drawn, not learnt; what it says
    is (change, examples). Raises `ValueError` where the sums would not be exact: the stalest update
    weighs too little."""

    takes_time = False
    enough = False

    def __init__(self, task: VirtualTask, random: Random) -> None:
        if (1.0 + task.policy.max_staleness) ** -task.staleness_exponent < _LEAST_WEIGHT:
            raise ValueError("staleness_exponent: the stalest update would weigh nothing")
        self._random = random
        self._aggregator = aggregator(FedAvg(), _MODEL, task.staleness_exponent)
        self._model = {"w": np.zeros(1, np.float32)}
        self._exponent = task.staleness_exponent

    # Devices

    def begins(self, device: str, assignment: Assignment, done: float | None) -> None:
        pass

    def outcome(self, assignment: str) -> Outcome:
        return Outcome.DONE

    def update(self, assignment: str, behaviour: Behaviour) -> Update:
        random = self._random
        change = random.randint(1, _LARGEST_CHANGE) * random.choice((-1, 1))
        lie = random.random() < behaviour.lies
        value = random.choice(_LIES) if lie else float(change)
        return Update(assignment, (value, random.randint(1, _MOST_EXAMPLES)))

    def settled(self, assignment: str, answer: str) -> None:
        pass

    # The coordinator

    def assignment(self, given: VirtualAssignment, seconds: float) -> Assignment:
        return Assignment(
            id=given.id,
            task=given.task,
            round=given.round,
            version=given.version,
            plan=_DIGEST,
            model=_DIGEST,
            codec="float32",
            deadline=seconds,
            upload_limit=1 << 20,
            seed=0,
        )

    def opens(self, found: Round) -> None:
        self._sum = self._aggregator.empty()
        self._reference = ReferenceSum(self._exponent)

    def read(self, update: Update) -> Contribution:
        value, examples = update.said
        contribution = Contribution({"w": np.array([value], np.float32)}, examples, 1, 0)
        self._aggregator.check(contribution)
        return contribution

    def add(self, given: VirtualAssignment, update: Update, contribution: Contribution) -> None:
        self._sum.add(contribution)
        value = int(contribution.delta["w"][0])
        self._reference.add(value, contribution.examples, contribution.staleness)

    def close(self, found: Round) -> str:
        before = self._model["w"][0]
        try:
            self._model = self._aggregator.close(self._model, None, self._sum).weights
        except WireError as error:
            return f"its model cannot be made: {error}"
        model, expected = self._model["w"][0], self._reference.after(before)
        return (
            ""
            if model == expected
            else f"its model is {model}, not {before} and the mean: {expected}"
        )

    def gone(self, assignment: str) -> None:
        pass

    def ended(self, found: Round) -> None:
        pass
