"""What must have come of the transactions of rounds, kept in plain sets and dicts."""

from dataclasses import dataclass, field

from coordinator.round import Arrival, Late, RoundPolicy


@dataclass
class Paper:
    """An assignment, as a person would note it. `counted` is the round in which it counts."""

    task: str
    device: str
    round: int
    version: int
    since: float
    state: str = "working"
    arrived: float = 0.0
    counted: int | None = None
    node: str | None = None
    examples: int = 0


@dataclass
class Sheet:
    """A task's open round. `ending` is a reason, or empty; `closer` who makes the model."""

    policy: RoundPolicy
    places: int
    number: int = 1
    version: int = 0
    opened: float = 0.0
    started: float | None = None
    ending: str = ""
    closer: str = ""
    running: bool = True
    dropped: int = 0
    arrived: int = 0
    ended: float = 0.0
    served: set[str] = field(default_factory=set)

    def over(self, now: float) -> bool:
        """Whether nothing counts any more."""
        late = self.started is not None and now >= self.started + self.policy.deadline
        return bool(self.ending) or late

    def due(self, now: float) -> str:
        """Why it has to end now, or nothing."""
        if self.ending:
            return ""
        if self.arrived >= self.policy.goal:
            return "goal"
        if not self.over(now):
            return ""
        return "deadline" if self.arrived >= self.policy.minimum else "too_few"

    def arrival(self, paper: Paper | None, now: float) -> Arrival:
        """What an update is."""
        if paper is None or paper.state not in ("accepted", "working"):
            return Arrival.LATE
        if paper.state == "accepted":
            return Arrival.DUPLICATE
        if self.policy.late is Late.REFUSE:
            own = paper.round == self.number and not self.over(now)
            return Arrival.COUNTS if own else Arrival.LATE
        if self.version - paper.version > self.policy.max_staleness:
            return Arrival.LATE
        return Arrival.WAIT if self.over(now) else Arrival.COUNTS

    def has_place(self, paper: Paper) -> bool:
        """Whether an assignment at work has one of the round's places."""
        buffers = self.policy.late is Late.BUFFER
        return paper.state == "working" and (buffers or paper.round == self.number)

    def in_vain(self, paper: Paper, now: float) -> bool:
        """Whether, the round having ended at `now`, an assignment at work can count no more."""
        if not self.running or self.policy.late is Late.REFUSE:
            return True
        stale = self.version - paper.version > self.policy.max_staleness
        return stale or paper.since + self.policy.longest <= now
