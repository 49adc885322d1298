"""Adding many whole numbers: the one loop in which a large model's sum spends its time.

numpy takes three passes, each through the processor's cache. With numba installed (`pip install
"lamplighter[fast]"`) one pass does the same in less than half the time. Both add the same numbers
bit for bit, so processes with it and without it may share a round.
"""

import functools
import logging
from typing import Protocol

import numpy as np

from coordinator.aggregation.layout import Vector32, Vector64

log = logging.getLogger(__name__)

WORTH_IT = 1 << 16
"""Weights of a model from which on it pays to compile: half a second, once in a process."""


class Kernel(Protocol):
    """near += rint(float32(values * scale)), all of one length; `room` is scratch of that length.

    May be called by several threads at once, each with its own `near` and `room`.
    """

    def __call__(
        self, near: Vector64, values: Vector32, scale: np.float32, room: Vector32
    ) -> None: ...


def kernel(size: int) -> Kernel:
    """What adds fastest for a model of that many weights."""
    if size < WORTH_IT:
        return in_passes
    return in_one_pass() or in_passes


def in_passes(near: Vector64, values: Vector32, scale: np.float32, room: Vector32) -> None:
    """See `Kernel`."""
    np.multiply(values, scale, out=room)
    np.rint(room, out=room)
    np.add(near, room, out=near)


@functools.cache
def in_one_pass() -> Kernel | None:
    """A compiled `Kernel`; `None` without a numba that works. Blocking: compiles at the first
    call."""
    try:
        return _compiled()
    except ImportError as error:  # not installed, or not for this numpy
        log.debug("sums are added by numpy: %s", error)
    except Exception as error:  # noqa: BLE001 - a library is missing, a setting is wrong, ...
        # Without a sum no round would ever close, and numpy's is as good.
        why = f"{type(error).__name__}: {error}"
        log.warning("numba does not work here, sums are added by numpy: %s", why)
    return None


def _compiled() -> Kernel | None:
    """`None` where numba is told not to compile. Raises what numba raises."""
    import numba
    from numba import types

    if vars(numba.config)["DISABLE_JIT"]:  # set as the module loads: mypy does not see it
        log.debug("sums are added by numpy: NUMBA_DISABLE_JIT is set")
        return None

    # Bytes from the network are read-only, and begin where they begin.
    values32 = types.Array(types.float32, 1, "C", readonly=True, aligned=False)
    signature = types.void(types.float64[::1], values32, types.float32)

    # No `fastmath`, which would round otherwise.
    @numba.njit([signature], nogil=True, error_model="numpy")
    def fold(near: Vector64, values: Vector32, scale: np.float32) -> None:
        for index in range(values.size):
            near[index] += np.float64(np.rint(values[index] * scale))

    def add(near: Vector64, values: Vector32, scale: np.float32, room: Vector32) -> None:
        # Unlike numpy it does not look at lengths: it would write past the end.
        assert near.size == values.size
        # Nor does it take strides or another byte order. This copies nothing where there are none.
        fold(near, np.ascontiguousarray(values, np.float32), scale)

    return add
