"""A worker process: `python -m fleet.simulation.worker DESCRIPTOR`, which the simulation starts.

It works until the line ends, as it does when the simulation has ended, however that was.
"""

import os
import signal
import sys
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any


def main(descriptor: int) -> None:
    """Serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the simulation
    # What a worker keeps is gone with the simulation: a power cut has nothing to lose in it.
    os.fsync = _nothing  # type: ignore[assignment]
    with suppress(EOFError, ConnectionError), Connection(descriptor) as line:
        _serve(line)


def _serve(line: Connection) -> None:
    workshop = line.recv().workshop()
    while True:
        method, arguments = line.recv()
        try:
            answer: tuple[bool, Any] = True, getattr(workshop, method)(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            answer = False, error
        _send(line, answer)


def _send(line: Connection, answer: tuple[bool, Any]) -> None:
    try:
        line.send(answer)
    except (TypeError, AttributeError):  # an error that cannot be pickled
        told = "".join(traceback.format_exception_only(answer[1])).strip()
        line.send((False, RuntimeError(told)))


def _nothing(descriptor: int) -> None:
    pass


if __name__ == "__main__":
    main(int(sys.argv[1]))
