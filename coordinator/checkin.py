"""Check-in: work for a device, or when it should come back, and why."""

import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from coordinator.aggregation import counted
from coordinator.assignment_cache import AssignmentCache
from coordinator.credentials import new_id
from coordinator.devices import Devices
from coordinator.errors import UpgradeNeeded
from coordinator.figures import can_be
from coordinator.intake import drop
from coordinator.offer import Candidate, Offered, Refusal, come_back, may_serve, refusal
from coordinator.selection import Standing
from coordinator.services import Services
from coordinator.store import assignments, evaluations
from coordinator.store.records import (
    AssignmentRecord,
    DeviceRecord,
    EvaluationRecord,
    StandingRecord,
)
from coordinator.task import Task
from schedules.pacing import CHECK_INS_PER_SECOND, Gate
from wire import PROTOCOL_VERSIONS
from wire.messages import Assignment, CheckIn, CheckInReply, Evaluation, Wait, WaitReason

_AT_ONCE = 128  # check-ins under way at one moment; what comes then is told to come back
_BOOKED_PER_SECOND = 4 * CHECK_INS_PER_SECOND
_NOWHERE = StandingRecord(device="", task="", round=0)


def common_protocol(spoken: tuple[int, ...]) -> int:
    """The newest protocol version that both sides speak. Raises `UpgradeNeeded`."""
    common = set(spoken) & set(PROTOCOL_VERSIONS)
    if not common:
        served = ", ".join(map(str, PROTOCOL_VERSIONS))
        raise UpgradeNeeded(
            "upgrade", f"this coordinator serves protocol {served}: upgrade the agent"
        )
    return max(common)


class Desk:
    """Where devices check in. `cache` remembers what was assigned here, for the upload to come."""

    def __init__(self, services: Services, devices: Devices, cache: AssignmentCache) -> None:
        self._services = services
        self._devices = devices
        self._cache = cache
        self._at_once = 0
        self._gate = Gate(rate=_BOOKED_PER_SECOND)

    def turn_away(self) -> CheckInReply | None:
        """What to tell a device at once, at no cost to the store, when too many check in at this
        moment, as they do after an outage: they come back one after the other."""
        if self._at_once < _AT_ONCE:
            return None
        self._services.metrics.check_ins.labels(WaitReason.BUSY).inc()
        window = self._gate.book(self._services.clock.monotonic())
        wait = Wait(reason=WaitReason.BUSY, after=window.after, before=window.before)
        return CheckInReply(protocol=max(PROTOCOL_VERSIONS), wait=wait)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """While one checks in."""
        self._at_once += 1
        try:
            yield
        finally:
            self._at_once -= 1

    async def check_in(
        self, device: DeviceRecord, message: CheckIn, every: Mapping[str, Task]
    ) -> CheckInReply:
        """Work for the device, or when to come back."""
        protocol = common_protocol(message.protocols)
        self._devices.saw(device.id, message.facts)
        found = _open_to(device, message, every.values())
        await self._store_evaluations(device, message, found)
        held, standings = await self._services.store.read(assignments.at_work, device.id)
        answer: Assignment | Wait | None = None
        if held is not None:
            answer = await self._again(held, every, found)
        if answer is None:
            answer = await self._first_offer(device, found, standings)
        assignment, wait = (answer, None) if isinstance(answer, Assignment) else (None, answer)
        self._services.metrics.check_ins.labels(wait.reason if wait else "assignment").inc()
        return CheckInReply(
            protocol=protocol,
            assignment=assignment,
            wait=wait,
            published=tuple(task.published for task in found),
        )

    async def _again(
        self, held: AssignmentRecord, every: Mapping[str, Task], found: list[Task]
    ) -> Assignment | None:
        """What the device works on already: it lost the answer, or its memory, and may go on. It
        serves one task at a time; one that it will not serve any more is taken from it."""
        task = every.get(held.task)
        if task is None or not task.running:
            return None
        if task not in found:
            detail = "the device checked in for other tasks"
            await drop(self._services, task, held.id, "given_up", "not_wanted", detail)
            return None
        return await self._assignment(task, held)

    async def _first_offer(
        self, device: DeviceRecord, found: list[Task], standings: list[StandingRecord]
    ) -> Assignment | Wait:
        """A place in the first of the tasks that has one, or when to come back."""
        where = {standing.task: standing for standing in standings}
        refusals: list[tuple[Refusal, float]] = []
        # The task whose round has waited longest comes first, so that none starves.
        for task in sorted(found, key=lambda task: task.round.opened):
            offer = await self._offer(device, task, where.get(task.name, _NOWHERE))
            if isinstance(offer, Assignment):
                return offer
            refusals.append((offer, float(task.timing.check_in)))
        return come_back(refusals, self._devices.expected, self._services.store.now())

    async def _offer(
        self, device: DeviceRecord, task: Task, standing: StandingRecord
    ) -> Assignment | Refusal:
        """A place in the task's round, or why there is none."""
        store = self._services.store
        if why := self._refusal(device, task, standing):
            return why
        made = await store.run(
            assignments.assign,
            task.terms,
            new_id(task.name[:40]),
            device.id,
            secrets.randbits(62),
            store.now(),
        )
        if isinstance(made, WaitReason):
            return Refusal(made)
        row, after = made
        starts = task.round.started is None
        task.saw(after)
        if starts:  # the keeper knows of no deadline yet
            task.told.set()
        return await self._assignment(task, row)

    def _refusal(
        self, device: DeviceRecord, task: Task, standing: StandingRecord
    ) -> Refusal | None:
        """What can be said without asking the store again."""
        if not task.running:
            return Refusal(WaitReason.TASK_DONE)
        now, local = self._services.store.now(), self._services.clock.now()
        offered = Offered(task.name, task.round, task.file.selection, task.timing, task.crowd)
        candidate = Candidate(device.id, _standing(standing), standing.round)
        return refusal(candidate, offered, now, local, task.joined(now, local))

    async def _assignment(self, task: Task, row: AssignmentRecord) -> Assignment:
        self._cache.add(row)
        model = await task.model_of(row.version, self._services.store)
        return task.assignment(row, model, self._services.store.now())

    async def _store_evaluations(
        self, device: DeviceRecord, message: CheckIn, found: list[Task]
    ) -> None:
        known = {task.name: task for task in found}
        records = [
            EvaluationRecord(
                task=e.task,
                version=e.version,
                device=device.id,
                # One device's word weighs no more here than in the model.
                examples=counted(known[e.task].file.aggregation, e.examples),
                metrics=e.metrics,
                personal=e.personal,
            )
            for e in message.evaluations
            if e.task in known and _believable(e, known[e.task])
        ]
        if records:
            await self._services.store.run(evaluations.add, records)


def _open_to(device: DeviceRecord, message: CheckIn, tasks: Iterable[Task]) -> list[Task]:
    """The tasks that the device may serve, and wants to; of those that are done, only the model."""
    return [
        task
        for task in tasks
        if task.record.state != "stopped"
        and may_serve(message, device.labels, task.name, task.file.participants.labels)
    ]


def _believable(said: Evaluation, task: Task) -> bool:
    """Whether what a device says of a model can be so at all."""
    names = {metric.name for metric in task.manifest.metrics}
    lately = task.model.version - evaluations.KEPT
    return (
        lately < said.version <= task.model.version
        and said.metrics.keys() == names
        and (not said.personal or said.personal.keys() == names)
        and all(can_be(*figure) for figure in (*said.metrics.items(), *said.personal.items()))
    )


def _standing(row: StandingRecord) -> Standing:
    return Standing(
        accepted=row.accepted,
        failed=row.failed,
        streak=row.streak,
        failed_at=row.failed_at,
        examples=row.examples,
        seconds=row.seconds,
    )
