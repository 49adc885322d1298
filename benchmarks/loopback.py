"""A real coordinator and real agents on this machine's loopback, as processes."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.runtimes import ROOT, environment
from coordinator.client import AdminClient, ClientError
from coordinator.compiler.folder import read_plan_dir

_START_SECONDS = 20.0
_STOP_SECONDS = 5.0

_SYSTEM_BUS = "unix:path=/run/dbus/system_bus_socket"

# The machine is busy with the benchmark itself, and its network is the loopback.
_CONFIG = """\
poll = "{poll}"
system_root = "{root}"
system_bus = "{bus}"

[data]
folder = "{examples}"

[eligibility]
settle = "0s"
power = "{power}"
min_battery = 0
max_busy = 100
max_io_pressure = 100
max_memory_pressure = 100
max_gpu_busy = 100
sessions = "any"
network = "any"

[schedule]
round_deadline = "2m"
check_in = "{check_in}"
"""


class Failed(Exception):
    """A process did not do what it was started for; the message has the end of its log."""


class Processes:
    """`async with Processes(folder)`: on the way out every process has ended."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def __aenter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.gather(*(self.stop(name) for name in list(self._running)))

    async def start(self, name: str, python: str, *arguments: str) -> int:
        """Start `python -m ...` in the background; returns its process id."""
        with self._log(name).open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(python, "-m", *arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=environment(),
            )
        self._running[name] = process
        return process.pid

    async def run(self, name: str, python: str, *arguments: str) -> None:
        """Run `python -m ...` to its end. Raises `Failed`."""
        await self.start(name, python, *arguments)
        if await self._running[name].wait() != 0:
            raise self.failure(name)
        del self._running[name]

    async def stop(self, name: str) -> None:
        """SIGTERM, and SIGKILL if that does not help."""
        process = self._running.pop(name)
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    def check(self) -> None:
        """Raises `Failed` when a process has ended by itself."""
        for name, process in self._running.items():
            if process.returncode is not None:
                raise self.failure(name)

    def failure(self, name: str) -> Failed:
        """What a process said last."""
        last = self._log(name).read_text().strip().splitlines()[-1:]
        return Failed(f"{name} failed: {' '.join(last) or 'it said nothing'}")

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


@asynccontextmanager
async def coordinator(folder: Path, processes: Processes) -> AsyncIterator[tuple[AdminClient, int]]:
    """`coordinator serve` over `folder`: its client, and its process id."""
    state = str(folder / "coordinator")
    arguments = ("serve", "--state", state, "--port", "0")
    pid = await processes.start("coordinator", sys.executable, "coordinator", *arguments)
    async with asyncio.timeout(_START_SECONDS):
        while True:
            processes.check()
            try:
                client = AdminClient.of_state(Path(state))
                break
            except ClientError:
                await asyncio.sleep(0.05)
    async with client:
        yield client, pid


async def create_task(client: AdminClient, task: Path, plan: Path) -> None:
    """Start a task whose plan is compiled already."""
    definition = await asyncio.to_thread(task.read_text)
    compiled = await asyncio.to_thread(read_plan_dir, plan)
    blobs = [*compiled.files.values(), compiled.initial]
    await client.create(definition, compiled.manifest.to_bytes(), blobs)


async def join(
    processes: Processes,
    client: AdminClient,
    python: str,
    device: Path,
    examples: Path,
    *,
    poll: str = "30s",
    check_in: str = "50ms",
    power: str = "any",
) -> tuple[str, ...]:
    """Enrol a device by the agent's own command; returns the arguments that its agent takes.

    Its machine is the folder `root` in `device`, if there is one.
    """
    root = device / "root"
    text = _CONFIG.format(
        poll=poll,
        root=root if await asyncio.to_thread(root.exists) else "/",
        bus=_SYSTEM_BUS,
        examples=examples,
        power=power,
        check_in=check_in,
    )
    config = await asyncio.to_thread(_write, device / "agent.toml", text)
    arguments = ("--state", str(device / "state"), "--config", str(config))
    token = await client.token(1, 600.0)
    await processes.run(
        f"enroll-{device.name}",
        python,
        *("edge_agent", "enroll", client.url, token, "--name", device.name, "--consent"),
        *arguments,
    )
    return arguments


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path
