"""The coordinator: one process's devices, tasks and uploads over the store. HTTP is a shell around
it; several processes may be over one store, and each can serve any device."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import NamedTuple

from coordinator import credentials, crowds, gauges, leaving, taskfile, tidying
from coordinator.assignment_cache import AssignmentCache
from coordinator.checkin import Desk
from coordinator.codec_choice import TooSmall
from coordinator.devices import Devices
from coordinator.errors import (
    Conflict,
    CoordinatorError,
    Denied,
    NotFound,
    Refused,
    Unavailable,
    unknown_device,
)
from coordinator.evaluations import Evaluations
from coordinator.intake import Intake
from coordinator.keeper import Keeper
from coordinator.nodes import Nodes
from coordinator.patches import Patches
from coordinator.plans import check_plan, contradictions
from coordinator.round import Round
from coordinator.services import Services
from coordinator.store import tasks as stored
from coordinator.store.records import DeviceRecord, TaskRecord, Withdrawn
from coordinator.store.sql import StoreError, StoreUnavailable
from coordinator.task import Task, standing_still, terms_of
from coordinator.taskfile import AnyTask
from coordinator.trying import Trying
from coordinator.uploads import Uploads
from wire.errors import WireError
from wire.messages import CheckIn, CheckInReply, Left
from wire.plan import Manifest, parse_manifest

log = logging.getLogger(__name__)

_SOON = 1.0  # after a failure, where others wait for the next try
_FAREWELL_SECONDS = 10.0
_CHANGED_SECONDS = 5.0
_CLOSING_SECONDS = 10.0  # that a device which leaves waits for the model made with its update
_LOOK_AGAIN = 0.05


def _parsed(definition: str, source: str = "task file") -> AnyTask:
    """Blocking: a task file with its schedule, which is a file, too, where it is ready-made."""
    file = taskfile.parse(definition, source)
    _ = file.timing
    return file


class _LeftOut(NamedTuple):
    """A task that is not served, and whether it is still to run."""

    why: str
    running: bool


class Coordinator:
    """All of one process. Use `coordinator.start.open_coordinator`."""

    def __init__(self, services: Services, admin_token: str) -> None:
        self.services = services
        self.tasks: dict[str, Task] = {}
        self.devices = Devices(services)
        self._cache = AssignmentCache(services.store)
        self.uploads = Uploads(services, self._cache, self._serving)
        self.desk = Desk(services, self.devices, self._cache)
        self.patches = Patches(services, self.tasks)
        self.evaluations = Evaluations(services.store, services.clock)
        self._admin = credentials.hashed(admin_token)
        self._nodes = Nodes(services.store, services.node)
        self._keepers: dict[str, Keeper] = {}
        self._left_out: dict[str, _LeftOut] = {}
        self._group: asyncio.TaskGroup | None = None
        self._owned: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()  # one at a time: tasks are found or made, a device leaves

    # Life

    async def load(self) -> None:
        """Bring back every task from the store; each interrupted round goes on."""
        await self._nodes.begin()
        await self._find_tasks()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the rounds. On the way out every loop is cancelled and awaited. None ends for an
        error (see `Trying`); should one, the body is cancelled and the failure raised: better a
        restart than a silent stop."""
        try:
            async with asyncio.TaskGroup() as self._group:
                self._own(self.devices.run(), "devices")
                self._own(self._listen(), "changes")
                self._own(self._nodes.keep_beating(), "heartbeat")
                self._own(gauges.keep_looking(self), "gauges")
                services, tasks = self.services, self.tasks
                self._own(crowds.keep_looking(services.store, tasks), "crowds")
                self._own(tidying.keep_tidying_uploads(services, self.uploads), "half uploads")
                self._own(tidying.keep_tidying_models(services, tasks), "old models")
                for task in self.tasks.values():
                    self._start(task)
                try:
                    yield
                finally:
                    for owned in self._owned:
                        owned.cancel()
                    await self._say_farewell()
        except BaseExceptionGroup as failures:
            # The first one is the body's own, or what had the body cancelled.
            raise failures.exceptions[0] from None

    def _own(self, work: Coroutine[None, None, None], name: str) -> None:
        assert self._group is not None
        task = self._group.create_task(work, name=name)
        self._owned.add(task)
        task.add_done_callback(self._owned.discard)

    def _start(self, task: Task) -> None:
        keeper = self._keepers[task.name] = Keeper(self.services, task, self._nodes)
        intake = self.uploads.intakes[task.name] = Intake(self.services, task)
        self._own(keeper.run(), f"rounds of {task.name}")
        self._own(intake.run(), f"intake of {task.name}")

    async def _say_farewell(self) -> None:
        try:
            async with asyncio.timeout(_FAREWELL_SECONDS):
                await self.devices.flush()
                await self._nodes.farewell()
        except (StoreUnavailable, TimeoutError) as error:
            reason = str(error) or "the store does not answer"
            log.warning("this process could not say that it ends: %s", reason)

    async def _listen(self) -> None:
        """Hear what other processes, and this one's own transactions, tell of."""
        trying = Trying("what other processes have changed is not known", _SOON)
        while True:
            async with trying:
                # This asks the store, too, where processes share a file.
                await self.services.store.changed(_CHANGED_SECONDS)
                async with self._changing:
                    await self._find_tasks()
            for task in self.tasks.values():
                task.told.set()

    # Credentials

    def check_admin(self, token: str) -> None:
        """Raises `Denied` unless it is the administrator's."""
        if not credentials.matches(token, self._admin):
            raise Denied("not_admin", "this needs the coordinator's admin token")

    async def leave(self, device: str) -> Left:
        """A device leaves the fleet for good, by its own wish or the administrator's. Returns when
        that is durable. Raises `Denied` when there is no such device (any more), `Unavailable` when
        a model that is made with its update does not get done."""
        withdrawn = await self._withdraw(device)
        if withdrawn is None:
            raise unknown_device()
        self.devices.forget(device)
        for row in withdrawn.assignments:
            self._cache.forget(row.id)
        for name in {row.task for row in withdrawn.assignments} & self.tasks.keys():
            await self.tasks[name].refresh(self.services.store)
        log.info("device %s left: %d updates dropped", device, withdrawn.dropped)
        return Left(dropped=withdrawn.dropped, published=withdrawn.published)

    async def _withdraw(self, device: str) -> Withdrawn | None:
        """As `leaving.withdraw`, once no model is being made with what the device brought."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _CLOSING_SECONDS
        while True:
            try:
                async with self._changing:
                    if self.services.store.shared:  # its tasks may be another process's newest
                        await self._find_tasks()
                    return await leaving.withdraw(self.services, self.tasks, device)
            except Unavailable:
                if loop.time() > until:
                    raise
            await asyncio.sleep(_LOOK_AGAIN)

    async def check_in(self, device: DeviceRecord, message: CheckIn) -> CheckInReply:
        """Work for the device, or when it should come back."""
        return await self.desk.check_in(device, message, self.tasks)

    # Tasks

    async def _find_tasks(self) -> None:
        """Every task of the store is in this process, as it stands."""
        for record in await self.services.store.read(stored.tasks):
            if record.name in self.tasks:
                await self._look(record)
            elif record.name not in self._left_out:
                await self._bring_back(record)

    async def _look(self, record: TaskRecord) -> None:
        task = self.tasks[record.name]
        if task.running and record.state != "running":
            await task.refresh(self.services.store)  # its last model
            task.ended(record.state)
        elif task.running and self.services.store.shared:
            await task.refresh(self.services.store)

    async def _bring_back(self, record: TaskRecord) -> None:
        source = f"task {record.name}"
        try:
            file = await asyncio.to_thread(_parsed, record.definition, source)
            manifest = parse_manifest(await self.services.blobs.get(record.plan))
            found, model = await self.services.store.read(standing_still, terms_of(file))
            await self.services.blobs.get(model.digest)
            task = Task(record, file, manifest, found, model)
        except taskfile.TaskFileError as error:
            self._leave_out(record, f"{error}: run the version that it was made with")
        except TooSmall as error:
            why = f"{source}: upload.budget: {error}"
            self._leave_out(record, f"{why}: run the version that it was made with")
        except (CoordinatorError, WireError) as error:
            why = f"{source} cannot be brought back: {error}: restore the blobs from a backup"
            if record.state == "running":  # its devices would be told that it does not exist
                raise StoreError(why) from None
            self._leave_out(record, why)
        else:
            self._add(task)

    def _leave_out(self, record: TaskRecord, why: str) -> None:
        """One that cannot be served stops no other."""
        self._left_out[record.name] = _LeftOut(why, record.state == "running")
        log.error("%s: it is left out, the others are served", why)

    def _add(self, task: Task) -> None:
        self.tasks[task.name] = task
        if self._group is not None:
            self._start(task)

    async def create_task(self, definition: str, plan: str, model: str) -> Task:
        """Start a task from blobs that are already stored. Raises `Refused`, `Conflict`."""
        async with self._changing:
            try:
                file = await asyncio.to_thread(_parsed, definition)
                manifest = await check_plan(self.services.blobs, plan, model)
            except (taskfile.TaskFileError, WireError) as error:
                raise Refused("bad_task", str(error)) from None
            for problem in contradictions(file, manifest):
                raise Refused("bad_task", f"the plan was not compiled from this task: {problem}")
            return await self._create(definition, file, manifest, plan, model)

    async def _create(
        self, definition: str, file: AnyTask, manifest: Manifest, plan: str, model: str
    ) -> Task:
        terms, now = terms_of(file), self.services.store.now()
        record = TaskRecord(
            name=file.name, state="running", definition=definition, plan=plan, created=now
        )
        places = terms.policy.places(terms.over_selection)
        first, data = Round(1, 0, terms.policy, places, now), await self.services.blobs.get(model)
        if not await self.services.store.run(stored.create, record, model, first):
            raise Conflict("task_exists", f"there is a task {file.name!r}: choose another name")
        await self.services.blobs.put(data)  # another task may have just outgrown the same one
        found, newest = await self.services.store.read(standing_still, terms)
        self._add(Task(record, file, manifest, found, newest))
        return self.tasks[file.name]

    async def _find(self, name: str) -> Task | None:
        """A task by name; one that another process has just made, too."""
        if name not in self.tasks and self.services.store.shared:
            async with self._changing:
                await self._find_tasks()
        return self.tasks.get(name)

    async def _serving(self, name: str) -> Task | None:
        """A task by name, for a device at work on it. Raises `Unavailable` while one that runs is
        left out: what the device has for it is not to be thrown away."""
        found, left_out = await self._find(name), self._left_out.get(name)
        if found is None and left_out is not None and left_out.running:
            raise Unavailable("left_out", f"task {name} is not served until it is brought back")
        return found

    async def task(self, name: str) -> Task:
        """A task by name. Raises `NotFound`."""
        found = await self._find(name)
        if found is None:
            if left_out := self._left_out.get(name):
                raise NotFound("unknown_task", left_out.why)
            known = ", ".join(self.tasks) or "none"
            raise NotFound("unknown_task", f"no task {name!r}; tasks here: {known}")
        return found

    async def stop(self, name: str) -> Task:
        """Stop a task for good. Raises `NotFound`."""
        task = await self.task(name)
        await self._keepers[name].stop()
        return task
