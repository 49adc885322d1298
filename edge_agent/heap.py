"""The agent's heap: what an errand needed goes back to the system.

The C library keeps freed memory for the next time, and the next time may be tomorrow.
"""

import gc

import psutil


def give_back() -> None:
    """Blocking, for some milliseconds."""
    gc.collect()  # tasks and their errors refer to each other, and to what was fetched
    trim = getattr(psutil, "heap_trim", None)  # not in every C library
    if trim is not None:
        trim()
