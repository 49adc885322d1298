"""What a device remembers: atomic, its owner's alone, and forgiving where it may be."""

import os
import stat

import pytest

from edge_agent.cache import Cache
from edge_agent.errors import StateError
from edge_agent.state import History, Identity, Served, StateFolder
from wire.messages import Evaluation

IDENTITY = Identity(url="https://fleet.example:8750", device="device-1", secret="s" * 24)


@pytest.fixture
def state(tmp_path):
    folder = StateFolder(tmp_path / "state")
    folder.create()
    return folder


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_folder_is_its_owner_s_alone(state):
    cache = state.folder / "cache"
    for folder in (state.folder, state.outbox, cache, state.cached_plans, state.cached_models):
        assert mode(folder) == 0o700


def test_the_group_may_read_the_models_and_nothing_else(state):
    assert mode(state.models) == 0o750


def test_what_an_earlier_agent_fetched_is_forgotten(state):
    """It kept it in `plans/` and `models/`; the latter is now that of local programs."""
    old = state.folder / "plans" / "ab"
    old.mkdir(parents=True)
    (old / "manifest.json").write_text("{}")
    state.models.chmod(0o700)
    (state.models / "ab.safetensors").write_bytes(b"weights")
    state.tidy()
    assert not old.parent.exists()
    assert list(state.models.iterdir()) == []
    assert mode(state.models) == 0o750


def test_what_is_written_is_its_owner_s_alone(state):
    before = os.umask(0)
    try:
        state.save_identity(IDENTITY)
        state.save_history(History())
        with state.lock():
            pass
    finally:
        os.umask(before)
    for name in ("identity.json", "history.json", "agent.lock"):
        assert mode(state.folder / name) == 0o600


def test_identity_and_history_are_read_as_they_were_written(state):
    state.save_identity(IDENTITY)
    assert state.identity() == IDENTITY
    history = History(bytes_up=3, evaluated={"digits": 2})
    history.add(Served(assignment="a-1", task="digits", loss=0.25))
    history.evaluations.append(
        Evaluation(task="digits", version=2, examples=9, metrics={"loss": 0.5})
    )
    state.save_history(history)
    assert state.history() == history


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_crash_in_mid_write_leaves_what_was_there(state, step, monkeypatch):
    state.save_history(History(bytes_up=1))

    def fail(*_: object, **__: object) -> None:
        raise OSError("the power is gone")

    with monkeypatch.context() as patched:
        patched.setattr(f"os.{step}" if step == "fsync" else f"pathlib.Path.{step}", fail)
        with pytest.raises(StateError, match=r"history\.json cannot be written"):
            state.save_history(History(bytes_up=2))
    assert state.history().bytes_up == 1
    state.save_history(History(bytes_up=3))
    assert state.history().bytes_up == 3


def test_a_device_that_has_not_joined_is_told_how(state):
    with pytest.raises(StateError, match="edge-agent enroll URL TOKEN"):
        state.identity()


@pytest.mark.parametrize(
    "damaged", [b"", b"{", b"[]", b"\xff\xfe", b'{"url": 3}', b'{"url":"u","device":"d"}']
)
def test_a_damaged_identity_is_one_clear_error(state, damaged):
    (state.folder / "identity.json").write_bytes(damaged)
    with pytest.raises(StateError, match=r"identity\.json is damaged .*enrol again"):
        state.identity()


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b"\xff\xfe", b'{"served": 3}'])
def test_a_damaged_history_is_begun_anew(state, damaged):
    (state.folder / "history.json").write_bytes(damaged)
    assert state.history() == History()


def test_a_history_of_an_older_agent_is_read(state):
    served = b'{"task":"digits","round":2,"outcome":"late","detail":"","examples":1,"loss":null,'
    served += b'"seconds":1.0,"bytes_up":9,"ended":"2026-01-01T00:00:00+00:00"}'
    (state.folder / "history.json").write_bytes(b'{"served":[' + served + b"]}")
    assert state.history().served[0].round == 2


def test_the_history_forgets_the_oldest():
    history = History()
    for number in range(30):
        history.add(Served(task="digits", round=number))
    assert [s.round for s in history.served] == list(range(10, 30))


def test_an_update_that_waited_is_settled_with_what_was_known_of_it():
    history = History()
    history.add(Served(assignment="a-1", task="digits", round=4, examples=80, loss=0.5))
    history.settle("a-1", "accepted", "", 900, "today")
    (served,) = history.served
    assert (served.task, served.round, served.outcome, served.examples, served.bytes_up) == (
        "digits",
        4,
        "accepted",
        80,
        900,
    )


def test_an_update_of_which_nothing_is_known_is_settled_too():
    history = History()
    history.settle("a-1", "late", "too late", 900, "today")
    assert history.served[0].assignment == "a-1"
    assert history.served[0].outcome == "late"


def test_only_one_agent_runs_over_a_folder(state):
    with state.lock():
        other = StateFolder(state.folder)
        with pytest.raises(StateError, match="another agent runs"), other.lock():
            pass
    with state.lock():
        pass


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot be made"):
        StateFolder(tmp_path / "file" / "state").create()


def test_a_folder_that_is_gone_is_one_clear_error(tmp_path):
    with pytest.raises(StateError, match="cannot be used"), StateFolder(tmp_path / "gone").lock():
        pass


def test_the_outbox_tells_what_waits_oldest_first(state):
    for age, name in ((10, "b"), (30, "a"), (20, "c")):
        state.update_path(name).write_bytes(b"")
        os.utime(state.update_path(name), (1e9 - age, 1e9 - age))
    (state.outbox / "note.txt").write_text("")
    assert state.waiting() == ["a", "c", "b"]


def test_a_half_written_update_is_not_sent_and_is_swept(state):
    unfinished = state.outbox / ".a-1.update.new"
    unfinished.write_bytes(b"half")
    assert state.waiting() == []
    with state.lock():
        assert not unfinished.exists()


def test_an_update_that_cannot_be_read_is_one_clear_error(state):
    with pytest.raises(StateError, match="cannot be read"):
        state.update("a-1")


def test_what_is_no_file_does_not_wait_in_the_outbox(state):
    (state.outbox / "folder.update").mkdir()
    (state.outbox / "nowhere.update").symlink_to(state.outbox / "gone")
    state.update_path("good").write_bytes(b"update")
    assert state.waiting() == ["good"]


def test_a_plan_folder_that_was_removed_is_made_anew(state):
    state.cached_plans.rmdir()
    Cache(state).keep_only(set(), set())
    assert state.cached_plans.is_dir()
