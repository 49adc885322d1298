"""Waits between retries: exponential, with equal jitter, bounded.

Equal jitter (a uniform draw from half of the bound to the bound) keeps a fleet that failed together
from coming back together; see M. Brooker, "Exponential backoff and jitter", AWS, 2015.
"""

from typing import NamedTuple


class Backoff(NamedTuple):
    """Waits of at most `first`, 2 `first`, 4 `first`, ... up to `limit` seconds."""

    first: float = 2.0
    limit: float = 600.0

    def delay(self, failures: int, fraction: float) -> float:
        """Seconds to wait after the `failures`-th failure in a row (1 is the first).

        `fraction` is a uniform draw from 0 to 1. Half of the bound is always waited, so that an
        unlucky draw does not hammer a server that is down.
        """
        bound = min(self.limit, self.first * 2.0 ** min(failures - 1, 60))
        return bound * (0.5 + 0.5 * fraction)


TRANSIENT = Backoff(first=2.0, limit=600.0)
"""The network or the server has a passing trouble."""
PERMANENT = Backoff(first=600.0, limit=6 * 3600.0)
"""The server said no for good (a lost credential, a wrong version): ask again rarely."""
