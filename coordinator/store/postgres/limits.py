"""How long is waited for a database. Every wait has a bound."""

from typing import NamedTuple

from schedules.backoff import Backoff


class Limits(NamedTuple):
    """Seconds, and connections of one process."""

    connect: float = 10.0
    acquire: float = 15.0  # for a free connection
    command: float = 15.0  # for the answer to one statement, which may have to wait for a lock
    patience: float = 10.0  # for a database that is away, before a transaction is given up
    heartbeat: float = 30.0  # between looks at the database's clock: finds a dead connection, too
    leftovers: float = 60.0  # between looks for what another process has left to delete
    writers: int = 6  # transactions at a time
    readers: int = 2  # connections that no writer takes: who only looks waits for none


RECONNECT = Backoff(first=0.1, limit=1.0)
"""Between attempts while the database is away."""
COLLISION = Backoff(first=0.02, limit=0.5)
"""After a deadlock: both sides try again, not at the same moment."""
COLLISIONS = 8
"""This often a transaction gives way to others."""
