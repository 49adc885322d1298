"""A real `coordinator serve` under load: updates a second, slow uploads at a deadline, memory.

Real HTTP on loopback, one worker, every acknowledgement durable on the disk of the folder. The load
is `fleet.swarm` in this process.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks import load_memory, load_rate, load_slow
from benchmarks.load_fleet import Say
from benchmarks.loopback import Failed
from benchmarks.plans import compile_plan
from benchmarks.report import Row, Section
from coordinator.client import ClientError
from fleet.swarm.scripts import Unexpected


async def measure(work: Path, quick: bool, say: Say) -> Section:
    """The section. What fails is a row that says why."""
    section = Section("Load on one coordinator, 2NN (199,210 weights), over loopback")
    say("load: the plan")
    plan = await asyncio.to_thread(compile_plan, work, "2nn")

    async def part(name: str, measuring: Callable[[Path], Awaitable[list[Row]]]) -> None:
        folder = work / f"load-{name}"
        folder.mkdir()
        try:
            section.rows += await measuring(folder)
        except (Failed, ClientError, Unexpected, OSError) as error:
            section.missing(name, f"{type(error).__name__}: {error}")

    async def memory(folder: Path) -> list[Row]:
        await load_memory.measure(folder, plan, quick, say, section)
        return []

    await part("rate", lambda folder: load_rate.measure(folder, plan, quick, say))
    await part("slow", lambda folder: load_slow.measure(folder, plan, quick, say))
    await part("memory", memory)
    section.notes = [
        f"Rates: median [least .. most] of {load_rate.STRETCHES} stretches over "
        f"{load_rate.CONNECTIONS} connections, the handler and the coordinator in turns.",
        "Devices are enrolled and have checked in before; a stretch is uploads alone.",
    ]
    return section
