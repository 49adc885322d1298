"""The training child: `python -m edge_agent.worker PARENT`. A job on stdin, a report on stdout.

It holds numpy and ONNX Runtime so that the agent need not, and gives all memory back by ending.
SIGTERM stops it: at once until training begins, then after the running batch. It dies with the
agent, however the agent dies.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path
from types import FrameType

import msgspec

from edge_agent import limits
from edge_agent.job import Job

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Read the job, do it, print the report."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with(int(sys.argv[1]))
    refused = limits.be_a_guest()
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    # numpy and ONNX Runtime come in here, into a process that has taken its place.
    from edge_agent import sitting

    report = sitting.run(job, _Stop)
    refused += report.refused
    report = msgspec.structs.replace(report, peak_bytes=_peak_bytes(), refused=refused)
    sys.stdout.buffer.write(msgspec.json.encode(report))
    sys.stdout.buffer.flush()
    os._exit(0)  # nothing is left to do, and the runtime takes its time to go


class _Stop:
    """True once SIGTERM came. From its making on, SIGTERM ends nothing else."""

    def __init__(self) -> None:
        self._asked = False
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def __call__(self) -> bool:
        return self._asked


def _peak_bytes() -> int:
    """The most memory this process held. `getrusage` would count its parent's before the exec."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the agent is gone")


if __name__ == "__main__":
    main()
