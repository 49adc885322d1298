"""What a task's devices learn, and what the coordinator makes of it: the seam of a fleet in virtual
time. Rounds, places, lateness and all that devices do are the same whatever is learnt.
"""

from typing import Any, NamedTuple, Protocol

from coordinator.aggregation import Contribution
from coordinator.round import Round
from edge_agent.job import Outcome
from fleet.virtual.behaviour import Behaviour
from fleet.virtual.book import VirtualAssignment
from wire.messages import Assignment


class Update(NamedTuple):
    """What a device sends for an assignment; `said` is the learning's own."""

    assignment: str
    said: Any = None


class Learning(Protocol):
    """One task's. The first methods are the devices', by their assignments; the others the
    coordinator's."""

    takes_time: bool
    """Whether how a training ended is known only when its time has passed: see `outcome`."""

    def begins(self, device: str, assignment: Assignment, done: float | None) -> None:
        """A device begins to train, and will be done at that moment; `None`: it will come to
        nothing, whatever is learnt."""

    def outcome(self, assignment: str) -> Outcome:
        """How a training ended that was to be done by now. Asked only if `takes_time`."""

    def update(self, assignment: str, behaviour: Behaviour) -> Update:
        """Of a training that is done."""

    def settled(self, assignment: str, answer: str) -> None:
        """A device has heard for good what became of its update: `accepted`, or why not."""

    def assignment(self, given: VirtualAssignment, seconds: float) -> Assignment:
        """What a device is told; `seconds` are left to it."""

    def opens(self, found: Round) -> None:
        """A round begins: nothing is summed."""

    def read(self, update: Update) -> Contribution:
        """What an update says, of no staleness. Raises `WireError` for one that must not count."""

    def add(self, given: VirtualAssignment, update: Update, contribution: Contribution) -> None:
        """It counts."""

    def close(self, found: Round) -> str:
        """Make the next model; what is wrong with it, as far as a second account can tell, or an
        empty string. Raises `WireError` when none can be made: the model stays as it was."""

    def gone(self, assignment: str) -> None:
        """The update of an assignment can count no more."""

    def ended(self, found: Round) -> None:
        """A round is over: closed or abandoned."""

    @property
    def enough(self) -> bool:
        """Whether no round is to follow."""
