"""How much memory a call takes at its peak."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def at_most(limit: int) -> Iterator[None]:
    """Fail when the block's peak of traced memory is over `limit` bytes."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= limit, f"{peak} bytes at the peak, at most {limit}"
