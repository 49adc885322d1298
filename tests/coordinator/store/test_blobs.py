"""Blobs: what a crash or a bad disk may leave. The rest is in `tests/coordinator/test_store.py`."""

import stat

from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.store.blobs import BlobStore
from wire import compression
from wire.digest import digest_of


def test_any_bytes_come_back_as_they_are_and_as_a_zstd_frame(tmp_path):
    blobs = BlobStore(tmp_path / "blobs")

    @settings(max_examples=20)
    @given(st.binary(max_size=2000))
    def check(data):
        digest = blobs.put(data)
        assert blobs.get(digest) == data
        packed = blobs.path(digest, compressed=True).read_bytes()
        assert compression.decompress(packed, max(1, len(data))) == data

    check()


def test_a_store_over_a_folder_that_is_there_finds_its_blobs(tmp_path):
    digest = BlobStore(tmp_path / "deep" / "blobs").put(b"weights")
    assert BlobStore(tmp_path / "deep" / "blobs").get(digest) == b"weights"


def test_the_plain_file_comes_last_so_that_a_crash_between_the_two_is_made_good(tmp_path):
    blobs = BlobStore(tmp_path / "blobs")
    digest = blobs.put(b"weights")
    blobs.path(digest).unlink()
    blobs.path(digest, compressed=True).write_bytes(b"half")
    blobs.put(b"weights")
    assert blobs.get(digest) == b"weights"
    packed = blobs.path(digest, compressed=True).read_bytes()
    assert compression.decompress(packed, 7) == b"weights"


def test_storing_again_writes_nothing(tmp_path):
    blobs = BlobStore(tmp_path / "blobs")
    path = blobs.path(blobs.put(b"weights"))
    inode = path.stat().st_ino
    blobs.put(b"weights")
    assert path.stat().st_ino == inode


def test_blobs_are_their_owners_alone(tmp_path):
    blobs = BlobStore(tmp_path / "blobs")
    path = blobs.path(blobs.put(b"weights"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_blob_lies_in_the_folder_under_its_digest(tmp_path):
    path = BlobStore(tmp_path / "blobs").path(digest_of(b"weights"))
    assert path.parent == tmp_path / "blobs"
    assert "sha256:" + path.name == digest_of(b"weights")
