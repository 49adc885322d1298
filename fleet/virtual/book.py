"""What the store knows of a task, kept in memory: who works, who stands where, how rounds went.

The rows and what follows from them are those of `coordinator.store`; what is decided, is
decided by the same pure code.
"""

from collections import Counter, deque
from dataclasses import dataclass

import msgspec

from coordinator.offer import Candidate
from coordinator.round import Held, Late, Round
from coordinator.selection import Crowd, EndedRound, Standing, over_selection
from fleet.virtual.record import Tally
from fleet.virtual.task import VirtualTask

_REMEMBERED = 20  # rounds from which the drop-out rate is estimated
_MEMORY = 0.7  # how much of a device's average time stays when a new one comes
_CROWD_SECONDS = 30.0
_STRANGER = Standing()


@dataclass(slots=True)
class VirtualAssignment:
    """An assignment. `tally` is that of the round in which it was given."""

    id: str
    task: str
    round: int
    version: int
    device: str
    assigned: float
    tally: Tally
    state: str = "working"

    @property
    def held(self) -> Held:
        """As the round must know it."""
        return Held(self.state, self.round, self.version)


class Book:
    """One task's. Of a device that is not in it, nothing is known yet."""

    def __init__(self, task: VirtualTask, population: int) -> None:
        self.working: dict[str, VirtualAssignment] = {}
        self._task = task
        self._population = population
        self._candidates: dict[str, Candidate] = {}
        self._levels: Counter[int] = Counter()  # devices by accepted updates
        self._examples, self._with_examples = 0, 0
        self._crowd = Crowd(population=population)
        self._crowd_until = 0.0
        self._slowest: float | None = None  # from assignment to arrival, in this round
        self._ended: deque[EndedRound] = deque(maxlen=_REMEMBERED)

    def candidate(self, device: str) -> Candidate:
        """A device, as the offer must know it."""
        found = self._candidates.get(device)
        return Candidate(device, _STRANGER, 0) if found is None else found

    def crowd(self, now: float) -> Crowd:
        """All devices as a whole, looked at now and then."""
        if now >= self._crowd_until:
            self._crowd_until = now + _CROWD_SECONDS
            mean = self._examples / self._with_examples if self._with_examples else None
            self._crowd = Crowd(
                population=self._population, examples=mean, accepted=dict(self._levels)
            )
        return self._crowd

    def gave(self, given: VirtualAssignment) -> None:
        """A device has a place."""
        self.working[given.id] = given
        known = self.candidate(given.device)
        if known.served == 0:
            self._levels[0] += 1
        self._candidates[given.device] = known._replace(served=given.round)

    def accepted(self, given: VirtualAssignment, examples: int, now: float) -> None:
        """Its update counts."""
        known = self.candidate(given.device)
        was, took = known.standing, now - given.assigned
        self._levels[was.accepted] -= 1
        self._levels[was.accepted + 1] += 1
        self._examples += examples - (was.examples or 0)
        self._with_examples += was.examples is None
        self._slowest = max(took, self._slowest or 0.0)
        known_seconds = took if was.seconds is None else was.seconds
        standing = Standing(
            accepted=was.accepted + 1,
            failed=was.failed,
            examples=examples,
            seconds=_MEMORY * known_seconds + (1 - _MEMORY) * took,
        )
        self._candidates[given.device] = known._replace(standing=standing)
        self._over(given, "accepted")

    def failed(self, given: VirtualAssignment, state: str, now: float) -> None:
        """It came to nothing."""
        known = self.candidate(given.device)
        was = known.standing
        standing = msgspec.structs.replace(
            was, failed=was.failed + 1, streak=was.streak + 1, failed_at=now
        )
        self._candidates[given.device] = known._replace(standing=standing)
        self._over(given, state)

    def expire(
        self, ended: Round, version: int, last: bool, now: float
    ) -> tuple[list[VirtualAssignment], int]:
        """Those whose update cannot count any more now that a round has ended, from which the model
        `version` came: all of them when it was the `last`. How many of them failed: they had as
        much time as the slowest that counted."""
        assert ended.ended is not None
        policy = self._task.policy
        oldest, since = version - policy.max_staleness, ended.ended - policy.longest
        slowest, self._slowest = self._slowest, None
        before = ended.ended - (policy.deadline if slowest is None else slowest)
        gone = [
            given
            for given in self.working.values()
            if last
            or policy.late is Late.REFUSE
            or given.version < oldest
            or given.assigned <= since
        ]
        failed = 0
        for given in gone:
            if given.assigned <= before:
                failed += 1
                self.failed(given, "expired", now)
            else:
                self._over(given, "expired")
        return gone, failed

    def places(self, ended: Round) -> int:
        """How many devices the round after `ended` asks."""
        asked = ended.arrived + ended.dropped + ended.working
        self._ended.append(EndedRound(asked, ended.arrived, ended.dropped))
        task = self._task
        limit = max(task.over_selection, task.over_selection_limit)
        return task.policy.places(over_selection(task.over_selection, limit, self._ended))

    def _over(self, given: VirtualAssignment, state: str) -> None:
        given.state = state
        del self.working[given.id]
