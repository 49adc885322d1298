"""Devices at home: an agent over a real folder, before the real coordinator, on a machine that
tests plug in and unplug. A stand-in trains; time leaps, so that hours of rest take none."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from aiohttp import web

from edge_agent import consent
from edge_agent.agent import Agent
from edge_agent.config import parse
from edge_agent.job import Job, Outcome, Report
from edge_agent.lifecycle import Rest
from edge_agent.signals.network import NetworkProbe
from edge_agent.signals.power import PowerProbe
from edge_agent.signals.watch import Watch
from edge_agent.state import Identity, Served, StateFolder
from fleet.clients import header
from tests.coordinator.plans import constant
from tests.coordinator.serving import Serving
from tests.edge_agent.machine import Machine
from wire import update
from wire.checkpoint import Weights
from wire.files import write_durably

Doing = Callable[[], Awaitable[object]]


class Trainer:
    """Stands for the training child: an agent's `start_job`.

    Each job ends at once and well, with `delta` as the update, unless `ends` says how the next ones
    end. `meanwhile` happens within a job; after it, a job that is to be `stubborn` goes on until it
    is stopped.
    """

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.stops: list[Outcome] = []
        self.ends: list[Outcome] = []
        self.delta: Weights = constant(1.0)
        self.meanwhile: Doing | None = None
        self.stubborn = False
        self.running = 0

    @asynccontextmanager
    async def __call__(self, job: Job, grace: float) -> AsyncIterator["_Running"]:
        self.jobs.append(job)
        self.running += 1
        try:
            yield _Running(self, job)
        finally:
            self.running -= 1

    @property
    def assignments(self) -> list[str]:
        """What was trained for, in order."""
        return [job.assignment.id for job in self.jobs if job.assignment]


class _Running:
    pid = 0

    def __init__(self, trainer: Trainer, job: Job) -> None:
        self._trainer = trainer
        self._job = job
        self._stopped = asyncio.Event()

    async def report(self) -> Report:
        trainer, job = self._trainer, self._job
        if trainer.meanwhile:
            doing, trainer.meanwhile = trainer.meanwhile, None
            await doing()
        if trainer.stubborn:
            await self._stopped.wait()
        if self._stopped.is_set():
            return Report(outcome=trainer.stops[-1])
        outcome = trainer.ends.pop(0) if trainer.ends else Outcome.DONE
        if outcome is not Outcome.DONE:
            return Report(outcome=outcome, detail="as it was told", examples=30)
        if job.assignment and job.update:
            data = update.write(
                header(job.assignment, 30),
                trainer.delta,
                np.random.default_rng(job.assignment.seed),
            )
            await asyncio.to_thread(write_durably, Path(job.update), data)
        metrics = {"loss": 0.5, "accuracy": 0.25} if job.evaluate else None
        return Report(outcome=outcome, examples=30, held_out=8, steps=3, loss=0.5, metrics=metrics)

    async def stop(self, why: Outcome) -> None:
        self._trainer.stops.append(why)
        self._stopped.set()


class Home:
    """A device: its machine on mains and a free network, its state folder, its agent."""

    def __init__(self, folder: Path, served: Serving, identity: Identity, more: str = "") -> None:
        self.machine = Machine(folder / "root")
        self.network("eth0")
        self.power(True)
        self.served = served
        self.state = StateFolder(folder / "state")
        self.state.create()
        self.state.save_identity(identity)
        self.agree()
        self.examples = folder / "examples"
        self.examples.mkdir()
        self.text = f"""
            system_root = "{self.machine.root}"
            poll = "1s"
            eligibility.settle = "0s"
            system_bus = ""
            {more or f'data.folder = "{self.examples}"'}
        """
        self.trainer = Trainer()
        self.rests: list[Rest] = []
        self.agent = self._agent()

    def agree(self) -> None:
        """The owner's consent."""
        consent.give(self.state.folder, self.state.identity().url, "owner", self.served.clock.now())

    def power(self, on: bool) -> None:
        """Plug it in, or unplug it."""
        status = "Charging" if on else "Discharging"
        self.machine.supply("AC", type="Mains", online=int(on))
        self.machine.supply("BAT", type="Battery", capacity=90, status=status)

    def network(self, interface: str) -> None:
        """Be in this network: `eth0` is free, `wwan0` is metered."""
        self.machine.no_routes()
        self.machine.route(interface)

    @property
    def device(self) -> str:
        """Its name at the coordinator."""
        return self.state.identity().device

    @property
    def history(self) -> list[Served]:
        """Its last rounds, as they are on the disk."""
        return self.state.history().served

    @property
    def outcomes(self) -> list[str]:
        """What became of its last rounds, as the agent tells it."""
        return [s.outcome for s in self.agent.status().served]

    def _agent(self, **changes: Any) -> Agent:
        config, clock = parse(self.text), self.served.clock
        # Nobody else uses this machine's processor.
        probes = (PowerProbe(config), NetworkProbe(config))
        observer = Watch(config, self.state.folder, clock, probes)
        given: dict[str, Any] = {"observer": observer, "start_job": self.trainer} | changes
        return Agent(config, self.state, self.state.identity(), clock, **given)

    async def configure(self, more: str) -> None:
        """A new agent, with `more` in the configuration."""
        self.text += f"\n{more}"
        await self.restart()

    async def restart(self, served: Serving | None = None, **changes: Any) -> None:
        """A new agent over the same folder; `served` has become its coordinator."""
        if served:
            self.served = served
            identity = msgspec.structs.replace(
                await asyncio.to_thread(self.state.identity), url=served.url
            )
            await asyncio.to_thread(self.state.save_identity, identity)
            await asyncio.to_thread(self.agree)
        self.agent = await asyncio.to_thread(self._agent, **changes)

    def said(self) -> str:
        """What it does and why, as `edge-agent status` shows it first."""
        return self.agent.status().text().splitlines()[0]

    async def until(self, fact: Callable[[], object], steps: int = 100) -> None:
        """Let the agent live until something is so; its rests pass at once."""
        for _ in range(steps):
            if fact():
                return
            if rest := await self.agent.step():
                self.rests.append(rest)
                self.served.clock.leap(rest.seconds)
        raise AssertionError(f"it never came to be so: {[r.why for r in self.rests]}")

    async def outbox(self) -> list[str]:
        """The updates that wait."""
        return await asyncio.to_thread(self.state.waiting)

    async def settled(self) -> list[tuple[int, str]]:
        """Round and outcome of what it served, as it is on the disk."""
        return [(s.round, s.outcome) for s in await asyncio.to_thread(lambda: self.history)]


class Between:
    """Something between the devices and the coordinator, that may answer in its place."""

    def __init__(self) -> None:
        self.answer: Callable[[web.Request], web.Response | None] = lambda request: None
        self.after: Callable[[web.Request], Awaitable[None]] | None = None
        self.date: Callable[[], datetime] | None = None
        """The clock of the coordinator, as its answers tell it."""

    def wrap(self, app: web.Application) -> None:
        @web.middleware
        async def between(request: web.Request, handler: Any) -> web.StreamResponse:
            if (instead := self.answer(request)) is not None:
                return instead
            answer: web.StreamResponse = await handler(request)
            if self.date:
                answer.headers["Date"] = format_datetime(self.date().astimezone(UTC), usegmt=True)
            if self.after:
                await self.after(request)
            return answer

        app.middlewares.insert(0, between)


Settle = Callable[..., Awaitable[Home]]
