"""`coordinator` that is killed at a point of its own choosing, as a power cut would choose it.

    python -m tests.coordinator.dying POINT serve --state ...

POINT: `before`  the round is closing, and nothing of the model is made
       `blob`    the model is durable, and no transaction says so
       `after`   all is durable, and nobody has been told
"""

import os
import signal
import sys
from typing import Any, NoReturn

from coordinator.__main__ import main
from coordinator.closing import Closer


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it is still alive")


async def _die(*_: Any) -> Any:
    die()


def prepare(point: str) -> None:
    """What must not be reached ends the process."""
    if point == "before":
        Closer._aggregate = _die  # type: ignore[method-assign]
        return
    name = {"blob": "_keep", "after": "close"}[point]
    works = getattr(Closer, name)

    async def dies_after(*arguments: Any) -> Any:
        await works(*arguments)
        die()

    setattr(Closer, name, dies_after)


if __name__ == "__main__":
    prepare(sys.argv.pop(1))
    main()
