"""Blobs: what a crash or a bad disk may leave."""

import asyncio
import os
import stat
from pathlib import Path

import pytest

from coordinator.errors import NotFound
from coordinator.store.blobs import BlobStore
from wire import compression
from wire.digest import digest_of
from wire.errors import WireError


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


async def read(path: Path) -> bytes:
    return await asyncio.to_thread(path.read_bytes)


@pytest.mark.parametrize("data", [b"", b"weights", bytes(range(256)) * 999])
async def test_bytes_come_back_as_they_are_and_as_a_zstd_frame(blobs, data):
    digest = await blobs.put(data)
    assert digest == digest_of(data)
    assert await blobs.has(digest)
    assert await blobs.get(digest) == data
    assert await read(await blobs.source(digest)) == data
    packed = await read(await blobs.source(digest, compressed=True))
    assert compression.decompress(packed, max(1, len(data))) == data


async def test_what_is_not_there_is_said_to_be(blobs):
    absent = digest_of(b"absent")
    assert not await blobs.has(absent)
    for attempt in (blobs.get(absent), blobs.source(absent), blobs.source(absent, compressed=True)):
        with pytest.raises(NotFound) as refused:
            await attempt
        assert refused.value.code == "unknown_blob"


@pytest.mark.parametrize("name", ["../../etc/passwd", "sha256:" + "0" * 63 + "/", ""])
async def test_what_is_no_digest_becomes_no_path(blobs, name):
    for attempt in (blobs.get, blobs.source, blobs.has):
        with pytest.raises(WireError):
            await attempt(name)


async def test_a_store_over_a_folder_that_is_there_finds_its_blobs(tmp_path):
    first = await asyncio.to_thread(BlobStore, tmp_path / "deep" / "blobs")
    digest = await first.put(b"weights")
    again = await asyncio.to_thread(BlobStore, tmp_path / "deep" / "blobs")
    assert await again.get(digest) == b"weights"


async def test_the_plain_file_comes_last_so_that_a_crash_between_the_two_is_made_good(blobs):
    digest = await blobs.put(b"weights")
    packed = await blobs.source(digest, compressed=True)
    await asyncio.to_thread((await blobs.source(digest)).unlink)
    await asyncio.to_thread(packed.write_bytes, b"half")
    assert not await blobs.has(digest)
    await blobs.put(b"weights")
    assert await blobs.get(digest) == b"weights"
    assert compression.decompress(await read(packed), 7) == b"weights"


@pytest.mark.parametrize("damaged", [b"", b"weight", b"weightz"])
async def test_a_damaged_blob_is_said_and_never_handed_out_and_can_be_put_again(
    blobs, caplog, damaged
):
    digest = await blobs.put(b"weights")
    path = await blobs.source(digest)
    await asyncio.to_thread(path.write_bytes, damaged)
    with pytest.raises(WireError) as refused:
        await blobs.get(digest)
    assert refused.value.code == "bad_digest"
    assert str(path) in caplog.text
    assert await blobs.put(b"weights") == digest
    assert await blobs.get(digest) == b"weights"


@pytest.mark.parametrize("damaged", [None, b"", b"half", compression.compress(b"weightz")])
async def test_a_damaged_frame_is_made_again_and_never_served(tmp_path, blobs, damaged):
    digest = await blobs.put(b"weights")
    packed = await blobs.source(digest, compressed=True)
    if damaged is None:
        await asyncio.to_thread(packed.unlink)
    else:
        await asyncio.to_thread(packed.write_bytes, damaged)
    again = await asyncio.to_thread(BlobStore, tmp_path / "blobs")
    assert compression.decompress(await read(await again.source(digest, compressed=True)), 7) == (
        b"weights"
    )


async def test_a_damaged_blob_is_not_served(tmp_path, blobs):
    digest = await blobs.put(b"weights")
    await asyncio.to_thread((await blobs.source(digest)).write_bytes, b"weightz")
    again = await asyncio.to_thread(BlobStore, tmp_path / "blobs")
    for compressed in (False, True):
        with pytest.raises(WireError) as refused:
            await again.source(digest, compressed)
        assert refused.value.code == "bad_digest"


async def test_storing_again_writes_nothing(blobs):
    path = await blobs.source(await blobs.put(b"weights"))
    before = await asyncio.to_thread(path.stat)
    await blobs.put(b"weights")
    assert (await asyncio.to_thread(path.stat)).st_ino == before.st_ino


async def test_blobs_are_their_owners_alone(blobs):
    path = await blobs.source(await blobs.put(b"weights"))
    found = [(await asyncio.to_thread(p.stat)).st_mode for p in (path, path.parent)]
    assert [stat.S_IMODE(mode) for mode in found] == [0o600, 0o700]


async def test_what_is_removed_is_gone_and_may_be_stored_again(tmp_path: Path):
    blobs = await asyncio.to_thread(BlobStore, tmp_path / "blobs")
    digest, other = await blobs.put(b"weights"), await blobs.put(b"more")
    for _ in range(2):
        await blobs.remove(digest)
        assert not await blobs.has(digest)
    await blobs.tidy()
    assert len(await asyncio.to_thread(os.listdir, tmp_path / "blobs")) == 2
    assert await blobs.get(other) == b"more"
    assert await blobs.put(b"weights") == digest
    assert await blobs.get(digest) == b"weights"
