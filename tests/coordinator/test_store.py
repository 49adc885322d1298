"""The store: journal, blobs, spool and the admin token, on a real disk."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from coordinator import credentials
from coordinator.errors import Conflict, NotFound
from coordinator.service import admin_token, open_coordinator
from coordinator.store.blobs import BlobStore
from coordinator.store.database import Database, StoreError
from coordinator.store.records import (
    AssignmentRecord,
    DeviceRecord,
    EvaluationRecord,
    RoundRecord,
    TaskRecord,
)
from coordinator.store.spool import Spool
from fleet.clients import FACTS
from tests.coordinator.plans import plan
from tests.coordinator.serving import serving
from wire import compression
from wire.digest import digest_of
from wire.errors import WireError

TASK = TaskRecord(name="digits", state="running", definition="...", plan="plan", created=1.0)
DEVICE = DeviceRecord(
    id="device-1",
    name="pi",
    secret="hash",
    labels={"site": "north"},
    facts=FACTS,
    enrolled=2.0,
    seen=2.0,
)


def assignment(name: str = "a-1", **changes: object) -> AssignmentRecord:
    fields: dict[str, object] = {
        "id": name,
        "task": "digits",
        "round": 1,
        "device": "device-1",
        "seed": (1 << 62) - 1,
        "state": "working",
        "assigned": 3.0,
    }
    rest = dict.fromkeys(("reason", "detail", "ended", "length", "digest", "examples", "loss"))
    return AssignmentRecord(**(rest | fields | changes))  # type: ignore[arg-type]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """A journal with a task and a device."""
    found = Database(tmp_path / "coordinator.sqlite")
    found.create_task(TASK, "model-0")
    found.add_token("join-1", "hash", 5, 100.0)
    assert found.enroll(DEVICE, "join-1")
    yield found
    found.close()


# The journal


def test_a_new_task_has_a_model_and_an_open_round(database: Database):
    assert database.tasks() == [TASK]
    assert [(m.version, m.digest) for m in database.models("digits")] == [(0, "model-0")]
    (found,) = database.rounds("digits", 10)
    assert (found.number, found.version, found.phase, found.started) == (1, 0, "open", None)
    database.ping()


def test_two_tasks_of_one_name_cannot_be(database: Database):
    with pytest.raises(sqlite3.IntegrityError):
        database.create_task(TASK, "other")
    assert len(database.models("digits")) == 1


def test_the_first_assignment_starts_the_rounds_clock(database: Database):
    database.assign(assignment(assigned=3.0))
    database.assign(assignment("a-2", assigned=9.0))
    assert database.rounds("digits", 1)[0].started == 3.0
    assert [row.id for row in database.assignments("digits", 1)] == ["a-1", "a-2"]
    assert database.assignment("a-1") == assignment()
    assert database.assignment("a-3") is None


def test_an_assignment_ends_once(database: Database):
    database.assign(assignment())
    database.announce("a-1", 100, "sha256:00")
    database.accept("a-1", 10, 0.5, 4.0)
    database.drop("a-1", "refused", "late", "too late", 5.0)
    database.accept("a-1", 99, 9.0, 6.0)
    found = database.assignment("a-1")
    assert found == assignment(
        state="accepted", ended=4.0, length=100, digest="sha256:00", examples=10, loss=0.5
    )


def test_a_dropped_update_says_why(database: Database):
    database.assign(assignment())
    database.drop("a-1", "given_up", "on_battery", "12 %", 5.0)
    found = database.assignment("a-1")
    assert found == assignment(state="given_up", reason="on_battery", detail="12 %", ended=5.0)


def test_a_lost_update_no_longer_counts(database: Database):
    database.assign(assignment())
    database.accept("a-1", 10, 0.5, 4.0)
    database.lose("a-1", "gone")
    found = database.assignment("a-1")
    assert found is not None
    assert (found.state, found.reason, found.detail) == ("refused", "lost", "gone")


def ended(database: Database, **changes: object) -> RoundRecord:
    fields = {"phase": "closed", "reason": "goal", "ended": 7.0, "updates": 1, "examples": 10}
    return msgspec.structs.replace(database.rounds("digits", 1)[0], **(fields | changes))


def test_a_round_ends_publishes_and_opens_the_next_in_one_step(database: Database):
    database.assign(assignment())
    database.assign(assignment("a-2"))
    database.accept("a-1", 10, 0.5, 4.0)
    following = database.end_round(ended(database), "model-1", "running")
    assert following is not None
    assert (following.number, following.version, following.opened) == (2, 1, 7.0)
    first, second = database.rounds("digits", 10)
    assert (first.phase, first.reason, first.updates, first.examples) == ("closed", "goal", 1, 10)
    assert second == following
    assert [m.digest for m in database.models("digits")] == ["model-0", "model-1"]
    states = {row.id: row.state for row in database.assignments("digits", 1)}
    assert states == {"a-1": "accepted", "a-2": "expired"}


def test_an_abandoned_round_publishes_nothing(database: Database):
    record = ended(database, phase="abandoned", reason="too_few")
    following = database.end_round(record, None, "running")
    assert following is not None
    assert following.version == 0
    assert len(database.models("digits")) == 1


def test_a_task_that_is_done_has_no_next_round(database: Database):
    assert database.end_round(ended(database), "model-1", "done") is None
    assert database.tasks()[0].state == "done"
    assert len(database.rounds("digits", 10)) == 1


def test_a_step_that_fails_half_way_leaves_nothing(database: Database):
    with pytest.raises(sqlite3.IntegrityError):
        database.end_round(ended(database), "model-1", "no such state")
    assert database.rounds("digits", 1)[0].phase == "open"
    assert len(database.models("digits")) == 1


def test_a_token_is_good_so_often_and_so_long(database: Database):
    database.add_token("join-2", "secret", 1, 50.0)
    assert database.token_secret("join-2", 49.0) == "secret"
    assert database.token_secret("join-2", 50.0) is None
    assert database.token_secret("join-3", 1.0) is None
    late = msgspec.structs.replace(DEVICE, id="device-2", enrolled=50.0)
    assert not database.enroll(late, "join-2")
    assert database.enroll(msgspec.structs.replace(late, enrolled=49.0), "join-2")
    assert database.token_secret("join-2", 1.0) is None
    again = msgspec.structs.replace(late, id="device-3", enrolled=49.0)
    assert not database.enroll(again, "join-2")
    assert [d.id for d in database.devices()] == ["device-1", "device-2"]


def test_a_devices_last_word_is_kept(database: Database):
    facts = msgspec.structs.replace(FACTS, agent="9.9")
    database.saw({"device-1": (facts, 8.0)})
    assert database.devices() == [msgspec.structs.replace(DEVICE, facts=facts, seen=8.0)]


def test_a_later_evaluation_replaces_an_earlier_one(database: Database):
    first = EvaluationRecord(
        task="digits", version=0, device="device-1", examples=9, metrics={"loss": 1.0}
    )
    second = msgspec.structs.replace(first, metrics={"loss": 0.5})
    database.add_evaluations([first])
    database.add_evaluations([second])
    assert database.evaluations("digits") == [second]
    assert database.evaluations("other") == []


# The file


def test_a_second_coordinator_is_refused_in_one_line(database: Database, tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from coordinator.store.database import *\n"
        "try: Database(Path(sys.argv[1]))\n"
        "except StoreError as e: print(e)\n"
    )
    path = tmp_path / "coordinator.sqlite"
    other = [sys.executable, "-c", code, path]
    said = subprocess.run(other, capture_output=True, text=True, check=True).stdout
    assert said == f"{path} is in use by another coordinator: stop it first\n"
    database.ping()


def test_a_schema_of_another_version_is_refused_and_left_alone(tmp_path: Path):
    path = tmp_path / "coordinator.sqlite"
    Database(path).close()
    with sqlite3.connect(path) as sql:
        sql.execute("UPDATE meta SET value = '2' WHERE key = 'schema_version'")
        sql.execute("DROP TABLE evaluations")
        sql.execute("DROP INDEX assignments_by_device")
        sql.execute("ALTER TABLE assignments RENAME COLUMN device TO machine")
    sql.close()
    with pytest.raises(StoreError, match="schema version 2, this coordinator reads 1"):
        Database(path)
    with sqlite3.connect(path) as sql:
        tables = {name for (name,) in sql.execute("SELECT name FROM sqlite_master")}
    sql.close()
    assert "evaluations" not in tables


@pytest.mark.parametrize("damage", ["rubbish", "truncated", "header", "folder"])
def test_a_damaged_file_is_one_line_that_says_what_to_do(tmp_path: Path, damage: str):
    path = tmp_path / "coordinator.sqlite"
    if damage == "folder":
        path.mkdir()
    else:
        Database(path).close()
        data = path.read_bytes()
        path.write_bytes(
            {
                "rubbish": b"rubbish" * 1000,
                "truncated": data[:5000],
                "header": b"SQLite format 4\0" + data[16:],
            }[damage]
        )
    with pytest.raises(StoreError) as refused:
        Database(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path):
    with pytest.raises(StoreError):
        Database(tmp_path / "nowhere" / "coordinator.sqlite")


def test_the_files_are_their_owners_alone(tmp_path: Path):
    old = os.umask(0)
    try:
        database = Database(tmp_path / "coordinator.sqlite")
        database.create_task(TASK, "model")
        admin_token(tmp_path)
        modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
        database.close()
    finally:
        os.umask(old)
    assert {"coordinator.sqlite", "coordinator.sqlite-wal", "admin.token"} <= modes.keys()
    assert set(modes.values()) == {0o600}


def test_what_was_committed_survives_a_kill(tmp_path: Path):
    code = (
        "import os, sys; from pathlib import Path\n"
        "from tests.coordinator.test_store import *\n"
        "database = Database(Path(sys.argv[1]) / 'coordinator.sqlite')\n"
        "database.create_task(TASK, 'model-0')\n"
        "database.end_round(ended(database), 'model-1', 'running')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert (tmp_path / "coordinator.sqlite-wal").stat().st_size > 0
    database = Database(tmp_path / "coordinator.sqlite")
    assert [r.number for r in database.rounds("digits", 10)] == [1, 2]
    assert database._sql.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert database._sql.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL
    database.close()


def test_the_admin_token_is_made_once_and_long(tmp_path: Path):
    token = admin_token(tmp_path)
    assert len(token) == 64
    assert admin_token(tmp_path) == token


@pytest.mark.parametrize("content", ["", "\n"])
def test_an_empty_admin_token_is_refused(tmp_path: Path, content: str):
    (tmp_path / "admin.token").write_text(content)
    with pytest.raises(StoreError, match=r"admin\.token"):
        admin_token(tmp_path)


async def test_a_damaged_plan_is_one_line_at_the_start(tmp_path: Path):
    async with serving(tmp_path) as served:
        await plan().create(served.admin)
        path = served.coordinator.services.blobs.path(served.task().record.plan)
    await asyncio.to_thread(path.unlink)
    with pytest.raises(StoreError, match="task digits"):
        async with open_coordinator(tmp_path):
            pass


# Blobs


def test_a_blob_is_named_by_its_digest_and_stored_once(tmp_path: Path):
    blobs = BlobStore(tmp_path / "blobs")
    data = b"weights" * 1000
    assert blobs.put(data) == blobs.put(data) == digest_of(data)
    assert blobs.get(digest_of(data)) == data
    packed = blobs.path(digest_of(data), compressed=True).read_bytes()
    assert compression.decompress(packed, len(data)) == data
    assert len(list((tmp_path / "blobs").iterdir())) == 2


def test_a_blob_that_is_damaged_or_missing_is_not_handed_out(tmp_path: Path):
    blobs = BlobStore(tmp_path / "blobs")
    digest = blobs.put(b"weights")
    blobs.path(digest).write_bytes(b"Weights")
    with pytest.raises(WireError, match="bad_digest"):
        blobs.get(digest)
    with pytest.raises(NotFound):
        blobs.get(digest_of(b"other"))


@pytest.mark.parametrize("name", ["../admin.token", "sha256:..", "", "sha256:" + "A" * 64])
def test_no_name_but_a_digest_becomes_a_path(tmp_path: Path, name: str):
    with pytest.raises(WireError, match="bad_digest"):
        BlobStore(tmp_path / "blobs").get(name)


# The spool


def test_bytes_are_kept_where_they_belong(tmp_path: Path):
    spool = Spool(tmp_path / "spool")
    assert spool.size("a") == 0
    assert spool.write("a", 0, b"hello") == 5
    assert spool.write("a", 2, b"LLO, world") == 12
    assert spool.size("a") == 12
    assert spool.seal("a") == spool.read("a") == b"heLLO, world"
    assert spool.held() == ["a"]
    spool.drop("a")
    spool.drop("a")
    assert spool.held() == []


def test_a_gap_is_refused_with_the_offset_that_is_wanted(tmp_path: Path):
    spool = Spool(tmp_path / "spool")
    spool.write("a", 0, b"hello")
    with pytest.raises(Conflict) as refused:
        spool.write("a", 6, b"!")
    assert refused.value.headers == {"Upload-Offset": "5"}
    assert spool.read("a") == b"hello"


# Credentials


@pytest.mark.parametrize("guess", ["", "x", "é", "\udcff", "a" * 10_000])
def test_a_guess_is_no_match_whatever_it_holds(guess: str):
    assert not credentials.matches(guess, credentials.hashed("secret"))
    assert credentials.matches("secret", credentials.hashed("secret"))


def test_ids_and_secrets_never_meet():
    assert len({credentials.new_id("device") for _ in range(1000)}) == 1000
    assert credentials.split("device-1.abc.def") == ("device-1", "abc.def")
    assert credentials.split("device-1") == ("", "")
