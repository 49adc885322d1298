"""How good a guest the agent is: what waiting costs, how soon it gets out of the way, what it
leaves in memory and how much it writes.

The agent is the real command before a real coordinator, on a machine whose power supply the
benchmark plugs and unplugs in a fake `sys` tree.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks.loopback import Failed, Processes, coordinator, create_task, join
from benchmarks.plans import compile_plan, write_task
from benchmarks.report import Row, Section, median, spread
from benchmarks.runtimes import Runtime
from coordinator.client import AdminClient
from edge_agent.state import StateFolder
from edge_agent.status import Status, ask

RESIDENT_GOAL, CORE_GOAL = 45.0, 0.1  # MB; percent
STOP_GOAL, LEFT_GOAL, WRITTEN_GOAL = 1.0, 2.0, 200.0  # seconds; MB; kB

_MB, _KB = 1e6, 1e3
_IDLE_SECONDS, _IDLE_QUICK = 600.0, 20.0
_WAIT_SECONDS = 60.0
_STILL_SECONDS = 0.5  # without processor time, before a process counts as stopped
IMAGES, CLASSES = 600, 10


@dataclass
class Guest:
    """One device: its agent's process and the folder that holds its state and its machine."""

    folder: Path
    agent: psutil.Process
    log: Path

    @property
    def socket(self) -> Path:
        return StateFolder(self.folder / "state").socket

    def power(self, on: bool) -> None:
        """Plug it in, or unplug it."""
        (self.folder / "root/sys/class/power_supply/AC/online").write_text("1" if on else "0")


async def measure(
    work: Path, runtimes: list[Runtime], quick: bool, say: Callable[[str], None]
) -> Section:
    """The section."""
    section = Section("A good guest")
    runtime = runtimes[-1]  # the device's own, where it was named
    seconds = _IDLE_QUICK if quick else _IDLE_SECONDS
    times = 3 if quick else 10
    say("guest: rounds of 2NN")
    await _rounds(work, runtime, times, section)
    say("guest: stopping a CNN")
    await _stopping(work, runtime, times, section)
    say(f"guest: waiting for {seconds:.0f} s")
    await _waiting(work, runtime, seconds, section)
    section.notes = [
        f"{runtime.name}. Waiting: two agents side by side for {seconds:.0f} s.",
        "Written: what the kernel counts for the agent and its training children, from start to "
        "end, without the updates; the model for local programs is swapped once in it.",
    ]
    return section


async def _waiting(work: Path, runtime: Runtime, seconds: float, section: Section) -> None:
    """What an enrolled agent costs that has nothing to do, or may not do it."""
    async with AsyncExitStack() as stack:
        processes, client = await stack.enter_async_context(_server(work / "waiting"))
        plugged = await _guest(work / "waiting/plugged", runtime, processes, client, idle=True)
        await _until(processes, plugged, lambda s: "no_task" in s.why)
        battery = await _guest(
            work / "waiting/battery", runtime, processes, client, idle=True, on=False
        )
        await _until(processes, battery, lambda s: "on_battery" in s.why)
        guests = {"between check-ins": plugged, "on battery": battery}
        before = {name: _spent(guest.agent) for name, guest in guests.items()}
        resident: dict[str, float] = dict.fromkeys(guests, 0.0)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await asyncio.sleep(min(5.0, end - time.monotonic()))
            for name, guest in guests.items():
                resident[name] = max(resident[name], guest.agent.memory_info().rss / _MB)
        for name, guest in guests.items():
            core, written = _spent(guest.agent)
            percent = 100.0 * (core - before[name][0]) / seconds
            wrote = written - before[name][1]
            section.rows += [
                _row(f"waiting {name}: resident, MB", resident[name], RESIDENT_GOAL, ".1f"),
                _row(f"waiting {name}: percent of a core", percent, CORE_GOAL, ".3f"),
                _row(f"waiting {name}: bytes written", wrote, 0.0, ".0f"),
            ]


async def _stopping(work: Path, runtime: Runtime, times: int, section: Section) -> None:
    """From the power's going to the last processor time of training; and what it leaves behind."""
    folder = work / "stopping"
    await asyncio.to_thread(folder.mkdir)
    plan = await asyncio.to_thread(compile_plan, folder, "cnn")
    waits, left = [], []
    async with _server(folder) as (processes, client):
        await create_task(client, write_task(folder, "cnn", epochs=10_000, deadline="1h"), plan)
        guest = await _guest(folder / "device", runtime, processes, client, on=False, cnn=True)
        await _until(processes, guest, lambda s: "on_battery" in s.why)
        for _ in range(times):
            before = guest.agent.memory_info().rss
            await asyncio.to_thread(guest.power, True)
            child = await _training(processes, guest)
            waits.append(await asyncio.to_thread(_time_to_stop, guest, child))
            await _until(processes, guest, lambda s: "on_battery" in s.why)
            left.append((guest.agent.memory_info().rss - before) / _MB)
    section.rows += [
        Row(
            "stopping a CNN: seconds from a turned signal to no processor time",
            spread(waits),
            "batch 10, one thread",
            f"<= {STOP_GOAL:.0f}",
            max(waits) <= STOP_GOAL,
        ),
        Row(
            "the agent's memory after training, against before, MB",
            spread(left, "+.2f"),
            f"in all {sum(left):+.2f} over {times} trainings",
            f"<= {LEFT_GOAL:.0f}",
            median(left) <= LEFT_GOAL and sum(left) / times <= LEFT_GOAL,
        ),
    ]


async def _rounds(work: Path, runtime: Runtime, times: int, section: Section) -> None:
    """Bytes written for a round of 2NN, beyond the update."""
    folder = work / "written"
    await asyncio.to_thread(folder.mkdir)
    plan = await asyncio.to_thread(compile_plan, folder, "2nn")
    async with _server(folder) as (processes, client):
        await create_task(client, write_task(folder, "2nn", codec="uniform:8", rounds=times), plan)
        guest = await _guest(folder / "device", runtime, processes, client)
        await _until(processes, guest, lambda s: "task_done" in s.why)
        status = await ask(guest.socket)
        assert status
        updates = sum(s.bytes_up for s in status.served)
        await processes.stop("agent-device")
    written = json.loads(guest.log.read_text())["written"]
    section.rows.append(
        _row(
            f"written for a round of 2NN, beyond the update, kB ({times} rounds)",
            (written - updates) / times / _KB,
            WRITTEN_GOAL,
            ".0f",
            f"update: {updates / times / _KB:.0f} kB",
        )
    )


@asynccontextmanager
async def _server(folder: Path) -> AsyncIterator[tuple[Processes, AdminClient]]:
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    async with (
        Processes(folder / "logs") as processes,
        coordinator(folder, processes) as (client, _),
    ):
        yield processes, client


async def _guest(
    folder: Path,
    runtime: Runtime,
    processes: Processes,
    client: AdminClient,
    *,
    on: bool = True,
    cnn: bool = False,
    idle: bool = False,
) -> Guest:
    """A device that has joined and runs its agent: `on` power, with images for a `cnn`, as patient
    as by default where it is to be `idle`."""
    examples = await asyncio.to_thread(_furnish, folder, on, (1, 28, 28) if cnn else (784,))
    pace = {"poll": "30s", "check_in": "5m"} if idle else {"poll": "1s", "check_in": "50ms"}
    arguments = await join(
        processes, client, runtime.python, folder, examples, power="mains", **pace
    )
    log = folder / "written.json"
    pid = await processes.start(
        f"agent-{folder.name}",
        *(sys.executable, "benchmarks.written", str(log)),
        *(runtime.python, "-m", "edge_agent", "run", *arguments),
    )
    async with asyncio.timeout(_WAIT_SECONDS):
        while not (found := psutil.Process(pid).children()):
            processes.check()
            await asyncio.sleep(0.05)
    return Guest(folder, found[0], log)


def _furnish(folder: Path, on: bool, shape: tuple[int, ...]) -> Path:
    """A machine with a battery, and a folder of random images, which weigh what real ones do."""
    supplies = folder / "root/sys/class/power_supply"
    for path, text in (
        ("AC/type", "Mains"),
        ("AC/online", "1" if on else "0"),
        ("BAT0/type", "Battery"),
        ("BAT0/capacity", "90"),
        ("BAT0/status", "Charging"),
    ):
        (supplies / path).parent.mkdir(parents=True, exist_ok=True)
        (supplies / path).write_text(text)
    examples = folder / "examples"
    examples.mkdir()
    rng = np.random.default_rng(3)
    x = rng.random((IMAGES, *shape), np.float32)
    np.savez(examples / "images.npz", x=x, label=rng.integers(0, CLASSES, IMAGES))
    return examples


async def _until(processes: Processes, guest: Guest, good: Callable[[Status], bool]) -> None:
    """Wait for an agent to rest for a reason that is `good`. Raises `Failed`."""
    try:
        async with asyncio.timeout(_WAIT_SECONDS):
            while True:
                processes.check()
                status = await ask(guest.socket)
                if status and status.doing == "waiting" and good(status):
                    return
                await asyncio.sleep(0.1)
    except TimeoutError:
        why = status.why if status else "it says nothing"
        raise Failed(f"the agent did not come to rest in {_WAIT_SECONDS:.0f} s: {why}") from None


async def _training(processes: Processes, guest: Guest) -> psutil.Process:
    """The training child, once it has trained for a moment."""
    async with asyncio.timeout(_WAIT_SECONDS):
        while True:
            processes.check()
            for child in guest.agent.children():
                if sum(child.cpu_times()[:2]) > 2.0:
                    return child
            await asyncio.sleep(0.1)


def _time_to_stop(guest: Guest, child: psutil.Process) -> float:
    """Blocking: unplug the device; seconds until training used processor time for the last time."""
    guest.power(False)
    turned = last = time.monotonic()
    used = -1.0
    while time.monotonic() < last + _STILL_SECONDS:
        try:
            now = sum(child.cpu_times()[:2])
        except psutil.NoSuchProcess:
            break
        if now != used:
            used, last = now, time.monotonic()
        time.sleep(0.005)
    return last - turned


def _spent(process: psutil.Process) -> tuple[float, float]:
    """Processor seconds, and bytes written."""
    return sum(process.cpu_times()[:2]), float(process.io_counters().write_bytes)


def _row(what: str, value: float, goal: float, form: str, beside: str = "") -> Row:
    return Row(what, f"{value:{form}}", beside, f"<= {goal:g}", value <= goal)
