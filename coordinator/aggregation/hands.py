"""Work on a model's blocks: the caller's thread alone, or with one helper when the model is large.

More than two threads gain nothing: from there on memory is what everybody waits for.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from coordinator.aggregation.layout import Layout

_WORTH_IT = 8  # blocks; below it, handing work over costs more than it saves
_HELPER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="aggregation")

T = TypeVar("T")


class Scratch:
    """Room for one block, for one thread."""

    def __init__(self, size: int) -> None:
        self.gathered = np.empty(size, np.float32)
        self.rounded = np.empty(size, np.float32)


class _Own(threading.local):
    """A thread's scratch: kept for the next sum, of this task or another."""

    scratch = Scratch(0)

    def of(self, size: int) -> Scratch:
        if self.scratch.rounded.size < size:
            self.scratch = Scratch(size)
        return self.scratch


_OWN = _Own()


class Hands:
    """One or two threads, each with its scratch. For one call of `share` at a time."""

    def __init__(self, layout: Layout) -> None:
        self._many = len(layout.blocks) >= _WORTH_IT and (os.cpu_count() or 1) > 1
        self._size = layout.largest

    def share(self, items: Iterable[T], work: Callable[[T, Scratch], None]) -> None:
        """Do `work` on every item, in no certain order. What it raises is raised here, when no
        thread works on any item any more."""
        rest = iter(list(items))  # a list's iterator may be shared between threads
        if not self._many:
            _work_off(rest, work, self._size)
            return
        helper = _HELPER.submit(_work_off, rest, work, self._size)
        try:
            _work_off(rest, work, self._size)
        finally:
            # A helper busy elsewhere has not begun, and there is nothing left for it to do.
            done = helper.cancel()
            if not done:
                helper.result()


def _work_off(rest: Iterator[T], work: Callable[[T, Scratch], None], size: int) -> None:
    scratch = _OWN.of(size)
    # Once for all blocks: a square that leaves float32 is looked into, not warned of.
    with np.errstate(over="ignore", invalid="ignore"):
        for item in rest:
            work(item, scratch)
