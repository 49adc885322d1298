"""A simulation, from its task file to its result."""

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from coordinator.compiler.folder import read_plan_dir
from coordinator.compiler.plan import CompiledPlan
from coordinator.plans import contradictions
from coordinator.round import Round
from coordinator.task import terms_of
from coordinator.taskfile import AnyTask
from edge_agent.examples import Examples
from fleet.simulation import data as data_module
from fleet.simulation.account import MOST_FAILURES, Account
from fleet.simulation.crew import Crew, Here, Processes
from fleet.simulation.data import Data
from fleet.simulation.devices import Devices
from fleet.simulation.evaluating import Evaluating
from fleet.simulation.learning import Taught, keeps, name_of
from fleet.simulation.models import Models
from fleet.simulation.personalising import personalised
from fleet.simulation.result import Personal, Result, Version
from fleet.simulation.setting import Setting, folders
from fleet.virtual.device import Device
from fleet.virtual.server import Server
from fleet.virtual.task import VirtualTask
from fleet.virtual.timeline import Timeline

_ENDLESS = 1 << 31
_DAY = 86400.0
_PATIENCE = 100.0
"""Deadlines without a version after which the fleet is taken to be stuck."""


class SimulationError(RuntimeError):
    """The simulation cannot be: a task that fits no plan, or a fleet that makes no version."""


@dataclass(frozen=True)
class Stage:
    """All that is there before a simulation begins."""

    plan: CompiledPlan
    data: Data
    crew: Crew
    folder: Path
    """For files of a moment."""


@contextmanager
def staged(
    task: AnyTask, plan: Path, devices: Devices, test: Examples | None, workers: int | None
) -> Iterator[Stage]:
    """The data where the crew finds them, and the crew; at the end both are gone. Raises
    `CompileError`, `SimulationError`, `ValueError`, `OSError`."""
    compiled = read_plan_dir(plan)
    manifest = compiled.manifest
    if found := contradictions(task, manifest):
        raise SimulationError(f"{plan} is not compiled from this task: {'; '.join(found)}")
    data = data_module.gather(devices, manifest.inputs, test)
    number = _cores() if workers is None else workers
    with folders() as (disk, quick):
        kept = keeps(task, manifest)
        setting = Setting(manifest, plan.resolve(), disk, quick, kept, None if number else data)
        if number:
            data_module.write(data, disk)
        crew = Processes(setting, number) if number else Here(setting)
        try:
            yield Stage(compiled, data, crew, quick)
        finally:
            crew.close()


def simulate(
    task: AnyTask,
    plan: Path,
    devices: Devices,
    *,
    seed: int = 0,
    test: Examples | None = None,
    evaluate_every: int = 1,
    until: Callable[[Version], bool] | None = None,
    watched: Collection[int] = (),
    workers: int | None = None,
    on_version: Callable[[Version], None] | None = None,
) -> Result:
    """All of a task's rounds on a fleet, or those `until` a version will do.

    `plan` is a folder that `coordinator compile` wrote from the task. `test` is a central test set.
    Every `evaluate_every` versions (0: never) devices evaluate the model on their held-out
    examples, as they do the first and the task's last. `watched` devices are measured before and
    after each training (`Version.watched`). `workers` processes train, by default as many as there
    are cores; 0 is none but this one. `on_version` is called with each version as it is published,
    the initial one first, before `until`.

    A device whose training diverges, or whose examples the model cannot take, gives up. Raises
    `CompileError` for what is no plan, `ValueError` for data that it cannot take and for a watched
    device that is not there, `SimulationError` for a task of another plan and for a fleet that
    makes no version at all, `WorkerDied`, and what `edge_agent.evaluation.evaluate` raises.
    """
    if task.round.rounds == 0 and until is None:
        raise SimulationError("round.rounds = 0 is without end: say how many, or until when")
    for number in watched:
        if not 0 <= number < len(devices):
            raise ValueError(f"watched: there is no device {number}, only 0 to {len(devices) - 1}")
    with staged(task, plan, devices, test, workers) as stage:
        play = _Play(task, stage, devices, seed, evaluate_every, until, watched, on_version)
        return play.run()


class _Play:
    """One simulation."""

    def __init__(
        self,
        task: AnyTask,
        stage: Stage,
        devices: Devices,
        seed: int,
        evaluate_every: int,
        until: Callable[[Version], bool] | None,
        watched: Collection[int],
        on_version: Callable[[Version], None] | None,
    ) -> None:
        manifest = stage.plan.manifest
        self._stage = stage
        self._task = task
        self._devices = devices
        self._seed = seed
        self._every = evaluate_every
        self._until, self._on_version = until, on_version
        self._timeline = Timeline(seed)
        self._models = Models(stage.folder, stage.plan.initial, manifest.checkpoint)
        self._evaluating = Evaluating(manifest, task.aggregation, stage.data, stage.crew)
        plan_bytes = len(manifest.to_bytes()) + sum(map(len, stage.plan.files.values()))
        account = Account(plan_bytes, self._published, self._stuck)
        self._learning = Taught(
            task, manifest, self._models, stage.crew, self._timeline, account, seed, watched
        )
        self._versions: list[Version] = []
        self._complete = False
        self._last = 0.0  # when something was published

    def run(self) -> Result:
        """From the first version to the last."""
        self._seen(self._evaluated(Version(number=0), last=False))
        server = self._server()
        patience = _PATIENCE * (self._task.deadline + float(self._task.timing.check_in))
        patience += (15 if self._task.timing.windows else 2) * _DAY

        def watch(now: float) -> None:
            server.step(now)
            if now > self._last + patience:
                self._stuck()

        self._timeline.run(float("inf"), watch)
        if len(self._versions) == 1:
            raise SimulationError(self._why())
        return Result(
            versions=tuple(self._versions),
            weights={name: values.copy() for name, values in self._models.weights.items()},
            seed=self._seed,
            complete=self._complete,
            seconds=self._last if self._complete else self._timeline.now,
            personal=self._personal(),
        )

    def _personal(self) -> Personal | None:
        stage, model = self._stage, self._models.path(self._models.newest)
        manifest = stage.plan.manifest
        return personalised(manifest, stage.data, stage.crew, str(model), self._seed)

    def _server(self) -> Server:
        """The coordinator and its devices."""
        devices = [d for d, share in enumerate(self._devices.shares) if len(share)]
        task = _virtual(self._task)
        server = Server(self._timeline, (task,), len(devices), learns=lambda _: self._learning)
        interval = float(self._task.timing.check_in)
        for device in devices:
            start = self._timeline.random.random() * interval
            behaviour = self._devices.behaviour(device)
            Device(name_of(device, self._seed), behaviour, self._timeline, server, interval, start)
        return server

    def _published(self, found: Round, account: Account, now: float) -> None:
        assert found.ending is not None
        number = found.version + 1
        version = Version(
            number=number,
            round=found.number,
            seconds=now,
            updates=found.arrived,
            late=account.late,
            dropped=account.dropped,
            asked=account.asked,
            upload=account.upload,
            download=account.download,
            losses=dict(account.losses),
            watched=dict(account.watched),
            reason=str(found.ending.reason),
            failed_rounds=account.failed_rounds,
        )
        version = self._evaluated(version, last=self._learning.enough)
        self._last = now
        self._seen(version)
        reached = self._until is not None and self._until(version)
        if reached or self._learning.enough:
            self._complete = True
            self._timeline.stop()

    def _seen(self, version: Version) -> None:
        self._versions.append(version)
        if self._on_version is not None:
            self._on_version(version)

    def _evaluated(self, version: Version, last: bool) -> Version:
        model, due = str(self._models.path(version.number)), self._every > 0
        if due and version.number % self._every and not last:
            due = False
        spreads = self._evaluating.devices(model) if due else {}
        return replace(version, test=self._evaluating.test(model), devices=spreads)

    def _stuck(self) -> None:
        self._timeline.stop()

    def _why(self) -> str:
        trouble = self._learning.trouble
        if trouble:
            return f"no version was made: the devices' training fails: {trouble}"
        return (
            f"no version was made, in {self._timeline.now:.0f} s of virtual time and at most "
            f"{MOST_FAILURES} rounds: are there enough devices for round.minimum = "
            f"{self._task.round.minimum}, that train well within the deadline of "
            f"{self._task.deadline:g} s? A behaviour's training takes 60 s if it is not said"
        )


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _virtual(task: AnyTask) -> VirtualTask:
    """The task, as rounds in virtual time know it; how many they are, the learning tells."""
    terms = terms_of(task)
    return VirtualTask(
        policy=terms.policy,
        name=task.name[:40],  # the ends of assignments' names are their numbers
        rounds=_ENDLESS,
        over_selection=terms.over_selection,
        over_selection_limit=terms.over_selection_limit,
        staleness_exponent=task.round.staleness_exponent,
        selection=task.selection,
        schedule=task.timing,
    )
