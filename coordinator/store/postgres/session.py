"""One transaction: a generator's steps over one connection.

What is kept is gathered and sent in one statement: a hundred updates in one transaction do not cost
a hundred more round trips, and nobody can tell.
"""

import asyncio
import zlib
from typing import Any, TypeVar, assert_never

from asyncpg import exceptions as pg

from coordinator.store.postgres import dialect
from coordinator.store.postgres.listener import CHANNEL
from coordinator.store.postgres.troubles import Damaged
from coordinator.store.sql import Discard, Keep, Query, Recall, Step, Steps, Tell

T = TypeVar("T")

_FLUSH_BYTES = 8 << 20  # of kept updates: more than this is not held back
_LONG_SUM = 1 << 20  # a checksum of more bytes goes to a thread

# An assignment keeps once. What a discarded round has kept is as good as gone, deleted or not.
_GONE = """EXISTS (
    SELECT FROM discards d WHERE d.task = p.task AND d.round = p.round AND p.number <= d.last
)"""
_KEEP = f"""INSERT INTO payloads AS p (assignment, task, round, crc, data)
SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bytea[])
ON CONFLICT (assignment) DO UPDATE
SET number = DEFAULT, task = excluded.task, round = excluded.round, crc = excluded.crc,
    data = excluded.data
WHERE {_GONE}"""
_RECALL = f"SELECT crc, data FROM payloads p WHERE assignment = $1 AND NOT {_GONE}"
_DROP = "DELETE FROM payloads WHERE assignment = $1"
_DISCARD = """INSERT INTO discards (task, round, last)
SELECT task, round, max(number) FROM payloads WHERE task = $1 AND round = $2 GROUP BY task, round
ON CONFLICT (task, round) DO UPDATE SET last = excluded.last"""
_TELL = f"SELECT pg_notify('{CHANNEL}', $1)"


class Session:
    """The steps of one transaction. The connection is in a transaction already; committing and
    undoing it are the caller's."""

    def __init__(self, connection: Any, teller: str, damaged: set[str], writes: bool) -> None:
        """`teller` is who we are to those who listen; `damaged` are kept updates that the database
        is known to be unable to read. Unless it `writes`, whatever would change something is a
        `ValueError`."""
        self._connection = connection
        self._teller = teller
        self._damaged = damaged
        self._writes = writes
        self._kept: dict[str, tuple[Keep, int]] = {}
        self._kept_bytes = 0
        self.tells = False
        self.discards = False
        """Once this is durable, a round's kept updates are to be deleted."""

    async def drive(self, steps: Steps[T]) -> T:
        """Answer every step, then send what is gathered. Returns what the generator returns;
        raises what it raises, or what the database does."""
        answer: Any = None
        try:
            while True:
                try:
                    step = steps.send(answer)
                except StopIteration as done:
                    result: T = done.value
                    break
                answer = await self._answer(step)
        finally:
            steps.close()
        await self._flush()
        if self.tells:
            await self._connection.execute(_TELL, self._teller)
        return result

    async def _answer(self, step: Step) -> Any:
        if not self._writes and not isinstance(step, Query | Recall):
            raise ValueError(f"a read takes no {type(step).__name__}")
        match step:
            case Query():
                return await self._query(step)
            case Keep():
                await self._keep(step)
            case Recall():
                return await self._recall(step.assignment)
            case Discard():
                await self._discard(step)
            case Tell():
                self.tells = True
            case _:
                assert_never(step)
        return None

    async def _query(self, query: Query) -> Any:
        text, values = dialect.statement(query)
        # PostgreSQL takes no NUL. No text that is kept holds one: who asks for it finds nothing.
        values = [v.replace("\0", "\ufffd") if isinstance(v, str) else v for v in values]
        try:
            return await self._connection.fetch(text, *values)
        except pg.ReadOnlySQLTransactionError as error:
            if self._writes:
                raise
            raise ValueError(f"a read changes nothing: {error}") from None

    async def _keep(self, keep: Keep) -> None:
        if keep.assignment in self._kept:
            await self._flush()  # where it is found to be there already
        self._damaged.discard(keep.assignment)
        self._kept_bytes += len(keep.data)
        self._kept[keep.assignment] = (keep, await _checksum(keep.data))
        if self._kept_bytes >= _FLUSH_BYTES:
            await self._flush()

    async def _flush(self) -> None:
        if not self._kept:
            return
        columns = zip(
            *((k.assignment, k.task, k.round, crc, k.data) for k, crc in self._kept.values()),
            strict=True,
        )
        count, self._kept, self._kept_bytes = len(self._kept), {}, 0
        done = await self._connection.execute(_KEEP, *columns)
        if done != f"INSERT 0 {count}":
            raise pg.UniqueViolationError("an update is kept once: a unique assignment came twice")

    async def _recall(self, assignment: str) -> bytes | None:
        if assignment in self._damaged:
            return None
        await self._flush()
        try:
            row = await self._connection.fetchrow(_RECALL, assignment)
        except (pg.DataCorruptedError, pg.IndexCorruptedError) as error:
            raise Damaged(assignment) from error
        if row is None or await _checksum(row["data"]) != row["crc"]:
            return None
        data: bytes = row["data"]
        return data

    async def _discard(self, discard: Discard) -> None:
        await self._flush()
        if discard.assignment is not None:
            await self._connection.execute(_DROP, discard.assignment)
        else:
            await self._connection.execute(_DISCARD, discard.task, discard.round)
            self.discards = True


async def _checksum(data: bytes) -> int:
    if len(data) < _LONG_SUM:
        return zlib.crc32(data)
    return await asyncio.to_thread(zlib.crc32, data)
