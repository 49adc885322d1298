"""Run a command and note what it wrote: `python -m benchmarks.written FILE COMMAND ...`.

Like a service's, the command's environment names a folder in memory (`RUNTIME_DIRECTORY`).
The kernel adds what children wrote to their parent's account when they are reaped, so the figure
holds for the command and all of its own.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

_BLOCK = 512  # bytes: the unit of ru_oublock on Linux


def main() -> None:
    """SIGTERM is passed on; the command's exit status becomes this one's."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="lamplighter-") as memory:
        environment = os.environ | {"RUNTIME_DIRECTORY": memory}
        process = subprocess.Popen(sys.argv[2:], env=environment)
        signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
        status = process.wait()
    written = resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock * _BLOCK
    Path(sys.argv[1]).write_text(json.dumps({"written": written}))
    sys.exit(status)


if __name__ == "__main__":
    main()
