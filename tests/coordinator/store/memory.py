"""A store in memory that runs real transactions one after the other, for tests without a loop."""

import sqlite3
from collections.abc import Callable
from importlib import resources
from typing import Any, ParamSpec, TypeVar

from coordinator.store.playing import answer_query, play
from coordinator.store.sql import Discard, Keep, Query, Recall, Step, Steps, Tell

P = ParamSpec("P")
T = TypeVar("T")


class MemoryStore:
    """`kept` has the updates by assignment: the task, the number of the round, and the bytes.
    `told` are the topics of the last transaction."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[str, int, bytes]] = {}
        self.told: list[str] = []
        self.database = sqlite3.connect(":memory:", isolation_level=None)
        self.database.row_factory = sqlite3.Row
        self.database.execute("PRAGMA foreign_keys = ON")
        schema = resources.files("coordinator.store").joinpath("schema.sql")
        self.database.executescript(schema.read_text())

    def run(self, transaction: Callable[P, Steps[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a transaction; wholly, or not at all when it raises."""
        kept, self.told = dict(self.kept), []
        self.database.execute("BEGIN")
        try:
            found: T = play(transaction(*args, **kwargs), self._answer)
        except BaseException:
            self.database.execute("ROLLBACK")
            self.kept = kept
            raise
        self.database.execute("COMMIT")
        return found

    def rows(self, text: str, *values: Any) -> list[dict[str, Any]]:
        """What a statement finds, for a test to look at."""
        return [dict(row) for row in answer_query(self.database, Query(text, values))]

    def close(self) -> None:
        """Let go."""
        self.database.close()

    def _answer(self, step: Step) -> Any:
        match step:
            case Query():
                return answer_query(self.database, step)
            case Keep(task, number, assignment, data):
                assert assignment not in self.kept, f"{assignment} is kept twice"
                self.kept[assignment] = task, number, data
            case Recall(assignment):
                return self.kept[assignment][2] if assignment in self.kept else None
            case Discard(task, number, None):
                gone = [a for a, (t, n, _) in self.kept.items() if (t, n) == (task, number)]
                for assignment in gone:
                    del self.kept[assignment]
            case Discard(_, _, assignment):
                assert assignment is not None
                self.kept.pop(assignment, None)
            case Tell(topic):
                self.told.append(topic)
        return None
