"""Durable files: all of it or nothing, for its owner alone, synced in the right order."""

import os
import stat
from pathlib import Path

import pytest

from wire.files import sync_folder, write_durably


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 5000])
def test_what_is_written_is_read_back_and_nothing_lies_beside_it(tmp_path, data):
    write_durably(tmp_path / "kept", data)
    assert (tmp_path / "kept").read_bytes() == data
    assert names(tmp_path) == ["kept"]


def test_a_shorter_file_replaces_a_longer_one_whole(tmp_path):
    write_durably(tmp_path / "kept", b"long" * 1000)
    write_durably(tmp_path / "kept", b"short")
    assert (tmp_path / "kept").read_bytes() == b"short"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_the_owner_can_read_it_whatever_the_umask(tmp_path, umask):
    old = os.umask(umask)
    try:
        write_durably(tmp_path / "kept", b"secret")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o600


def test_a_reader_that_has_the_old_file_open_keeps_the_old_bytes(tmp_path):
    write_durably(tmp_path / "kept", b"old")
    with (tmp_path / "kept").open("rb") as reader:
        write_durably(tmp_path / "kept", b"new")
        assert reader.read() == b"old"


def test_what_a_crash_left_aside_does_not_get_into_the_next_file(tmp_path):
    (tmp_path / ".kept.new").write_bytes(b"half of something longer")
    write_durably(tmp_path / "kept", b"whole")
    assert (tmp_path / "kept").read_bytes() == b"whole"
    assert names(tmp_path) == ["kept"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    write_durably(tmp_path / "kept", b"old")
    (tmp_path / ".kept.new").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_durably(tmp_path / "kept", b"new")
    assert (tmp_path / "kept").read_bytes() == b"old"


def test_a_link_is_replaced_and_what_it_pointed_to_stays(tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"other")
    (tmp_path / "kept").symlink_to(tmp_path / "elsewhere")
    write_durably(tmp_path / "kept", b"new")
    assert (tmp_path / "elsewhere").read_bytes() == b"other"
    assert not (tmp_path / "kept").is_symlink()


def test_the_bytes_are_synced_before_the_name_and_the_folder_after_it(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync

    def noting(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        synced.append(("folder" if is_folder else "file", names(tmp_path)))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    write_durably(tmp_path / "kept", b"data")
    assert synced == [("file", [".kept.new"]), ("folder", ["kept"])]


def test_no_descriptor_stays_open(tmp_path):
    before = len(names(Path("/proc/self/fd")))
    for number in range(20):
        write_durably(tmp_path / "kept", bytes(number))
        sync_folder(tmp_path)
    assert len(names(Path("/proc/self/fd"))) == before


def test_a_folder_that_is_missing_or_no_folder_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError):
        write_durably(tmp_path / "nowhere" / "kept", b"data")
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError):
        sync_folder(tmp_path / "file")


def test_what_a_disk_refuses_names_the_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/kept'"):
        write_durably(tmp_path / "kept", b"data")
    assert names(tmp_path) == []
