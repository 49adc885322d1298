"""A worker process: `python -m fleet.simulation.worker DESCRIPTOR`, which the simulation starts.

A simulation that ends in order kills its workers. When the line ends without that, the simulation
was killed itself: its workers end at once, in the middle of their work, and clear up for it.
"""

import os
import pickle
import select
import shutil
import sys
import threading
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from fleet.simulation.setting import Setting

_END_SECONDS = 10.0


def main(descriptor: int) -> None:
    """Serve."""
    # What a worker keeps is gone with the simulation: a power cut has nothing to lose in it.
    os.fsync = _nothing  # type: ignore[assignment]
    line = Connection(descriptor)
    with suppress(EOFError, ConnectionError):
        _serve(line)
    threading.Event().wait(_END_SECONDS)  # the thread that watches ends it


def _serve(line: Connection) -> None:
    setting: Setting = line.recv()
    descriptor = line.fileno()
    threading.Thread(target=_watch, args=(descriptor, setting), daemon=True).start()
    workshop = setting.workshop()
    while True:
        method, arguments = line.recv()
        try:
            answer: tuple[bool, Any] = True, getattr(workshop, method)(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told
            answer = False, _sendable(error)
        line.send(answer)


def _sendable(error: Exception) -> Exception:
    """An error, or its words where pickle cannot write it, or cannot make it anew."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    except Exception:  # noqa: BLE001 - an error's class may raise anything
        return RuntimeError("".join(traceback.format_exception_only(error)).strip())
    return error


def _watch(descriptor: int, setting: Setting) -> None:
    """In a thread: wait until nobody is at the other end, and end it all. What is in memory would
    stay there for as long as the machine runs."""
    line = select.poll()
    line.register(descriptor, 0)  # that it was hung up is always told
    line.poll()
    for folder in (setting.quick, setting.folder):
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _nothing(descriptor: int) -> None:
    pass


if __name__ == "__main__":
    main(int(sys.argv[1]))
