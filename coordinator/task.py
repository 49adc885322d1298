"""A task as one process knows it: what never changes of it, and how its round stood last."""

import asyncio
from datetime import datetime

import msgspec

from coordinator.bench import Work, strategy_of
from coordinator.errors import NotFound
from coordinator.plans import codec_of
from coordinator.round import Late, Round, RoundPolicy
from coordinator.selection import Crowd
from coordinator.store import rounds, tasks
from coordinator.store.records import AssignmentRecord, ModelRecord, TaskRecord
from coordinator.store.rounds import Terms
from coordinator.store.sql import Steps, Store
from coordinator.summing import Summing
from coordinator.taskfile import AnyTask
from wire.messages import LONGEST_TIME, Assignment, Published
from wire.plan import Manifest
from wire.update import size_limit


class Task:
    """`round`, `model` and `record` are as last seen: what decides is always asked of the store.
    `told` is set when they may have changed."""

    def __init__(
        self,
        record: TaskRecord,
        file: AnyTask,
        manifest: Manifest,
        found: Round,
        model: ModelRecord,
    ) -> None:
        self.record = record
        self.file = file
        self.timing = file.timing
        self.manifest = manifest
        self.terms = terms_of(file)
        self.codec = codec_of(file, manifest)
        self.upload_limit = size_limit(manifest.parameters, self.codec)
        self.work = Work(
            task=record.name,
            plan=record.plan,
            parameters=manifest.parameters,
            codec=self.codec,
            aggregation=file.aggregation,
            staleness_exponent=file.round.staleness_exponent,
            lazy=bool(file.upload.lazy),
        )
        self.aggregator = strategy_of(self.work)
        self.summing = Summing()
        self.round = found
        self.model = model
        self.crowd = Crowd(population=0)
        self.told = asyncio.Event()
        self._shut = 0.0  # when the schedule's window was last seen closed
        self._models: dict[int, ModelRecord] = {}

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def running(self) -> bool:
        """Whether rounds go on."""
        return self.record.state == "running"

    @property
    def published(self) -> Published:
        """The newest model."""
        return self.published_as(self.model)

    def published_as(self, model: ModelRecord) -> Published:
        """A model of this task."""
        return Published(
            task=self.name, version=model.version, plan=self.record.plan, model=model.digest
        )

    def ended(self, state: str) -> None:
        """The task is `stopped` or `done`."""
        self.record = msgspec.structs.replace(self.record, state=state)
        self.told.set()

    def joined(self, now: float, local: datetime) -> float:
        """Since when the round could be joined, on the store's clock: it was open, and the
        schedule's window, too. `local` is the moment `now` on the wall clock."""
        if not self.timing.windows:
            return self.round.opened
        if not self.timing.open_at(local):
            self._shut = now
        return max(self.round.opened, self._shut)

    def saw(self, found: Round) -> None:
        """The round as some transaction left it."""
        if found.number >= self.round.number:
            self.round = found

    async def refresh(self, store: Store) -> None:
        """Ask the store how the round and the newest model stand."""
        self.round, self.model = await store.read(standing_still, self.terms)

    async def model_of(self, version: int, store: Store) -> ModelRecord:
        """The model of a version. Raises `NotFound`."""
        if version == self.model.version:
            return self.model
        if version not in self._models:
            found = await store.read(tasks.model, self.name, version)
            if found is None:
                raise NotFound("unknown_model", f"task {self.name} has no model {version}")
            if len(self._models) > 2 * self.file.round.max_staleness:
                self._models.clear()
            self._models[version] = found
        return self._models[version]

    def assignment(self, row: AssignmentRecord, model: ModelRecord, now: float) -> Assignment:
        """What a device is told. Its deadline is when its update can count no more."""
        return Assignment(
            id=row.id,
            task=self.name,
            round=row.round,
            version=row.version,
            plan=self.record.plan,
            model=model.digest,
            codec=self.codec,
            deadline=min(self.round.time_left(row.round, row.assigned, now), LONGEST_TIME),
            upload_limit=self.upload_limit,
            seed=row.seed,
        )


def terms_of(file: AnyTask) -> Terms:
    """What the rounds need of a task file."""
    late = Late(file.round.late)
    return Terms(
        task=file.name,
        policy=RoundPolicy(
            goal=file.round.goal,
            minimum=file.round.minimum,
            deadline=file.deadline,
            late=late,
            max_staleness=0 if late is Late.REFUSE else file.round.max_staleness,
        ),
        over_selection=file.round.over_selection,
        over_selection_limit=file.round.over_selection_limit,
        rounds=file.round.rounds,
    )


def standing_still(terms: Terms) -> Steps[tuple[Round, ModelRecord]]:
    """The newest round and model of a task, at one moment."""
    found = yield from rounds.load(terms)
    model = yield from tasks.newest_model(terms.task)
    return found, model
