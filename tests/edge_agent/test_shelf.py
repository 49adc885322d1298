"""The folder of a task's models: whole at every moment, whoever is killed when."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from edge_agent.errors import StateError
from edge_agent.keeping import Why
from edge_agent.models import Info, NoModel, read_info
from edge_agent.shelf import Shelf, mend, tell
from tests.edge_agent.local_models import NOW, adopt, info, parts, version_in


@pytest.fixture
def shelf(tmp_path) -> Shelf:
    return Shelf(tmp_path / "models" / "line")


def versions(shelf: Shelf) -> tuple[int | None, int | None]:
    """Current and previous, each in agreement with itself."""
    files = (shelf.path, shelf.folder / "previous.onnx")
    current, previous = (version_in(f) if f.exists() else None for f in files)
    return current, previous


def described(shelf: Shelf) -> list[int]:
    """The versions that the JSON files name."""
    files = (shelf.folder / f"{name}.json" for name in ("current", "previous"))
    return [json.loads(f.read_bytes())["version"] for f in files if f.exists()]


def left_over(shelf: Shelf) -> set[str]:
    named = {f"{name}.{kind}" for name in ("current", "previous") for kind in ("onnx", "json")}
    return {f.name for f in shelf.folder.iterdir()} - named - {"refused.json"}


def test_each_model_takes_the_place_of_the_one_before(shelf):
    assert shelf.current() is None
    for version, before in ((1, None), (2, 1), (3, 2)):
        adopt(shelf, version)
        assert versions(shelf) == (version, before)
        assert described(shelf) == [v for v in (version, before) if v]
        assert left_over(shelf) == set()
    assert shelf.current() == info(3)
    assert shelf.previous() == info(2)


def test_an_open_file_stays_what_it_was(shelf):
    adopt(shelf, 1)
    whole = shelf.path.read_bytes()
    with shelf.path.open("rb") as file:
        adopt(shelf, 2)
        adopt(shelf, 3)
        assert file.read() == whole


def test_what_was_put_aside_and_dropped_changes_nothing(shelf):
    adopt(shelf, 1)
    shelf.write(parts(2))
    shelf.drop()
    assert versions(shelf) == (1, None)
    assert left_over(shelf) == set()


def test_the_group_may_read_and_nobody_else(shelf):
    before = os.umask(0o077)
    try:
        adopt(shelf, 1)
        adopt(shelf, 2)
        shelf.rollback(NOW)
    finally:
        os.umask(before)
    for folder in (shelf.folder.parent, shelf.folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    files = list(shelf.folder.iterdir())
    assert len(files) == 5
    assert {stat.S_IMODE(f.stat().st_mode) for f in files} == {0o640}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_writes_is_the_agent_s(shelf):
    adopt(shelf, 1)
    os.chown(shelf.folder, 12345, 12346)
    adopt(shelf, 2)
    adopt(shelf, 3)
    shelf.rollback(NOW)
    owners = {(f.stat().st_uid, f.stat().st_gid) for f in shelf.folder.iterdir()}
    assert owners == {(12345, 12346)}


# Going back


def test_the_owner_goes_back_and_forth(shelf):
    adopt(shelf, 1)
    adopt(shelf, 2)
    assert shelf.rollback(NOW) == (info(1), info(2))
    assert versions(shelf) == (1, 2)
    assert described(shelf) == [1, 2]
    assert [(r.version, r.why) for r in shelf.refused()] == [(2, Why.ROLLED_BACK)]
    assert shelf.rollback(NOW) == (info(2), info(1))
    assert versions(shelf) == (2, 1)
    assert [r.version for r in shelf.refused()] == [1]


def test_a_newer_model_is_adopted_after_going_back(shelf):
    adopt(shelf, 1)
    adopt(shelf, 2)
    shelf.rollback(NOW)
    adopt(shelf, 3)
    assert versions(shelf) == (3, 1)


def test_there_must_be_something_to_go_back_to(shelf):
    with pytest.raises(StateError, match="line: local programs have no model"):
        shelf.rollback(NOW)
    adopt(shelf, 1)
    with pytest.raises(StateError, match="line: there is no model to go back to"):
        shelf.rollback(NOW)
    assert versions(shelf) == (1, None)


def test_the_refused_are_few(shelf):
    for version in range(20):
        adopt(shelf, version)
        adopt(shelf, version + 100)
        shelf.rollback(NOW)
    assert [r.version for r in shelf.refused()] == list(range(112, 120))


@pytest.mark.parametrize("damaged", [b"", b"{", b'[{"version": "x"}]', b"\xff"])
def test_a_damaged_list_of_refused_is_begun_anew(shelf, damaged):
    adopt(shelf, 1)
    adopt(shelf, 2)
    (shelf.folder / "refused.json").write_bytes(damaged)
    assert shelf.refused() == ()
    shelf.rollback(NOW)
    assert len(shelf.refused()) == 1


def test_a_file_of_the_owner_s_own_is_no_model_of_ours(shelf):
    shelf.folder.mkdir(parents=True)
    shelf.path.write_bytes(b"hello")
    assert shelf.current() is None
    adopt(shelf, 1)
    assert shelf.current() == info(1)
    assert (shelf.folder / "previous.onnx").read_bytes() == b"hello"
    assert shelf.previous() is None


def test_a_full_disk_leaves_what_is_there(shelf):
    adopt(shelf, 1)

    def endless():
        yield from parts(2)
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        shelf.write(endless())
    assert versions(shelf) == (1, None)
    assert left_over(shelf) == set()


# Killed

PROGRAM = """
import os, signal, sys
from pathlib import Path
from edge_agent.shelf import Shelf
from tests.edge_agent.local_models import NOW, adopt, parts, info

folder, doing, last = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
left = last

def count(event, arguments):
    # Every change of the folder is one step: the process dies before the last one.
    global left
    if event in ("open", "os.rename", "os.link", "os.remove") and str(folder) in repr(arguments):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

shelf = Shelf(folder)
if doing == "loop":
    print("ready", flush=True)
    for version in range(3, 10_000):
        adopt(shelf, version)
else:
    sys.addaudithook(count)
    adopt(shelf, 3) if doing == "adopt" else shelf.rollback(NOW)
"""


def run(shelf: Shelf, doing: str, last: int = 0) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(shelf.folder), doing, str(last)],
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("doing", "before", "after"), [("adopt", (2, 1), (3, 2)), ("rollback", (2, 1), (1, 2))]
)
def test_a_process_killed_at_any_step_leaves_the_old_or_the_new(tmp_path, doing, before, after):
    seen = set()
    for first in range(1, 61, 6):
        killed = []
        for last in range(first, first + 6):  # a few at once: most of the time is Python's start
            shelf = Shelf(tmp_path / str(last) / "line")
            adopt(shelf, 1)
            adopt(shelf, 2)
            killed.append((shelf, run(shelf, doing, last)))
        codes = []
        for shelf, process in killed:
            process.communicate(timeout=60)
            codes.append(process.returncode)
            assert process.returncode in (0, -signal.SIGKILL)
            assert version_in(shelf.path) in (before[0], after[0])
            mend(shelf.folder.parent)
            assert versions(shelf) in (before, after)
            assert described(shelf) == list(versions(shelf))
            assert left_over(shelf) == set()
            seen.add(versions(shelf))
        if 0 in codes:
            break
    assert codes[-1] == 0, "it takes more steps than this test has"
    assert seen == {before, after}


def test_a_process_killed_at_any_moment_leaves_a_whole_model(shelf):
    adopt(shelf, 1)
    adopt(shelf, 2)
    for number in range(4):
        process = run(shelf, "loop")
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            end = time.monotonic() + 0.1 + 0.0137 * number
            while time.monotonic() < end:
                assert version_in(shelf.path) >= 2  # a reader beside it
        finally:
            process.kill()
            process.communicate(timeout=60)
        current = version_in(shelf.path)
        mend(shelf.folder.parent)
        assert versions(shelf)[0] == current
        assert described(shelf) == list(versions(shelf))
        assert current > 3


def test_two_processes_do_not_swap_at_once(shelf, monkeypatch):
    adopt(shelf, 1)
    adopt(shelf, 2)
    monkeypatch.setattr("edge_agent.shelf._LOCK_SECONDS", 0.1)
    with shelf._locked(), pytest.raises(StateError, match="in use by another process"):
        Shelf(shelf.folder).rollback(NOW)
    assert versions(shelf) == (2, 1)


# Telling


def test_the_models_are_told(shelf):
    models = shelf.folder.parent
    assert tell(models) == f"no models in {models}"
    adopt(shelf, 1, value=None, why="no examples are held out")
    adopt(shelf, 2)
    shelf.rollback(NOW)
    assert tell(models).splitlines() == [
        "line",
        f"  current  version 1, not measured, since {NOW} (no examples are held out)",
        f"  previous version 2, loss 0.5 over 20 examples, since {NOW} (loss 0.5, before 0.6)",
        "  refused  version 2: the owner went back to version 1",
    ]


def test_a_personal_model_is_told_with_both_figures(shelf):
    adopt(shelf, 3, personal=True, value=0.25, published=0.5, why="there was none before")
    assert tell(shelf.folder.parent).splitlines()[1] == (
        f"  current  version 3, personal, loss 0.25 over 20 examples (published: 0.5), since {NOW} "
        "(there was none before)"
    )


def test_a_model_of_an_older_agent_is_not_personal(shelf):
    adopt(shelf, 1)
    said = json.loads((shelf.folder / "current.json").read_bytes())
    del said["personal"], said["published"]
    assert msgspec.convert(said, Info) == info(1)


def test_a_model_that_is_not_there_is_said():
    with pytest.raises(NoModel, match="No such file"):
        read_info(Path("/nowhere/current.onnx"))
