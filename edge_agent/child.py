"""The training child, seen from the agent: started, watched, stopped in stages, reaped.

Stages of a stop: SIGTERM (it ends at once, or after the running batch and with its training kept),
a grace, SIGKILL. Its memory goes back to the system whichever way it ends; how it died is a report,
never an exception.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from edge_agent.job import Job, Outcome, Report

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-P", "-m", "edge_agent.worker")
"""The worker; `-P`, so that it imports nothing from the folder that the agent was started in."""

_REAP_SECONDS = 10.0  # for a process to go that was killed
_REPORT_LIMIT = 1 << 20  # bytes
_HINTS = {
    "SIGKILL": ": out of memory?",
    "SIGABRT": ": out of memory?",  # C++ ends so where it cannot tell
    "SIGILL": ": a processor too old?",
    "SIGSYS": ": a system call that the service may not make?",
}
_STOPS = (-signal.SIGTERM, -signal.SIGKILL)
"""How a child ends that was told to and had nothing to keep, or no time left for it."""


class Child:
    """One job in one process. Use `start_child`, which also ends it."""

    def __init__(
        self, process: asyncio.subprocess.Process, reported: asyncio.Task[bytes], grace: float
    ) -> None:
        self._process = process
        self._reported = reported
        self._grace = grace
        self._stopped: Outcome | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    async def report(self) -> Report:
        """Wait for the end and say how it went. Cancelling the wait loses nothing."""
        await asyncio.wait({self._reported})
        if self._reported.cancelled():
            why = "it could not be killed: a disk that does not answer?"
            return Report(outcome=Outcome.CRASHED, detail=why)
        output, code = self._reported.result(), await self._process.wait()
        if self._stopped is None:
            return _read(output, code)
        if code in _STOPS:
            return Report(outcome=self._stopped)
        report = _read(output, code)
        if report.outcome is Outcome.PREEMPTED:
            return msgspec.structs.replace(report, outcome=self._stopped)
        return report  # done, perhaps, just as it was told to stop

    async def stop(self, why: Outcome) -> None:
        """End it in stages; `report` will say `why`."""
        if self._process.returncode is not None:
            return
        self._stopped = why
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._grace):
                await asyncio.to_thread(_hurry, self._process.pid)
                await self._process.wait()
        except TimeoutError:
            self._signal(signal.SIGKILL)
        await self.reaped()

    async def reaped(self) -> None:
        """Wait until nothing is left of it, for a bounded time: who waits for a disk that does not
        answer cannot be killed, and must not keep the agent."""
        try:
            async with asyncio.timeout(_REAP_SECONDS):
                await asyncio.wait({self._reported})
                await self._process.wait()
        except TimeoutError:
            log.error("process %d, the training child, cannot be killed", self._process.pid)
            self._reported.cancel()
            # asyncio closes its pipes only at the end of the process, which may never come.
            self._process._transport.close()  # type: ignore[attr-defined]

    def kill(self) -> None:
        """End it at once."""
        if self._process.returncode is None:
            self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)


@asynccontextmanager
async def start_child(
    job: Job, grace: float, command: Sequence[str] = COMMAND
) -> AsyncIterator[Child]:
    """A running child; on the way out it is dead and reaped, whatever happened inside.

    It is stopped in stages, so that an agent that is told to end keeps what its child has trained;
    a second cancellation kills it. `command` gets this process's id as its last argument. Raises
    `OSError` when it cannot start.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        str(os.getpid()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        # A group of its own: Ctrl-C at a terminal is for the agent, which stops its child in order.
        process_group=0,
    )
    reported = asyncio.create_task(_converse(process, job), name="training child")
    child = Child(process, reported, grace)
    try:
        yield child
    finally:
        try:
            await child.stop(Outcome.PREEMPTED)
        finally:
            child.kill()
            await child.reaped()


async def _converse(process: asyncio.subprocess.Process, job: Job) -> bytes:
    """Hand it the job; its report, or the beginning of what it says instead."""
    assert process.stdin
    assert process.stdout
    with suppress(ConnectionError):
        process.stdin.write(msgspec.json.encode(job))
        await process.stdin.drain()
    process.stdin.close()
    output = bytearray()
    while chunk := await process.stdout.read(_REPORT_LIMIT):
        output += chunk[: _REPORT_LIMIT - len(output)]
    return bytes(output)


def _hurry(pid: int) -> None:
    """Let a child that is to end come to its turn: at idle priority on a busy machine the rest of a
    batch and the keeping of it, a tenth of a second's work, take half a minute.

    Only where the service may (`LimitNICE=+0`); elsewhere the grace has to be long enough.
    """
    try:
        threads = [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return  # it has ended, or this is no Linux
    for thread in threads:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, 0)
        with suppress(OSError):
            os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


def _read(data: bytes, code: int) -> Report:
    if code != 0:
        return Report(outcome=Outcome.CRASHED, detail=_death(code))
    try:
        return msgspec.json.decode(data, type=Report)
    except msgspec.DecodeError as error:
        return Report(outcome=Outcome.CRASHED, detail=f"its report is unreadable: {error}")


def _death(code: int) -> str:
    """How a process ended, for people."""
    if code >= 0:
        return f"exit status {code}; its log says why"
    known = -code in set(signal.Signals)
    name = signal.Signals(-code).name if known else f"signal {-code}"
    return f"killed by {name}{_HINTS.get(name, '')}"
