"""The agent's heap: what an errand needed goes back to the system.

The C library keeps freed memory for the next time, and the next time may be tomorrow.
"""

import ctypes
import sys


def give_back() -> None:
    """Blocking, for a millisecond. Without effect where the C library has no such call."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
