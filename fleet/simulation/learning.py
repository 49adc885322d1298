"""A task that is really learnt: what its devices train and send, and what becomes of that.

What a device does is work for the crew: it begins when the device does, and its result is waited
for when the device is done. So all devices of a round train side by side, and what is read, checked
and summed is in the order of virtual time.
"""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from coordinator.aggregation import Contribution, Next, Sum
from coordinator.bench import Work, strategy_of
from coordinator.plans import codec_of
from coordinator.round import Round
from coordinator.taskfile import AnyTask
from edge_agent.job import Outcome
from fleet.simulation.account import Account
from fleet.simulation.crew import Crew, Pending
from fleet.simulation.models import Models
from fleet.simulation.result import Learnt
from fleet.simulation.workshop import LATE, Done, Training, Workshop
from fleet.virtual.behaviour import Behaviour
from fleet.virtual.book import VirtualAssignment
from fleet.virtual.learning import Update
from fleet.virtual.timeline import Timeline
from wire import update as updates
from wire.codecs import codec_named
from wire.messages import Assignment
from wire.plan import Manifest
from wire.tensors import Array


@dataclass
class _Course:
    """A training under way, for an assignment."""

    device: int
    version: int
    pending: Pending[Done]
    data: bytes = b""
    loss: float = 0.0
    learnt: Learnt | None = None
    arrived: bool = False
    gone: bool = False


class Taught:
    """See `fleet.virtual.learning.Learning`."""

    takes_time = True

    def __init__(
        self,
        task: AnyTask,
        manifest: Manifest,
        models: Models,
        crew: Crew,
        timeline: Timeline,
        account: Account,
        seed: int,
        watched: Collection[int] = (),
    ) -> None:
        self.trouble = ""
        """Why a training came to nothing, last."""
        self._task = task
        self._manifest = manifest
        self._models = models
        self._crew = crew
        self._timeline = timeline
        self._account = account
        self._seed = seed
        self._watched = frozenset(watched)
        self._plan = manifest.digest()
        self._codec = codec_of(task, manifest)
        self._limit = updates.size_limit(manifest.parameters, self._codec)
        self._lazy = bool(task.upload.lazy)
        self._keeps = keeps(task, manifest)
        self._aggregator = strategy_of(
            Work(
                task=task.name,
                plan=self._plan,
                parameters=manifest.parameters,
                codec=self._codec,
                aggregation=task.aggregation,
                staleness_exponent=task.round.staleness_exponent,
                lazy=self._lazy,
            )
        )
        self._courses: dict[str, _Course] = {}
        self._heard: defaultdict[int, list[tuple[str, str]]] = defaultdict(list)
        self._sum: Sum | None = None
        self._every: list[tuple[str, bytes, int]] = []  # of strategies that look at each update

    # Devices

    def begins(self, device: str, assignment: Assignment, done: float | None) -> None:
        number, version = number_of(device), assignment.version
        self._account.fetched(number, version, self._models.size)
        if done is None:
            return
        training = Training(
            number,
            assignment,
            str(self._models.path(version)),
            done - self._timeline.now,
            tuple(self._heard.pop(number, ())),
            number in self._watched,
        )
        pending = self._crew.ask(done, Workshop.train, training)
        self._courses[assignment.id] = _Course(number, version, pending)

    def outcome(self, assignment: str) -> Outcome:
        course = self._courses[assignment]
        if course.gone:
            return Outcome.DONE  # it hears so when it delivers
        done = course.pending.result()
        if done.outcome is not Outcome.DONE:
            self.trouble = done.detail
            del self._courses[assignment]
        course.data, course.learnt = done.data, done.learnt
        return done.outcome

    def update(self, assignment: str, behaviour: Behaviour) -> Update:
        course = self._courses[assignment]
        if behaviour.lies and self._timeline.random.random() < behaviour.lies:
            course.data = course.data[: len(course.data) // 2]
        return Update(assignment)

    def settled(self, assignment: str, answer: str) -> None:
        course = self._courses.pop(assignment)
        self._account.late += answer == LATE
        if self._keeps:
            self._heard[course.device].append((assignment, answer))

    # The coordinator

    def assignment(self, given: VirtualAssignment, seconds: float) -> Assignment:
        device = number_of(given.device)
        self._account.gave(given.id)
        return Assignment(
            id=given.id,
            task=self._task.name,
            round=given.round,
            version=given.version,
            plan=self._plan,
            model=self._models.digest(given.version),
            codec=self._codec,
            deadline=seconds,
            upload_limit=self._limit,
            seed=chance(self._seed, device, given.round),
        )

    def opens(self, found: Round) -> None:
        self._sum = self._aggregator.empty() if self._aggregator.streams else None
        self._every = []

    def read(self, update: Update) -> Contribution:
        course = self._courses[update.assignment]
        if not course.arrived:  # it may be looked at once more when the next round is open
            self._account.upload += len(course.data)
            course.arrived = True
        found = updates.read(course.data, self._manifest.parameters, self._codec, self._lazy)
        header = found.header
        course.loss = header.loss
        contribution = Contribution(found.delta, header.examples, header.steps, 0)
        self._aggregator.check(contribution)
        return contribution

    def add(self, given: VirtualAssignment, update: Update, contribution: Contribution) -> None:
        course = self._courses[given.id]
        if self._sum is not None:
            self._sum.add(contribution)
        else:
            self._every.append((given.id, course.data, contribution.staleness))
        course.data = b""
        self._account.losses[course.device] = course.loss
        if course.learnt is not None:
            self._account.watched[course.device] = course.learnt

    def close(self, found: Round) -> str:
        self._models.publish(found.version + 1, self._made())
        return ""

    def gone(self, assignment: str) -> None:
        # What a device keeps of a training, it keeps however late its update is.
        if not self._keeps and (course := self._courses.get(assignment)):
            course.pending.cancel()
            course.gone = True
            course.data = b""

    def ended(self, found: Round) -> None:
        needed = {course.version for course in self._courses.values() if not course.gone}
        self._models.forget(found.version - found.policy.max_staleness, needed)
        self._account.ended(found, self._timeline.now)

    @property
    def enough(self) -> bool:
        """Whether the task has all its versions."""
        return 0 < self._task.round.rounds <= self._models.newest

    def _made(self) -> Next:
        base, state = self._models.weights, self._models.state
        if self._sum is not None:
            return self._aggregator.close(base, state, self._sum)
        parameters = self._manifest.parameters
        found = (
            (name, updates.read(data, parameters, self._codec, self._lazy), staleness)
            for name, data, staleness in self._every
        )
        each = (
            (name, Contribution(u.delta, u.header.examples, u.header.steps, staleness))
            for name, u, staleness in found
        )
        return self._aggregator.close_all(base, state, each, self._models.folder)


def keeps(task: AnyTask, manifest: Manifest) -> bool:
    """Whether devices keep something from one round to the next: what they learnt and did not send,
    or what the plan carries."""
    feedback = codec_named(codec_of(task, manifest)).feedback
    return bool(feedback or manifest.laziness or manifest.carries)


def chance(seed: int, device: int, number: int) -> int:
    """An assignment's seed: of the simulation's, the device and the round, and nothing else."""
    drawn: Array = np.random.SeedSequence([seed, device, number]).generate_state(1, np.uint64)
    return int(drawn[0] >> 1)


def name_of(device: int, seed: int) -> str:
    """A device's, for the rounds, which choose by it: another seed chooses others."""
    return f"s{seed}d{device}"


def number_of(device: str) -> int:
    """The other way round."""
    return int(device.rpartition("d")[2])
