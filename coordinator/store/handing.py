"""A closer that lives but cannot close hands its claim back, and says why.

What went wrong is kept until the round has ended, for whoever asks why it does not.
"""

import msgspec

from coordinator.store.rounds import ROUNDS
from coordinator.store.sql import Steps, Tell, one, rows

_LONGEST = 500  # characters of a reason


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """Why a closing round is not closed: how often that has failed, and how it did last."""

    round: int
    host: str
    failures: int
    reason: str


def hand_back(task: str, number: int, node: str, reason: str) -> Steps[bool]:
    """The closer of a round could not close it: any process may try, this one among them. False
    when another is its closer, or it is closed."""
    mine = yield from rows(
        "UPDATE rounds SET closer = NULL WHERE task = $1 AND number = $2 AND phase = 'closing'"
        " AND closer = $3 RETURNING number",
        *(task, number, node),
    )
    if not mine:
        return False
    before = yield from trouble(task, number)
    where = yield from one("SELECT host FROM nodes WHERE id = $1", node)
    found = Trouble(
        round=number,
        host=str(where["host"]) if where else node,
        failures=1 + (before.failures if before else 0),
        reason=reason[:_LONGEST],
    )
    yield from rows(
        "INSERT INTO meta (key, value) VALUES ($1, $2)"
        " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        *(_key(task), msgspec.json.encode(found).decode()),
    )
    yield Tell(ROUNDS)
    return True


def trouble(task: str, number: int) -> Steps[Trouble | None]:
    """What was last said of a round that does not close."""
    row = yield from one("SELECT value FROM meta WHERE key = $1", _key(task))
    found = msgspec.json.decode(row["value"], type=Trouble) if row else None
    return found if found is not None and found.round == number else None


def forget(task: str) -> Steps[None]:
    """The round has ended."""
    yield from rows("DELETE FROM meta WHERE key = $1", _key(task))


def _key(task: str) -> str:
    return f"closing {task}"
