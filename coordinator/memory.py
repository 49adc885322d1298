"""Memory: what is free goes back to the system, and Python looks for what is free seldom.

glibc gives each thread an arena of its own, and keeps in it what was freed: from the busiest moment
of each thread on, whether that comes again or not. What a coordinator then holds grows with its
days, not with its work: 10 to 30 MB more, as chance has it.
"""

import ctypes
import gc
from collections.abc import Callable

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # glibc's numbers, from <malloc.h>
_KEPT = 1 << 20  # bytes at the end of an arena that stay when all of them are free
_OWN_PAGES = 1 << 20  # from so many bytes on, what is asked for goes back by itself
_ARENAS = 2
_MADE = 10_000  # objects between two looks at the youngest


def keep_little() -> bool:
    """Whether the C library takes the advice. To be called before there are threads: those there
    are keep their arenas. With both thresholds said, glibc does not raise them by itself."""
    mallopt = _function("mallopt")
    if mallopt is None:
        return False
    wanted = ((_ARENA_MAX, _ARENAS), (_TRIM_THRESHOLD, _KEPT), (_MMAP_THRESHOLD, _OWN_PAGES))
    taken = [mallopt(ctypes.c_int(name), ctypes.c_int(value)) for name, value in wanted]
    return all(taken)


def collect_seldom() -> None:
    """Python's collector no longer looks at what is there now, and less often at what is made from
    here on: what a request leaves behind goes by itself, and to look takes a tenth of the time."""
    gc.freeze()
    gc.set_threshold(_MADE, 20, 50)


def give_back() -> None:
    """Blocking, about a millisecond: what is free goes back also from among what is in use, where
    `keep_little` cannot reach it. When much was let go and little is to be done."""
    malloc_trim = _function("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(ctypes.c_size_t(0))


def _function(name: str) -> Callable[..., int] | None:
    """One of glibc's own; other C libraries (musl) hand pages back by themselves."""
    try:
        found: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
    return found
