"""Peak memory of the training child: `python -m benchmarks.child_peak`, a job on stdin.

Starts the child as the agent does, from a process that holds as little as the agent, and prints
its report. (A child that a larger process starts would inherit that one's peak.)
"""

import asyncio
import sys

import msgspec

from edge_agent.child import start_child
from edge_agent.job import Job, Report


def main() -> None:
    """Read the job, have it done, print the report."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    report = asyncio.run(_run(job))
    sys.stdout.buffer.write(msgspec.json.encode(report))


async def _run(job: Job) -> Report:
    async with start_child(job, grace=5.0) as child:
        return await child.report()


if __name__ == "__main__":
    main()
