"""Parts: uploads on their way in, whatever the order of pieces and whichever process takes them."""

import os
import shutil
import stat
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.errors import Conflict, NotFound, TooLarge
from coordinator.store.parts import Parts
from tests.coordinator.store.contract import names
from wire.digest import digest_of
from wire.errors import WireError

DATA = bytes(range(256)) * 4
DIGEST = digest_of(DATA)
OTHER = digest_of(b"other")


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return Parts(tmp_path / "parts")


def test_an_upload_in_pieces(parts):
    assert parts.announced("a") is None
    assert parts.announce("a", len(DATA), DIGEST) == 0
    assert parts.announced("a") == (len(DATA), DIGEST)
    assert parts.write("a", DIGEST, 0, DATA[:300]) == 300
    assert parts.size("a") == 300
    assert parts.announce("a", len(DATA), DIGEST) == 300  # it goes on
    assert parts.write("a", DIGEST, 300, DATA[300:]) == len(DATA)
    assert parts.read("a", DIGEST) == DATA
    parts.drop("a")
    parts.drop("a")
    assert (parts.announced("a"), parts.size("a"), parts.held()) == (None, 0, [])


def test_pieces_that_overlap_or_come_twice_make_the_same_bytes(parts):
    piece = st.tuples(st.integers(0, len(DATA)), st.integers(0, 400))

    @settings(max_examples=30)
    @given(st.lists(piece, max_size=20))
    def check(pieces):
        parts.drop("a")
        parts.announce("a", len(DATA), DIGEST)
        held = 0
        for offset, length in pieces:
            data = DATA[offset : offset + length]
            if offset > held:
                with pytest.raises(Conflict) as refused:
                    parts.write("a", DIGEST, offset, data)
                assert refused.value.code == "wrong_offset"
                assert refused.value.headers == {"Upload-Offset": str(held)}
            else:
                assert parts.write("a", DIGEST, offset, data) == offset + len(data)
                held = max(held, offset + len(data))
            assert parts.size("a") == held
        if held == len(DATA):
            assert parts.read("a", DIGEST) == DATA

    check()


@pytest.mark.parametrize(("length", "digest"), [(len(DATA), OTHER), (7, DIGEST)])
def test_another_announcement_drops_the_upload_before(parts, length, digest):
    parts.announce("a", len(DATA), DIGEST)
    parts.write("a", DIGEST, 0, DATA[:5])
    assert parts.announce("a", length, digest) == 0
    assert parts.announced("a") == (length, digest)
    assert parts.size("a") == 0
    assert parts.held() == ["a"]


def test_a_piece_of_an_upload_that_was_superseded_is_refused(parts):
    parts.announce("a", len(DATA), DIGEST)
    parts.announce("a", 5, OTHER)
    for attempt in (lambda: parts.write("a", DIGEST, 0, b"x"), lambda: parts.read("a", DIGEST)):
        with pytest.raises(Conflict) as refused:
            attempt()
        assert refused.value.code == "superseded"
    assert parts.size("a") == 0


def test_what_was_not_announced_is_refused(parts):
    for attempt in (lambda: parts.write("a", DIGEST, 0, b"x"), lambda: parts.read("a", DIGEST)):
        with pytest.raises(NotFound) as refused:
            attempt()
        assert refused.value.code == "not_announced"
    assert parts.held() == []


def test_nothing_is_written_beyond_what_was_announced(parts):
    parts.announce("a", 10, DIGEST)
    parts.write("a", DIGEST, 0, b"12345")
    with pytest.raises(TooLarge):
        parts.write("a", DIGEST, 5, b"123456")
    assert parts.size("a") == 5
    assert parts.write("a", DIGEST, 5, b"12345") == 10
    assert parts.write("a", DIGEST, 10, b"") == 10


@pytest.mark.parametrize("sent", [DATA[:-1], b"\0" * len(DATA), b""])
def test_bytes_that_are_not_what_was_announced_are_not_handed_out(parts, sent):
    parts.announce("a", len(DATA), DIGEST)
    parts.write("a", DIGEST, 0, sent)
    with pytest.raises(WireError) as refused:
        parts.read("a", DIGEST)
    assert refused.value.code == "bad_digest"


@pytest.mark.parametrize("name", ["../a", "a/b", "", ".", "a.b", "a\0", "x" * 99, "A"])
def test_no_name_from_outside_becomes_a_path(parts, tmp_path, name):
    for attempt in (
        lambda: parts.announce(name, 1, DIGEST),
        lambda: parts.write(name, DIGEST, 0, b""),
        lambda: parts.announced(name),
        lambda: parts.drop(name),
    ):
        with pytest.raises(NotFound):
            attempt()
    assert [p.name for p in tmp_path.rglob("*")] == ["parts"]


@pytest.mark.parametrize("left", [0, 1, 20, 47])
def test_a_file_that_a_power_cut_has_shortened_is_no_upload(parts, tmp_path, left):
    parts.announce("a", len(DATA), DIGEST)
    os.truncate(tmp_path / "parts" / "a.part", left)
    assert parts.announced("a") is None
    assert parts.announce("a", len(DATA), DIGEST) == 0
    assert parts.write("a", DIGEST, 0, DATA) == len(DATA)


def test_only_uploads_are_listed_and_they_do_not_meet(parts, tmp_path):
    (tmp_path / "parts" / "lost+found").mkdir()
    (tmp_path / "parts" / "notes.txt").touch()
    for name in ("a", "a-b"):
        parts.announce(name, 9, DIGEST)
        parts.write(name, DIGEST, 0, name.encode())
    assert sorted(parts.held()) == ["a", "a-b"]
    parts.drop("a")
    assert (parts.size("a-b"), parts.held()) == (3, ["a-b"])


def test_what_nobody_has_touched_for_long_is_swept(parts, tmp_path):
    folder = tmp_path / "parts"
    for name in ("old", "new"):
        parts.announce(name, 9, DIGEST)
    (folder / "old.0123.new").touch()  # a crash in mid-announcement
    for name in ("old.part", "old.0123.new"):
        os.utime(folder / name, (1e9, 1e9))
    parts.sweep(3600.0)
    assert names(folder) == ["new.part"]


def test_uploads_are_their_owners_alone(parts, tmp_path):
    parts.announce("a", 9, DIGEST)
    assert stat.S_IMODE((tmp_path / "parts" / "a.part").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "parts").stat().st_mode) == 0o700


def _announce_many(folder: Path, digest: str) -> None:
    parts = Parts(folder)
    for _ in range(300):
        parts.announce("a", 5, digest)
        with suppress(Conflict):  # superseded
            parts.write("a", digest, 0, b"12345")


def test_processes_that_announce_against_each_other_leave_one_whole_upload(tmp_path):
    digests = [digest_of(bytes([n])) for n in range(3)]
    processes = [
        get_context("spawn").Process(target=_announce_many, args=(tmp_path / "parts", digest))
        for digest in digests
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    parts = Parts(tmp_path / "parts")
    announced = parts.announced("a")
    assert announced is not None
    assert announced[1] in digests
    assert names(tmp_path / "parts") == ["a.part"]


def test_a_folder_that_was_deleted_is_made_again(parts, tmp_path):
    parts.announce("a", len(DATA), DIGEST)
    for _ in range(2):
        shutil.rmtree(tmp_path / "parts")
        assert parts.announced("a") is None
        with pytest.raises(NotFound):
            parts.write("a", DIGEST, 0, DATA)
        parts.drop("a")
        assert parts.announce("a", len(DATA), DIGEST) == 0
        assert parts.write("a", DIGEST, 0, DATA) == len(DATA)
        assert parts.read("a", DIGEST) == DATA
        assert stat.S_IMODE((tmp_path / "parts").stat().st_mode) == 0o700
    shutil.rmtree(tmp_path / "parts")
    assert parts.held() == []
    shutil.rmtree(tmp_path / "parts")
    parts.sweep(0.0)
