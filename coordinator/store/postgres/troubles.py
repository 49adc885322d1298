"""What an error of the database means for a transaction: again, later, or never."""

from enum import Enum, auto

import asyncpg
from asyncpg import exceptions as pg


class Trouble(Enum):
    COLLISION = auto()
    """Something was in the way. Nothing of the transaction happened: run it again at once."""
    AWAY = auto()
    """The database is not there, or the connection is lost: run it again in a while."""
    BUSY = auto()
    """The database does not take it now (a full disk, a lock held for long): tell the caller."""


class Damaged(Exception):
    """The database cannot read a kept update: the transaction is lost, and runs again without."""

    def __init__(self, assignment: str) -> None:
        super().__init__(f"the update of {assignment} cannot be read")
        self.assignment = assignment


_COLLISION = (pg.SerializationError, pg.DeadlockDetectedError, Damaged)
_AWAY = (
    OSError,  # no server, a connection that was reset, TLS that failed
    pg.PostgresConnectionError,
    pg.AdminShutdownError,
    pg.CrashShutdownError,
    pg.CannotConnectNowError,
    pg.IdleInTransactionSessionTimeoutError,
    pg.TooManyConnectionsError,
    pg.InvalidCachedStatementError,
    asyncpg.InternalClientError,  # asyncpg's own confusion about a connection that was thrown out
)
_BUSY = (
    TimeoutError,
    pg.InsufficientResourcesError,  # a full disk, out of memory
    pg.OperatorInterventionError,  # a statement that was cancelled
    pg.LockNotAvailableError,
    pg.ReadOnlySQLTransactionError,  # a standby, after a failover
    pg.PostgresIOError,
    pg.DataCorruptedError,
    pg.IndexCorruptedError,
    # Rights and passwords were in order when the store was opened: somebody is changing them.
    pg.InvalidAuthorizationSpecificationError,
    pg.InsufficientPrivilegeError,
    pg.InvalidCatalogNameError,
)


def trouble(error: BaseException) -> Trouble | None:
    """`None`: it is the transaction's own affair."""
    if isinstance(error, _COLLISION):
        return Trouble.COLLISION
    if isinstance(error, TimeoutError):  # is an OSError, too
        return Trouble.BUSY
    if isinstance(error, _AWAY):
        return Trouble.AWAY
    if isinstance(error, asyncpg.InterfaceError) and not isinstance(error, pg.DataError):
        # It was closed under us. A value that asyncpg refuses is asyncpg's other DataError.
        return None if isinstance(error, ValueError) else Trouble.AWAY
    return Trouble.BUSY if isinstance(error, _BUSY) else None
