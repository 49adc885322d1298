"""The journal: one SQLite file in WAL mode. Each method is one transaction, durable on return.

Blocking, and used from one thread: `coordinator.store.worker` is its place off the event loop.
`synchronous = FULL` makes a commit survive a power cut, not only `kill -9`.
"""

import json
import logging
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from coordinator.errors import unknown_device
from coordinator.store.records import (
    AssignmentRecord,
    DeviceRecord,
    EvaluationRecord,
    ModelRecord,
    RoundRecord,
    TaskRecord,
    Withdrawn,
)
from wire.messages import Facts

log = logging.getLogger(__name__)

SCHEMA_VERSION = "1"
R = TypeVar("R", bound=msgspec.Struct)


class StoreError(Exception):
    """The store cannot be used; one line that says what to do."""


class Database:
    """The coordinator's state in one file."""

    def __init__(self, path: Path) -> None:
        """Open or create. Raises `StoreError`."""
        try:
            path.touch(mode=0o600)
            # The lock of another coordinator goes with its process: there is nothing to wait for.
            self._sql = sqlite3.connect(
                path, timeout=0, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare(path)
            except BaseException:
                self._sql.close()
                raise
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise StoreError(
                    f"{path} is in use by another coordinator: stop it first"
                ) from None
            raise StoreError(f"{path} cannot be opened: {error}") from None
        except (sqlite3.DatabaseError, OSError) as error:
            raise StoreError(
                f"{path} cannot be used ({error}): restore it from a backup, or move it away to "
                "start anew"
            ) from None

    def close(self) -> None:
        """Checkpoint the write-ahead log and close the file."""
        self._sql.close()

    def ping(self) -> None:
        """Raise unless the file can be read."""
        self._sql.execute("SELECT value FROM meta").fetchone()

    # Tasks and models

    def create_task(self, task: TaskRecord, model: str) -> None:
        """A new task, its model of version 0 and its first round."""
        with self._transaction():
            self._insert("tasks", task)
            self._add_model(task.name, 0, model, task.created)
            self._open_round(task.name, 1, 0, task.created)

    def tasks(self) -> list[TaskRecord]:
        """Every task, oldest first."""
        return self._rows(TaskRecord, "SELECT * FROM tasks ORDER BY created, name")

    def models(self, task: str) -> list[ModelRecord]:
        """Every published model of a task, oldest first."""
        return self._rows(ModelRecord, "SELECT * FROM models WHERE task = ? ORDER BY version", task)

    # Rounds

    def rounds(self, task: str, last: int) -> list[RoundRecord]:
        """The `last` rounds of a task, oldest first."""
        newest = "SELECT * FROM rounds WHERE task = ? ORDER BY number DESC LIMIT ?"
        return self._rows(RoundRecord, newest, task, last)[::-1]

    def end_round(self, ended: RoundRecord, model: str | None, state: str) -> RoundRecord | None:
        """Close or abandon a round, publish its model, open the next: one transaction.

        `model` is the new model's digest, `None` when it stays as it was. `state` is the task's
        from now on; while it is `running`, the next round begins and is returned.
        """
        assert ended.ended is not None
        with self._transaction():
            self._sql.execute(
                "UPDATE rounds SET phase = ?, reason = ?, ended = ?, updates = ?, examples = ?"
                " WHERE task = ? AND number = ?",
                (
                    *(ended.phase, ended.reason, ended.ended, ended.updates, ended.examples),
                    *(ended.task, ended.number),
                ),
            )
            self._sql.execute(
                "UPDATE assignments SET state = 'expired', ended = ?"
                " WHERE task = ? AND round = ? AND state = 'working'",
                (ended.ended, ended.task, ended.number),
            )
            version = ended.version
            if model is not None:
                version += 1
                self._add_model(ended.task, version, model, ended.ended)
            self._sql.execute("UPDATE tasks SET state = ? WHERE name = ?", (state, ended.task))
            if state != "running":
                return None
            self._open_round(ended.task, ended.number + 1, version, ended.ended)
            return self.rounds(ended.task, 1)[-1]

    # Assignments

    def assign(self, assignment: AssignmentRecord) -> None:
        """A device gets a place in a round; the first one starts the round's clock. Raises `Denied`
        when the device has left."""
        with self._transaction():
            self._check_enrolled(assignment.device)
            self._insert("assignments", assignment)
            self._sql.execute(
                "UPDATE rounds SET started = coalesce(started, ?) WHERE task = ? AND number = ?",
                (assignment.assigned, assignment.task, assignment.round),
            )

    def assignment(self, assignment: str) -> AssignmentRecord | None:
        """One assignment."""
        found = self._rows(AssignmentRecord, "SELECT * FROM assignments WHERE id = ?", assignment)
        return found[0] if found else None

    def assignments(self, task: str, number: int) -> list[AssignmentRecord]:
        """Everyone who had a place in a round, in order of assignment."""
        return self._rows(
            AssignmentRecord,
            "SELECT * FROM assignments WHERE task = ? AND round = ? ORDER BY assigned, id",
            *(task, number),
        )

    def announce(self, assignment: str, length: int, digest: str) -> None:
        """Size and digest of the upload to come."""
        with self._transaction():
            self._sql.execute(
                "UPDATE assignments SET length = ?, digest = ? WHERE id = ?",
                (length, digest, assignment),
            )

    def accept(self, assignment: str, examples: int, loss: float, now: float) -> None:
        """The update is in the spool, complete and checked: from now on it counts."""
        self._end_assignment(assignment, "accepted", None, None, now, examples, loss)

    def drop(self, assignment: str, state: str, reason: str, detail: str, now: float) -> None:
        """The update was `refused`, or the device has `given_up`, and why."""
        self._end_assignment(assignment, state, reason, detail, now, None, None)

    def lose(self, assignment: str, detail: str) -> None:
        """The disk has lost an accepted update before its round closed."""
        with self._transaction():
            self._lose(assignment, detail)

    def _lose(self, assignment: str, detail: str) -> None:
        self._sql.execute(
            "UPDATE assignments SET state = 'refused', reason = 'lost', detail = ? WHERE id = ?",
            (detail, assignment),
        )

    def _end_assignment(self, assignment: str, *values: Any) -> None:
        with self._transaction():
            self._sql.execute(
                "UPDATE assignments SET state = ?, reason = ?, detail = ?, ended = ?,"
                " examples = ?, loss = ? WHERE id = ? AND state = 'working'",
                (*values, assignment),
            )

    # Devices and tokens

    def add_token(self, token: str, secret: str, uses: int, expires: float) -> None:
        """An enrolment token, good for so many devices until `expires`."""
        with self._transaction():
            self._sql.execute(
                "INSERT INTO tokens VALUES (?, ?, ?, ?)", (token, secret, uses, expires)
            )

    def token_secret(self, token: str, now: float) -> str | None:
        """The hashed secret of a token that is still good."""
        found = self._sql.execute(
            "SELECT secret FROM tokens WHERE id = ? AND uses > 0 AND expires > ?", (token, now)
        ).fetchone()
        return found["secret"] if found else None

    def enroll(self, device: DeviceRecord, token: str) -> bool:
        """Add a device and use the token once. False when the token has no use left."""
        with self._transaction():
            used = self._sql.execute(
                "UPDATE tokens SET uses = uses - 1 WHERE id = ? AND uses > 0 AND expires > ?",
                (token, device.enrolled),
            )
            if used.rowcount != 1:
                return False
            self._insert("devices", device)
            return True

    def devices(self) -> list[DeviceRecord]:
        """Every device, oldest first."""
        return self._rows(DeviceRecord, "SELECT * FROM devices ORDER BY enrolled, id")

    def saw(self, seen: Mapping[str, tuple[Facts, float]]) -> None:
        """When devices last checked in, and what they said of themselves."""
        with self._transaction():
            self._sql.executemany(
                "UPDATE devices SET facts = ?, seen = ? WHERE id = ?",
                [(msgspec.json.encode(f).decode(), now, d) for d, (f, now) in seen.items()],
            )

    def withdraw(self, device: str, lost: Mapping[str, str]) -> Withdrawn:
        """Forget a device: its identity, its evaluations and its part in every round, also in those
        that have ended; what they came to stays in the rounds' own numbers. `lost` are others'
        accepted updates that the disk no longer has, and why. All of it in one transaction; then
        what was deleted is wiped from the file."""
        with self._transaction():
            dropped, published = (self._accepted_in(device, p) for p in ("open", "closed"))
            for assignment, detail in lost.items():
                self._lose(assignment, detail)
            assignments: dict[str, list[str]] = {}
            for task, found in self._sql.execute(
                "SELECT task, id FROM assignments WHERE device = ?", (device,)
            ):
                assignments.setdefault(task, []).append(found)
            self._sql.execute("DELETE FROM assignments WHERE device = ?", (device,))
            self._sql.execute("DELETE FROM evaluations WHERE device = ?", (device,))
            self._sql.execute("DELETE FROM devices WHERE id = ?", (device,))
        self._wipe()
        return Withdrawn(assignments, dropped, published)

    def _accepted_in(self, device: str, phase: str) -> int:
        row = self._sql.execute(
            "SELECT count(*) AS found FROM assignments JOIN rounds"
            " ON rounds.task = assignments.task AND rounds.number = assignments.round"
            " WHERE device = ? AND state = 'accepted' AND phase = ?",
            (device, phase),
        ).fetchone()
        return int(row["found"])

    def _check_enrolled(self, device: str) -> None:
        # A request may be under way while its device leaves: the journal has the last word.
        if not self._sql.execute("SELECT 1 FROM devices WHERE id = ?", (device,)).fetchone():
            raise unknown_device()

    def _wipe(self) -> None:
        """Deleted rows were overwritten (`secure_delete`); the log still holds the pages as they
        were, until it is emptied."""
        try:
            self._sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            # The deletion itself is durable: the log is emptied when the file is closed, at last.
            log.warning("what was deleted is not wiped from the log yet: %s", error)

    # Evaluations

    def add_evaluations(self, evaluations: list[EvaluationRecord]) -> None:
        """Store metrics; a device's later word on a version replaces its earlier one. Raises
        `Denied` when the device has left."""
        with self._transaction():
            for evaluation in evaluations:
                self._check_enrolled(evaluation.device)
                self._insert("evaluations", evaluation, "INSERT OR REPLACE")

    def evaluations(self, task: str) -> list[EvaluationRecord]:
        """Every evaluation of a task's models, by version."""
        return self._rows(
            EvaluationRecord,
            "SELECT * FROM evaluations WHERE task = ? ORDER BY version, device",
            task,
        )

    # Plumbing

    def _prepare(self, path: Path) -> None:
        """Lock the file, look at its version, and make the tables that are missing."""
        self._sql.row_factory = sqlite3.Row
        # One writer of rounds: a second coordinator on the same file would run every round
        # twice. The lock goes with the process, however it ends.
        self._sql.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._sql.execute("PRAGMA journal_mode = WAL")
        self._sql.execute("PRAGMA synchronous = FULL")
        self._sql.execute("PRAGMA foreign_keys = ON")
        # What is deleted is overwritten: a device that leaves is not to be read from the file.
        self._sql.execute("PRAGMA secure_delete = ON")
        if self._sql.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            self._check_version(path)
        schema = resources.files(__package__).joinpath("schema.sql").read_text("utf-8")
        self._sql.executescript(schema)
        self._sql.execute(
            "INSERT OR IGNORE INTO meta VALUES ('schema_version', ?)", (SCHEMA_VERSION,)
        )

    def _check_version(self, path: Path) -> None:
        row = self._sql.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
        if row is not None and row["value"] != SCHEMA_VERSION:
            raise StoreError(
                f"{path} has schema version {row['value']}, this coordinator reads "
                f"{SCHEMA_VERSION}: run the version that wrote it"
            )

    def _add_model(self, task: str, version: int, digest: str, now: float) -> None:
        self._insert("models", ModelRecord(task=task, version=version, digest=digest, created=now))

    def _open_round(self, task: str, number: int, version: int, now: float) -> None:
        self._sql.execute(
            "INSERT INTO rounds (task, number, version, opened) VALUES (?, ?, ?, ?)",
            (task, number, version, now),
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._sql.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._sql.execute("COMMIT")
        except BaseException:
            if self._sql.in_transaction:
                self._sql.execute("ROLLBACK")
            raise

    def _insert(self, table: str, record: msgspec.Struct, verb: str = "INSERT") -> None:
        values = msgspec.to_builtins(record)
        columns = ", ".join(values)
        marks = ", ".join("?" * len(values))
        # Table and column names are this module's own, never from outside.
        self._sql.execute(
            f"{verb} INTO {table} ({columns}) VALUES ({marks})",
            [json.dumps(v) if isinstance(v, dict) else v for v in values.values()],
        )

    def _rows(self, kind: type[R], query: str, *values: Any) -> list[R]:
        json_columns = {
            f.name for f in msgspec.structs.fields(kind) if f.type not in _PLAIN_COLUMNS
        }
        with closing(self._sql.execute(query, values)) as cursor:
            return [
                msgspec.convert(
                    {k: json.loads(row[k]) if k in json_columns else row[k] for k in row.keys()},  # noqa: SIM118
                    kind,
                )
                for row in cursor
            ]


_PLAIN_COLUMNS = (str, int, float, str | None, int | None, float | None)
