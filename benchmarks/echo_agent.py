"""The agent with its training taken out: `python -m benchmarks.echo_agent --state S --config C`.

Everything but the job is the agent's own: signals, check-in, download, outbox, upload, history. The
job writes an update that was made beforehand; only its header, and so its bytes, are each round's.
"""

import argparse
import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from edge_agent import config
from edge_agent.agent import Agent
from edge_agent.job import Job, Outcome, Report
from edge_agent.signals.watch import Watch
from edge_agent.state import StateFolder
from schedules.clock import SystemClock
from wire import update
from wire.checkpoint import Weights
from wire.files import write_durably
from wire.plan import parse_manifest

EXAMPLES = 600


class Echo:
    """A job that is done as soon as its update is written. There is nothing to evaluate on."""

    pid = 0

    def __init__(self, job: Job, deltas: dict[str, Weights]) -> None:
        self._job = job
        self._deltas = deltas
        self._work: asyncio.Task[None] | None = None

    async def report(self) -> Report:
        """Wait for the end. As the real child's, a wait that is cancelled loses nothing."""
        if self._job.assignment is None:
            return Report(outcome=Outcome.NO_EXAMPLES)
        self._work = self._work or asyncio.create_task(asyncio.to_thread(self._write))
        await asyncio.shield(self._work)
        return Report(outcome=Outcome.DONE, examples=EXAMPLES, steps=1, loss=1.0)

    async def stop(self, why: Outcome) -> None:
        """It has ended already."""

    def _write(self) -> None:
        job, assignment = self._job, self._job.assignment
        assert assignment
        assert job.update
        if job.plan not in self._deltas:
            self._deltas[job.plan] = _prepare(Path(job.plan))
        header = update.UpdateHeader(
            assignment=assignment.id,
            plan=assignment.plan,
            base=assignment.model,
            codec=assignment.codec,
            examples=EXAMPLES,
            steps=1,
            loss=1.0,
            seconds=0.0,
        )
        rng = np.random.default_rng(assignment.seed)
        write_durably(Path(job.update), update.write(header, self._deltas[job.plan], rng))


def _prepare(plan: Path) -> Weights:
    """A change of every weight, of the size that training makes."""
    rng = np.random.default_rng(1)
    manifest = parse_manifest((plan / "manifest.json").read_bytes())
    return {p.name: rng.normal(0.0, 1e-3, p.shape).astype(np.float32) for p in manifest.parameters}


async def run(state: StateFolder, configuration: config.Config) -> None:
    """Live until SIGTERM."""
    deltas: dict[str, Weights] = {}

    @asynccontextmanager
    async def start_job(job: Job, grace: float) -> AsyncIterator[Echo]:
        yield Echo(job, deltas)

    state.create()
    with state.lock():
        clock = SystemClock()
        async with Watch(configuration, state.folder, clock) as observer:
            agent = Agent(configuration, state, state.identity(), clock, observer, start_job)
            living = asyncio.ensure_future(agent.run())
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, living.cancel)
            await asyncio.wait([living])
        if not living.cancelled():
            living.result()


def main() -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.echo_agent")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--config", type=Path, required=True)
    arguments = parser.parse_args()
    asyncio.run(run(StateFolder(arguments.state), config.load(arguments.config)))


if __name__ == "__main__":
    main()
