"""Real processes, each with its log, none left behind."""

import asyncio
import signal
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_STOP_SECONDS = 5.0


class DemoError(Exception):
    """The demo cannot go on; one line that says where to look."""


class Processes:
    """`async with Processes(logs)`: on the way out every process is told to stop, and after
    `patience` seconds killed."""

    def __init__(self, logs: Path, patience: float = _STOP_SECONDS) -> None:
        self._logs = logs
        self._patience = patience
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._logs.mkdir, parents=True, exist_ok=True)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._running.values():
            _send(process, signal.SIGTERM)
        # One bound for all: agents that wait for a network which is silent end none of them soon.
        with suppress(TimeoutError):
            async with asyncio.timeout(self._patience):
                for process in self._running.values():
                    await process.wait()
        for process in self._running.values():
            _send(process, signal.SIGKILL)
            await process.wait()

    async def start(self, name: str, command: str, *arguments: str) -> None:
        """Start one of our commands in the background."""
        self._running[name] = await self._spawn(name, command, arguments)

    async def run(self, name: str, command: str, *arguments: str) -> None:
        """Run one of our commands to its end. Raises `DemoError` when it fails."""
        process = await self._spawn(name, command, arguments)
        try:
            code = await process.wait()
        finally:
            _send(process, signal.SIGKILL)
        if code != 0:
            text = await asyncio.to_thread(self.log(name).read_text)
            last = text.strip().splitlines()[-1:] or [f"exit status {code}"]
            raise DemoError(f"'{command} {arguments[0]}' failed: {last[0]} (log: {self.log(name)})")

    async def kill(self, name: str) -> None:
        """SIGKILL, as a power cut would."""
        process = self._running.pop(name)
        _send(process, signal.SIGKILL)
        await process.wait()

    def ended(self) -> str | None:
        """The name of a process that has ended by itself, if one has."""
        return next((n for n, p in self._running.items() if p.returncode is not None), None)

    def log(self, name: str) -> Path:
        """Where a process writes."""
        return self._logs / f"{name}.log"

    async def _spawn(
        self, name: str, command: str, arguments: tuple[str, ...]
    ) -> asyncio.subprocess.Process:
        with await asyncio.to_thread(self.log(name).open, "ab") as log:
            # Its own process group: Ctrl-C is for the demo, which stops the others in order.
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", command, *arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )


def _send(process: asyncio.subprocess.Process, number: int) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.send_signal(number)
