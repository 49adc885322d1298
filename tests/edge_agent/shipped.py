"""The plan that ships, examples for it, and the real training child under an agent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import numpy as np

from edge_agent.child import Child, start_child
from edge_agent.job import Job, Outcome, Report
from fleet.digits import PLAN, TASK
from tests.coordinator.plans import Plan
from tests.edge_agent.processes import wait_training, wait_tuning
from wire.plan import CHECKPOINT_NAME, parse_manifest


def shipped(goal: int, rounds: int = 0, epochs: int = 5) -> Plan:
    """The demo's task, with rounds of its own, and perhaps with more to do."""
    manifest = parse_manifest((PLAN / "manifest.json").read_bytes())
    manifest = msgspec.structs.replace(manifest, epochs=epochs)
    text = TASK.read_text().replace("epochs = 5", f"epochs = {epochs}")
    head, _, tail = text.partition("[round]")
    rest = tail[tail.index("\n[") :]
    return Plan(
        f"{head}[round]\ngoal = {goal}\nrounds = {rounds}\ndeadline = '1h'\n{rest}",
        manifest,
        [(PLAN / name).read_bytes() for name in manifest.files],
        (PLAN / CHECKPOINT_NAME).read_bytes(),
    )


def draw(folder: Path) -> None:
    """Examples that look like ten digits."""
    rng = np.random.default_rng(5)
    label = rng.integers(0, 10, 400)
    shape = np.random.default_rng(6).uniform(size=(10, 64))
    x = shape[label] + rng.normal(size=(400, 64), scale=0.1)
    np.savez(folder / "drawn.npz", x=x.astype(np.float32), label=label)


class Children:
    """An agent's `start_job`: real children, whose jobs and reports are remembered."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.reports: list[Report] = []
        self._started: asyncio.Queue[int] = asyncio.Queue()

    @asynccontextmanager
    async def __call__(self, job: Job, grace: float) -> AsyncIterator["_Watched"]:
        async with start_child(job, grace) as child:
            self.jobs.append(job)
            self._started.put_nowait(child.pid)
            yield _Watched(child, self.reports)

    async def training(self) -> int:
        """Wait until the next child is in the midst of its training; returns its process id."""
        pid = await self._started.get()
        await asyncio.to_thread(wait_training, pid)
        return pid

    async def tuning(self) -> int:
        """Wait until the next child is at work for a personal version; returns its process id."""
        pid = await self._started.get()
        await asyncio.to_thread(wait_tuning, pid)
        return pid


class _Watched:
    def __init__(self, child: Child, reports: list[Report]) -> None:
        self._child = child
        self._reports = reports

    @property
    def pid(self) -> int:
        return self._child.pid

    async def report(self) -> Report:
        report = await self._child.report()
        self._reports.append(report)
        return report

    async def stop(self, why: Outcome) -> None:
        await self._child.stop(why)
