"""The coordinator: devices, tokens and running tasks over one store. HTTP is a shell around it."""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import msgspec

from coordinator import credentials, leaving, taskfile
from coordinator.errors import (
    Conflict,
    CoordinatorError,
    Denied,
    NotFound,
    Refused,
    UpgradeNeeded,
    unknown_device,
)
from coordinator.ledger import Services
from coordinator.metrics import Metrics
from coordinator.running import RunningTask
from coordinator.store.blobs import BlobStore
from coordinator.store.database import Database, StoreError
from coordinator.store.records import DeviceRecord, EvaluationRecord, TaskRecord
from coordinator.store.spool import Spool
from coordinator.store.worker import Worker
from schedules.clock import Clock, SystemClock
from schedules.pacing import RetryWindow, retry_window
from wire import PROTOCOL_VERSIONS, checkpoint
from wire.errors import Rule, WireError
from wire.files import write_durably
from wire.messages import (
    Assignment,
    CheckIn,
    CheckInReply,
    Enroll,
    Enrolled,
    Facts,
    Left,
    Wait,
    WaitReason,
)
from wire.plan import Manifest, parse_manifest

ADMIN_FILE = "admin.token"

log = logging.getLogger(__name__)

_FLUSH_SECONDS = 60.0  # how often "last seen" goes to disk: nothing depends on it
_IDLE_CHECK_IN = 300.0  # the usual wait of a device that has no task at all
_LARGEST_METRIC = 3.5e38  # float32's range: a lie beyond it would spoil every mean


class Coordinator:
    """All of the server's state. Use `open_coordinator`."""

    def __init__(self, services: Services, admin_token: str) -> None:
        self.services = services
        self.tasks: dict[str, RunningTask] = {}
        self.devices: dict[str, DeviceRecord] = {}
        self._admin = credentials.hashed(admin_token)
        self._seen: dict[str, tuple[Facts, float]] = {}
        self._group: asyncio.TaskGroup
        self._owned: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()  # one at a time: a task is created, a device leaves

    # Life

    async def load(self) -> None:
        """Bring back everything from the store; each interrupted round goes on."""
        call = self.services.worker.call
        self.devices = {d.id: d for d in await call(self.services.database.devices)}
        for record in await call(self.services.database.tasks):
            source = f"task {record.name}"
            try:
                task = await asyncio.to_thread(taskfile.parse, record.definition, source)
                manifest = parse_manifest(await call(self.services.blobs.get, record.plan))
            except (taskfile.TaskFileError, CoordinatorError, WireError) as error:
                raise StoreError(f"{source} cannot be brought back: {error}") from None
            self.tasks[record.name] = await RunningTask.resume(
                self.services, record, task, manifest
            )
        rounds = [task.round for task in self.tasks.values() if task.running]
        held = {a for r in rounds for a in (*r.working, *r.arrived)}
        await call(self._sweep, held)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the rounds. On the way out every timer is cancelled and awaited; should one fail,
        the body is cancelled and the failure raised: better a restart than a silent stop."""
        try:
            async with asyncio.TaskGroup() as self._group:
                self._own(self._flush_seen(), "flush last seen")
                for task in self.tasks.values():
                    self._own(task.run(), f"rounds of {task.name}")
                try:
                    yield
                finally:
                    for owned in self._owned:
                        owned.cancel()
                    await self._write_seen()
        except BaseExceptionGroup as failures:
            # The first one is the body's own, or what had the body cancelled.
            raise failures.exceptions[0] from None

    def _own(self, work: Coroutine[None, None, None], name: str) -> None:
        task = self._group.create_task(work, name=name)
        self._owned.add(task)
        task.add_done_callback(self._owned.discard)

    def _sweep(self, held: set[str]) -> None:
        for assignment in set(self.services.spool.held()) - held:
            self.services.spool.drop(assignment)

    async def _flush_seen(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            await self._write_seen()

    async def _write_seen(self) -> None:
        seen, self._seen = self._seen, {}
        for device, (facts, now) in seen.items():
            self.devices[device] = msgspec.structs.replace(
                self.devices[device], facts=facts, seen=now
            )
        try:
            await self.services.worker.call(self.services.database.saw, seen)
        except (OSError, sqlite3.Error) as error:
            log.warning("when devices were last seen is not written: %s", error)

    # Credentials

    def check_admin(self, token: str) -> None:
        """Raises `Denied` unless it is the administrator's."""
        if not credentials.matches(token, self._admin):
            raise Denied("not_admin", "this needs the coordinator's admin token")

    def check_device(self, credential: str) -> DeviceRecord:
        """The device whose credential it is. Raises `Denied`."""
        name, secret = credentials.split(credential)
        device = self.devices.get(name)
        if device is None or not credentials.matches(secret, device.secret):
            raise unknown_device()
        return device

    async def new_token(self, uses: int, lifetime: timedelta) -> str:
        """An enrolment token, good for `uses` devices; shown this once."""
        token, secret = credentials.new_id("join"), credentials.new_secret()
        await self.services.worker.call(
            self.services.database.add_token,
            *(token, credentials.hashed(secret), uses),
            self.services.wall() + lifetime.total_seconds(),
        )
        return f"{token}.{secret}"

    async def enroll(self, token: str, message: Enroll) -> Enrolled:
        """Add a device. Raises `Denied` when the token is not good (any more)."""
        name, secret = credentials.split(token)
        database, call, now = (
            self.services.database,
            self.services.worker.call,
            self.services.wall(),
        )
        stored = await call(database.token_secret, name, now)
        own = credentials.new_secret()
        device = DeviceRecord(
            id=credentials.new_id("device"),
            name=message.name,
            secret=credentials.hashed(own),
            labels=message.labels,
            facts=message.facts,
            enrolled=now,
            seen=now,
        )
        good = stored is not None and credentials.matches(secret, stored)
        if not good or not await call(database.enroll, device, name):
            raise Denied("bad_token", "the enrolment token is wrong, used up or expired")
        self.devices[device.id] = device
        log.info("device %s (%s) enrolled", device.id, device.name)
        return Enrolled(device=device.id, secret=f"{device.id}.{own}")

    async def leave(self, device: str) -> Left:
        """A device leaves the fleet for good, by its own wish or the administrator's. Returns when
        that is durable. Raises `Denied` when there is no such device (any more)."""
        async with self._changing:
            if device not in self.devices:
                raise unknown_device()
            tasks = list(self.tasks.values())
            withdrawn = await leaving.withdraw(self.services, tasks, device)
            del self.devices[device]
            self._seen.pop(device, None)
        log.info("device %s left: %d updates dropped", device, withdrawn.dropped)
        await leaving.sweep(tasks, withdrawn)
        return Left(dropped=withdrawn.dropped, published=withdrawn.published)

    def last_seen(self, device: DeviceRecord) -> float:
        """When the device last checked in, in seconds since the epoch."""
        return self._seen[device.id][1] if device.id in self._seen else device.seen

    # Check-in

    async def check_in(self, device: DeviceRecord, message: CheckIn) -> CheckInReply:
        """Work for the device, or when to come back."""
        protocol = common_protocol(message.protocols)
        if device.id not in self.devices:  # it left while its message was on the way
            raise unknown_device()
        self._seen[device.id] = (message.facts, self.services.wall())
        tasks = self._tasks_of(device, message)
        await self._store_evaluations(device, message, tasks)
        reasons: list[tuple[WaitReason, RunningTask]] = []
        # Work that the device already has comes first: it serves one task at a time. Then the task
        # whose round has waited longest, so that none starves.
        for task in sorted(tasks, key=lambda t: (not t.round.held_by(device.id), t.opened)):
            offer = await task.offer(device.id, self.services.clock.now())
            if isinstance(offer, Assignment):
                return self._reply(protocol, tasks, "assignment", assignment=offer)
            reasons.append((offer, task))
        wait = self._wait(reasons)
        return self._reply(protocol, tasks, str(wait.reason), wait=wait)

    def _reply(
        self,
        protocol: int,
        tasks: list[RunningTask],
        answer: str,
        assignment: Assignment | None = None,
        wait: Wait | None = None,
    ) -> CheckInReply:
        self.services.metrics.check_ins.labels(answer).inc()
        return CheckInReply(
            protocol=protocol,
            assignment=assignment,
            wait=wait,
            published=tuple(task.model for task in tasks),
        )

    def _tasks_of(self, device: DeviceRecord, message: CheckIn) -> list[RunningTask]:
        return [
            task
            for task in self.tasks.values()
            if task.record.state != "stopped"
            and (message.tasks is None or task.name in message.tasks)
            and task.name not in message.without
            and task.task.participants.labels.items() <= device.labels.items()
        ]

    def _wait(self, reasons: list[tuple[WaitReason, RunningTask]]) -> Wait:
        """When to come back: as soon as the first of the device's tasks may have work."""
        now, population = self.services.clock.now(), len(self.devices)
        windows = [
            (
                retry_window(t.timing.seconds_to_opening(now), t.timing.check_in, population),
                r,
            )
            for r, t in reasons
            if r is not WaitReason.TASK_DONE
        ]
        nothing = WaitReason.TASK_DONE if reasons else WaitReason.NO_TASK
        idle: tuple[RetryWindow, WaitReason] = (
            retry_window(0.0, _IDLE_CHECK_IN, population),
            nothing,
        )
        window, reason = min(windows, default=idle)
        return Wait(reason=reason, after=window.after, before=window.before)

    async def _store_evaluations(
        self, device: DeviceRecord, message: CheckIn, tasks: list[RunningTask]
    ) -> None:
        known = {task.name: task for task in tasks}
        records = [
            EvaluationRecord(
                task=e.task,
                version=e.version,
                device=device.id,
                # One device's word weighs no more here than in the model.
                examples=min(e.examples, known[e.task].task.aggregation.max_examples),
                metrics=e.metrics,
            )
            for e in message.evaluations
            if e.task in known
            and e.version <= known[e.task].model.version
            and e.metrics.keys() == {m.name for m in known[e.task].manifest.metrics}
            and all(abs(value) <= _LARGEST_METRIC for value in e.metrics.values())
        ]
        if records:
            await self.services.worker.call(self.services.database.add_evaluations, records)

    # Assignments

    async def task_of(self, assignment: str, device: str) -> RunningTask | None:
        """The task whose round holds `assignment`; `None` when its update was accepted in a round
        that has ended. Raises `NotFound` unless it is the device's own, `Conflict` when late."""
        for task in self.tasks.values():
            owner = task.round.device_of(assignment)
            if owner == device:
                return task
        row = await self.services.worker.call(self.services.database.assignment, assignment)
        if row is None or row.device != device:
            raise NotFound("unknown_assignment", f"this device has no assignment {assignment}")
        if row.state != "accepted":
            raise Conflict("late", f"assignment {assignment} has ended: {row.state}")
        return None

    # Tasks

    async def create_task(self, definition: str, plan: str, model: str) -> RunningTask:
        """Start a task from blobs that are already stored. Raises `Refused`, `Conflict`."""
        async with self._changing:
            try:
                task = await asyncio.to_thread(taskfile.parse, definition)
                manifest = await self.services.worker.call(self._check_plan, plan, model)
            except (taskfile.TaskFileError, WireError) as error:
                raise Refused("bad_task", str(error)) from None
            if task.name in self.tasks:
                raise Conflict("task_exists", f"there is a task {task.name!r}: choose another name")
            for problem in _contradictions(task, manifest):
                raise Refused("bad_task", f"the plan was not compiled from this task: {problem}")
            record = TaskRecord(
                name=task.name,
                state="running",
                definition=definition,
                plan=plan,
                created=self.services.wall(),
            )
            await self.services.worker.call(self.services.database.create_task, record, model)
            running = await RunningTask.resume(self.services, record, task, manifest)
            self.tasks[task.name] = running
            self._own(running.run(), f"rounds of {task.name}")
            return running

    def _check_plan(self, plan: str, model: str) -> Manifest:
        manifest = parse_manifest(self.services.blobs.get(plan))
        for name, file in manifest.files.items():
            if len(self.services.blobs.get(file.digest)) != file.bytes:
                raise WireError(Rule.BAD_DIGEST, f"{name} is not of the size stated")
        checkpoint.read(self.services.blobs.get(model), manifest.parameters)
        return manifest

    def task(self, name: str) -> RunningTask:
        """A task by name. Raises `NotFound`."""
        if name not in self.tasks:
            known = ", ".join(self.tasks) or "none"
            raise NotFound("unknown_task", f"no task {name!r}; tasks here: {known}")
        return self.tasks[name]


def common_protocol(spoken: tuple[int, ...]) -> int:
    """The newest protocol version that both sides speak. Raises `UpgradeNeeded`."""
    common = set(spoken) & set(PROTOCOL_VERSIONS)
    if not common:
        served = ", ".join(map(str, PROTOCOL_VERSIONS))
        raise UpgradeNeeded(
            "upgrade", f"this coordinator serves protocol {served}: upgrade the agent"
        )
    return max(common)


def _contradictions(task: taskfile.TaskFile, manifest: Manifest) -> list[str]:
    """Where a plan says otherwise than the task file that comes with it."""
    said = {
        "name": (task.name, manifest.task),
        "training.epochs": (task.training.epochs, manifest.epochs),
        "training.batch": (task.training.batch, manifest.batch),
        "training.metrics": (task.training.metrics, tuple(m.name for m in manifest.metrics)),
        "training.proximal": (task.training.proximal, manifest.mu),
        "keep.tolerance": (task.keep.tolerance, manifest.may_be_worse_by),
        "optimizer.learning_rate": (task.optimizer.learning_rate, manifest.learning_rate),
    }
    return [f"{key} is {a} in the task, {b} in the plan" for key, (a, b) in said.items() if a != b]


def admin_token(state: Path) -> str:
    """The administrator's token, in a file only its owner reads; made at the first start.

    Raises `StoreError` when the file is empty.
    """
    path = state / ADMIN_FILE
    if not path.exists():
        write_durably(path, credentials.new_secret().encode())
    token = path.read_text().strip()
    if not token:
        raise StoreError(f"{path} is empty: delete it, and a new token is made")
    return token


@asynccontextmanager
async def open_coordinator(state: Path, clock: Clock | None = None) -> AsyncIterator[Coordinator]:
    """The coordinator over the folder `state`, with its rounds running. Raises `StoreError`."""
    worker = Worker("store")
    try:
        await worker.call(state.mkdir, 0o700, parents=True, exist_ok=True)
        database = await worker.call(Database, state / "coordinator.sqlite")
        try:
            services = Services(
                database=database,
                blobs=await worker.call(BlobStore, state / "blobs"),
                spool=await worker.call(Spool, state / "spool"),
                worker=worker,
                clock=clock or SystemClock(),
                metrics=Metrics(),
            )
            coordinator = Coordinator(services, await worker.call(admin_token, state))
            await coordinator.load()
            async with coordinator.running():
                yield coordinator
        finally:
            await worker.call(database.close)
    finally:
        await worker.close()
