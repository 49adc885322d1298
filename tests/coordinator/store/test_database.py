"""The journal against SIGKILL in mid-transaction, and its promises between transactions.

What each method stores is in `tests/coordinator/test_store.py`.
"""

import sqlite3
import subprocess
import sys

import msgspec
import pytest

from coordinator.errors import Denied
from coordinator.store.database import Database, StoreError
from coordinator.store.records import EvaluationRecord, Withdrawn
from tests.coordinator.test_store import DEVICE, TASK, assignment, ended

# The process dies when SQLite has begun the given number of statements that write: before any,
# between two, and with all written but not committed.
DYING = """
import os, signal, sys
from pathlib import Path
import msgspec
from coordinator.store.database import Database

database = Database(Path(sys.argv[1]))
(newest,) = database.rounds("digits", 1)
done = msgspec.structs.replace(
    newest, phase="closed", reason="goal", ended=7.0, updates=1, examples=10
)
left = int(sys.argv[2])
doing = sys.argv[3]

def watch(statement):
    global left
    if statement.startswith(("INSERT", "UPDATE", "DELETE", "COMMIT")):
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

database._sql.set_trace_callback(watch)
if doing == "end":
    database.end_round(done, "model-1", "running")
else:
    database.withdraw("device-1", {"a-3": "gone"})
os._exit(0)
"""
WRITES = 5  # of `end_round`: the round, its assignments, the model, the task, the next round
WITHDRAWING = 4  # of `withdraw`: what is lost, the assignments, the evaluations, the device


def prepared(path):
    """A journal with a task, a device, one accepted update and one device at work."""
    database = Database(path)
    database.create_task(TASK, "model-0")
    database.add_token("join-1", "hash", 1, 100.0)
    assert database.enroll(DEVICE, "join-1")
    database.assign(assignment())
    database.assign(assignment("a-2"))
    database.accept("a-1", 10, 0.5, 4.0)
    return database


def contents(database):
    return (
        database.tasks(),
        database.models("digits"),
        database.rounds("digits", 10),
        database.assignments("digits", 1),
        database.devices(),
    )


def die(path, doing, writes):
    command = [sys.executable, "-c", DYING, path, str(writes), doing]
    return subprocess.run(command, check=False)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "coordinator.sqlite"


@pytest.mark.parametrize("writes", range(WRITES + 1))
def test_a_kill_before_the_commit_undoes_all_of_it_and_nothing_else(path, writes):
    before = prepared(path)
    expected = contents(before)
    before.close()
    died = die(path, "end", writes)
    assert died.returncode == -9
    after = Database(path)
    assert contents(after) == expected
    after.end_round(ended(after), "model-1", "running")  # and it can be done again
    assert [m.digest for m in after.models("digits")] == ["model-0", "model-1"]
    after.close()


def test_a_kill_after_the_commit_undoes_nothing(path):
    prepared(path).close()
    done = die(path, "end", WRITES + 1)
    assert done.returncode == 0
    after = Database(path)
    assert [r.number for r in after.rounds("digits", 10)] == [1, 2]
    assert after.tasks() == [TASK]
    after.close()


def with_evaluation(path):
    database = prepared(path)
    evaluation = EvaluationRecord(
        task="digits", version=0, device="device-1", examples=9, metrics={"loss": 0.5}
    )
    database.add_evaluations([evaluation])
    return database


@pytest.mark.parametrize("writes", range(WITHDRAWING + 1))
def test_a_kill_in_mid_leaving_leaves_the_device_as_it_was(path, writes):
    before = with_evaluation(path)
    expected = (*contents(before), before.evaluations("digits"))
    before.close()
    assert die(path, "leave", writes).returncode == -9
    after = Database(path)
    assert (*contents(after), after.evaluations("digits")) == expected
    assert after.withdraw("device-1", {}) == Withdrawn({"digits": ["a-1", "a-2"]}, 1, 0)
    after.close()


def test_a_kill_after_the_leaving_brings_nothing_back(path):
    with_evaluation(path).close()
    assert die(path, "leave", WITHDRAWING + 1).returncode == 0
    after = Database(path)
    assert (after.devices(), after.evaluations("digits")) == ([], [])
    assert after.assignments("digits", 1) == []
    assert after.tasks() == [TASK]
    after.close()


def test_what_is_known_of_a_device_that_left_is_in_no_file(path):
    database = with_evaluation(path)
    held = b"".join(p.read_bytes() for p in path.parent.iterdir())
    assert all(word in held for word in (b"device-1", b"north"))
    database.withdraw("device-1", {})
    left = b"".join(p.read_bytes() for p in path.parent.iterdir())
    assert not [word for word in (b"device-1", b"north", b"a-1", b"0.5") if word in left]
    database.close()


def test_who_left_has_no_place_any_more_and_no_word(path):
    database = with_evaluation(path)
    (evaluation,) = database.evaluations("digits")
    database.withdraw("device-1", {})
    with pytest.raises(Denied, match="unknown_device"):
        database.assign(assignment("a-3"))
    with pytest.raises(Denied, match="unknown_device"):
        database.add_evaluations([evaluation])
    assert database.withdraw("device-1", {}) == Withdrawn({}, 0, 0)
    database.close()


def test_updates_of_a_device_that_left_are_told_apart_by_what_became_of_them(path):
    database = prepared(path)
    database.end_round(ended(database), "model-1", "running")
    for number, accepted in ((2, "b"), (3, "c")):
        database.assign(assignment(accepted, round=number))
        database.accept(accepted, 10, 0.5, 4.0)
        if number == 2:
            abandoned = msgspec.structs.replace(
                ended(database), phase="abandoned", reason="too_few"
            )
            database.end_round(abandoned, None, "running")
    withdrawn = database.withdraw("device-1", {})
    assert (withdrawn.dropped, withdrawn.published) == (1, 1)
    assert [r.updates for r in database.rounds("digits", 10)] == [1, 1, 0]
    database.close()


def test_everything_is_there_after_a_close_and_an_opening(path):
    before = prepared(path)
    expected = contents(before)
    before.close()
    after = Database(path)
    assert contents(after) == expected
    after.close()


def test_a_coordinator_may_start_once_the_other_has_stopped(path):
    first = Database(path)
    with pytest.raises(StoreError, match="in use by another coordinator"):
        Database(path)
    first.ping()
    first.close()
    Database(path).close()


def test_a_refused_opening_leaves_the_file_free(path):
    Database(path).close()
    data = path.read_bytes()
    path.write_bytes(b"no database at all" * 1000)
    with pytest.raises(StoreError) as refused:
        Database(path)
    assert "restore it from a backup, or move it away" in str(refused.value)
    path.write_bytes(data)
    Database(path).close()


def test_a_method_that_fails_leaves_the_next_one_free_to_work(path):
    database = prepared(path)
    with pytest.raises(sqlite3.IntegrityError):
        database.assign(assignment())  # the id is taken
    with pytest.raises(Denied, match="unknown_device"):
        database.assign(assignment("a-3", device="device-9"))  # nobody's
    with pytest.raises(sqlite3.IntegrityError):
        database.assign(assignment("a-3", round=9))  # of no round
    database.assign(assignment("a-3"))
    assert [row.id for row in database.assignments("digits", 1)] == ["a-1", "a-2", "a-3"]
    database.close()


def test_an_enrolment_that_fails_does_not_use_up_the_token(path):
    database = prepared(path)
    database.add_token("join-2", "hash", 1, 100.0)
    with pytest.raises(sqlite3.IntegrityError):
        database.enroll(DEVICE, "join-2")  # its id is taken
    assert database.token_secret("join-2", 1.0) == "hash"
    assert database.enroll(msgspec.structs.replace(DEVICE, id="device-2"), "join-2")
    database.close()


def test_the_rounds_asked_for_are_the_newest_with_the_oldest_first(path):
    database = prepared(path)
    for number in (1, 2, 3):
        (newest,) = database.rounds("digits", 1)
        assert newest.number == number
        done = msgspec.structs.replace(newest, phase="abandoned", reason="too_few", ended=9.0)
        database.end_round(done, None, "running")
    assert [r.number for r in database.rounds("digits", 2)] == [3, 4]
    database.close()


def test_what_people_type_is_stored_as_it_is(path):
    database = prepared(path)
    odd = msgspec.structs.replace(DEVICE, id="device-2", name="'); DROP TABLE devices; --\u2603")
    database.add_token("join-2", "hash", 1, 100.0)
    assert database.enroll(odd, "join-2")
    assert database.devices() == [DEVICE, odd]
    database.close()
