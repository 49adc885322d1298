"""What the admin API answers: typed, so that the command line and scripts can rely on it."""

import msgspec

from coordinator.figures import MetricView
from coordinator.selection import Standing
from coordinator.selection.standing import rests_until
from coordinator.store.handing import Trouble
from coordinator.store.journal import Place
from coordinator.store.records import RoundRecord, StandingRecord
from wire.messages import Facts


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """A task at a glance. `deadline` is in seconds left; `None` before the first assignment and
    once the round closes. `needs`: what closing a round costs beyond memory of the model's size, if
    anything. `metrics` are what devices say, by version: of the last ones that could be looked at
    in a few seconds."""

    name: str
    state: str
    plan: str
    model: str
    version: int
    weights: int
    codec: str
    round: int
    phase: str
    goal: int
    minimum: int
    working: int
    arrived: int
    deadline: float | None
    needs: str | None = None
    metrics: dict[int, list[MetricView]] = {}


class RoundSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A round at a glance. `version` is that of the model it trains from; of its `places`,
    `working` devices are at work, `dropped` came to nothing; `selected` devices were given one,
    where that was counted. `trouble`: why it is still closing, where that has failed. In seconds:
    `deadline`, from its start; `elapsed`, from its start to its end or to now; the other times
    since the epoch."""

    task: str
    number: int
    version: int
    phase: str
    reason: str | None
    places: int
    selected: int | None = None
    working: int
    updates: int
    dropped: int
    examples: int
    deadline: float
    opened: float
    started: float | None
    ended: float | None
    elapsed: float | None
    trouble: str | None = None


def summary(
    row: RoundRecord,
    deadline: float,
    now: float,
    selected: int | None = None,
    trouble: Trouble | None = None,
) -> RoundSummary:
    """A round's record, for those who ask."""
    end = now if row.ended is None else row.ended
    return RoundSummary(
        task=row.task,
        number=row.number,
        version=row.version,
        phase=row.phase,
        reason=row.reason,
        places=row.places,
        selected=selected,
        working=row.working,
        updates=row.arrived,
        dropped=row.dropped,
        examples=row.examples,
        deadline=deadline,
        opened=row.opened,
        started=row.started,
        ended=row.ended,
        elapsed=None if row.started is None else max(0.0, end - row.started),
        trouble=None if trouble is None else _trouble(trouble),
    )


def _trouble(found: Trouble) -> str:
    times = "once" if found.failures == 1 else f"{found.failures} times"
    return f"closing failed {times}, last on {found.host}: {found.reason}"


class TaskDetail(msgspec.Struct, frozen=True, kw_only=True):
    """A task with its definition and last rounds."""

    task: TaskView
    definition: str
    rounds: list[RoundSummary]


class AssignmentView(msgspec.Struct, frozen=True, kw_only=True):
    """What one device did in a round. `assigned`, `ended` and `late` (when its update came, though
    it could count no more) are seconds from the round's first assignment, `lateness` the seconds
    after the deadline at which its update came: negative in time, `None` when none came.

    `staleness`: versions between its model and the round's. `counted`: the round in which its
    update counts. `seen_after`: seconds from its assignment to the device's last check-in, 0 when
    it has not been seen since. `streak`: the device's failures in a row in this task until now, for
    which it rests another `rests` seconds.
    """

    id: str
    device: str
    name: str
    round: int
    version: int
    staleness: int
    state: str
    reason: str | None
    detail: str | None
    assigned: float
    ended: float | None
    late: float | None
    lateness: float | None
    counted: int | None
    bytes: int | None
    examples: int | None
    steps: int | None
    loss: float | None
    seen_after: float
    streak: int
    rests: float | None


def assignment_view(place: Place, found: RoundSummary, now: float) -> AssignmentView:
    """One place of a round."""
    start = found.opened if found.started is None else found.started
    came = place.late if place.late is not None else place.ended
    arrived = place.late is not None or place.state in ("accepted", "refused")
    return AssignmentView(
        id=place.id,
        device=place.device,
        name=place.name,
        round=place.round,
        version=place.version,
        staleness=max(0, found.version - place.version),
        state=place.state,
        reason=place.reason,
        detail=place.detail,
        assigned=place.assigned - start,
        ended=None if place.ended is None else place.ended - start,
        late=None if place.late is None else place.late - start,
        lateness=came - start - found.deadline if arrived and came is not None else None,
        counted=place.counted,
        bytes=place.length,
        examples=place.examples,
        steps=place.steps,
        loss=place.loss,
        seen_after=max(0.0, place.seen - place.assigned),
        streak=place.streak,
        rests=_rests(place.streak, place.failed_at, now),
    )


class OutcomeView(msgspec.Struct, frozen=True, kw_only=True):
    """How many of a round's assignments came to the same."""

    state: str
    reason: str | None
    assignments: int


class RoundView(msgspec.Struct, frozen=True, kw_only=True):
    """A round, what became of everyone in it, and one page of them, in order of assignment. `after`
    asks for the next page; `None` at the end."""

    round: RoundSummary
    outcomes: list[OutcomeView]
    assignments: list[AssignmentView]
    after: str | None = None


class StandingView(msgspec.Struct, frozen=True, kw_only=True):
    """A device in a task in which it has failed: `streak` times in a row until now, for which it
    rests another `rests` seconds."""

    task: str
    accepted: int
    failed: int
    streak: int
    rests: float | None


def standing_view(row: StandingRecord, now: float) -> StandingView:
    """A standing, for those who ask."""
    return StandingView(
        task=row.task,
        accepted=row.accepted,
        failed=row.failed,
        streak=row.streak,
        rests=_rests(row.streak, row.failed_at, now),
    )


def _rests(streak: int, failed_at: float | None, now: float) -> float | None:
    """For how many seconds from `now` a device that failed `streak` times in a row, the last time
    at `failed_at`, still rests; `None` when it does not."""
    until = rests_until(Standing(streak=streak, failed_at=failed_at))
    return until - now if until is not None and until > now else None


class DeviceView(msgspec.Struct, frozen=True, kw_only=True):
    """A device; `seen` is seconds ago; `standings` are of the tasks that it has failed in."""

    id: str
    name: str
    labels: dict[str, str]
    facts: Facts
    seen: float
    standings: list[StandingView] = []


class DevicePage(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the fleet's devices, by id. `after` asks for the next page; `None` at the end.
    `population`: how many there are."""

    devices: list[DeviceView]
    population: int
    after: str | None = None


MOST_USES, LONGEST_LIFETIME = 1_000_000, 366 * 86400.0
"""Of an enrolment token, at most."""


class NewToken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for an enrolment token; `lifetime` in seconds, from 1 on."""

    uses: int = 1
    lifetime: float = 86400.0


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """An enrolment token, shown once."""

    token: str


class NewTask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A task to start: its file's text, and the digests of blobs put before."""

    definition: str
    plan: str
    model: str
