"""Blobs in the database, and the local folder in front of them."""

import asyncio
import os
import random
import shutil
from pathlib import Path

import asyncpg
import pytest

from coordinator.errors import NotFound
from coordinator.store.postgres import PostgresBlobs, PostgresStore, open_postgres
from coordinator.store.postgres import blobs as module
from schedules.clock import SystemClock
from wire import compression
from wire.digest import digest_of
from wire.errors import WireError

DATA = random.Random(1).randbytes(50_000)


@pytest.fixture
def blobs(store: PostgresStore, tmp_path: Path) -> PostgresBlobs:
    return PostgresBlobs(store, tmp_path / "one")


@pytest.fixture
def others(store: PostgresStore, tmp_path: Path) -> PostgresBlobs:
    """Another host's."""
    return PostgresBlobs(store, tmp_path / "deep" / "two")


async def read(path: Path | bytes) -> bytes:
    assert isinstance(path, Path)
    return await asyncio.to_thread(path.read_bytes)


@pytest.mark.parametrize("data", [b"", b"weights", DATA])
async def test_what_one_host_has_put_another_serves(
    blobs: PostgresBlobs, others: PostgresBlobs, data: bytes
):
    digest = await blobs.put(data)
    assert digest == digest_of(data)
    for each in (blobs, others):
        assert await each.has(digest)
        assert await each.get(digest) == data
        assert await read(await each.source(digest)) == data
        packed = await read(await each.source(digest, compressed=True))
        assert compression.decompress(packed, max(1, len(data))) == data


async def test_putting_twice_is_putting_once(blobs: PostgresBlobs, others: PostgresBlobs):
    digests = await asyncio.gather(*(each.put(DATA) for each in (blobs, others) * 5))
    assert set(digests) == {digest_of(DATA)}
    assert await others.get(digests[0]) == DATA


async def test_what_nobody_has_put(blobs: PostgresBlobs):
    digest = digest_of(b"nothing")
    assert not await blobs.has(digest)
    for call in (blobs.get, blobs.source):
        with pytest.raises(NotFound):
            await call(digest)


async def test_a_name_that_is_no_digest_reaches_no_file(blobs: PostgresBlobs):
    for call in (blobs.get, blobs.source, blobs.has):
        with pytest.raises(WireError):
            await call("sha256:../../etc/passwd")


async def test_a_large_one_goes_in_parts(
    blobs: PostgresBlobs, others: PostgresBlobs, url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_PART_BYTES", 1000)
    for length in (999, 1000, 1001, 25_000):
        digest = await blobs.put(DATA[:length])
        assert await others.get(digest) == DATA[:length]
    connection = await asyncpg.connect(url)
    parts = "SELECT count(*) FROM blobs WHERE digest = $1"
    assert await connection.fetchval(parts, digest_of(DATA[:25_000])) == 25
    await connection.close()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("damage", [b"", b"other bytes"])
async def test_a_damaged_file_is_fetched_again(
    store: PostgresStore, tmp_path: Path, compressed: bool, damage: bytes
):
    folder = tmp_path / "one"
    digest = await PostgresBlobs(store, folder).put(DATA)
    first = await PostgresBlobs(store, folder).source(digest, compressed)
    good = await read(first)
    await asyncio.to_thread(first.write_bytes, damage)
    started_again = PostgresBlobs(store, folder)
    assert await read(await started_again.source(digest, compressed)) == good
    assert await started_again.get(digest) == DATA


async def test_a_file_that_is_damaged_later_is_not_what_get_returns(blobs: PostgresBlobs):
    digest = await blobs.put(DATA)
    path = await blobs.source(digest)
    await asyncio.to_thread(path.write_bytes, b"other bytes")
    assert await blobs.get(digest) == DATA
    assert await read(path) == DATA


async def test_the_folder_may_be_deleted_at_any_time(blobs: PostgresBlobs, tmp_path: Path):
    digest = await blobs.put(DATA)
    for _ in range(2):
        assert await read(await blobs.source(digest)) == DATA
        await asyncio.to_thread(shutil.rmtree, tmp_path / "one")
    assert await blobs.get(digest) == DATA


async def test_a_blob_that_is_damaged_in_the_database_is_never_served(
    blobs: PostgresBlobs, url: str
):
    digest = await blobs.put(DATA)
    connection = await asyncpg.connect(url)
    await connection.execute("UPDATE blobs SET data = 'other'")
    await connection.close()
    for call in (blobs.get, blobs.source):
        with pytest.raises(WireError):
            await call(digest)
    await blobs.put(DATA)
    assert await blobs.get(digest) == DATA


async def test_many_that_ask_at_once_have_it_fetched_once(
    blobs: PostgresBlobs, others: PostgresBlobs, monkeypatch: pytest.MonkeyPatch
):
    digest = await blobs.put(DATA)
    fetched = 0
    steps = module._get

    def counting(digest: str):
        nonlocal fetched
        fetched += 1
        return steps(digest)

    monkeypatch.setattr(module, "_get", counting)
    paths = await asyncio.gather(*(others.source(digest, n % 2 == 0) for n in range(50)))
    assert len(set(paths)) == 2
    assert fetched == 1


async def test_what_is_in_the_folder_is_served_without_the_database(
    url: str, blobs: PostgresBlobs, tmp_path: Path
):
    digest = await blobs.put(DATA)
    await blobs.source(digest)
    async with open_postgres(url, "two", SystemClock()) as store:
        await store.close()
        cached = PostgresBlobs(store, tmp_path / "one")
        assert await read(await cached.source(digest)) == DATA
        assert await cached.get(digest) == DATA


async def test_what_the_folder_does_not_take_is_served_from_memory(
    blobs: PostgresBlobs, others: PostgresBlobs, monkeypatch: pytest.MonkeyPatch
):
    digest = await blobs.put(DATA)
    small = [await blobs.put(bytes([number])) for number in range(2 * module._HELD)]

    fetched: list[str] = []
    steps = module._get

    def counting(digest: str):
        fetched.append(digest)
        return steps(digest)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_durably", _full)
        patch.setattr(module, "_get", counting)
        for _ in range(3):
            assert await others.get(digest) == DATA
            assert await others.source(digest) == DATA
            frame = await others.source(digest, compressed=True)
            assert isinstance(frame, bytes)
            assert compression.decompress(frame, len(DATA)) == DATA
        assert fetched == [digest]
        for number, each in enumerate(small):
            assert await others.get(each) == bytes([number])
        assert len(others._held) == module._HELD


async def test_one_that_is_held_is_written_once_there_is_room(
    blobs: PostgresBlobs, others: PostgresBlobs, monkeypatch: pytest.MonkeyPatch
):
    digest = await blobs.put(DATA)
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_durably", _full)
        assert await others.source(digest) == DATA
    assert await read(await others.source(digest)) == DATA
    assert not others._held


def _full(path: Path, data: bytes) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("looked_up", [1, 500])
async def test_what_one_host_has_removed_goes_from_the_folders_of_the_others(
    blobs: PostgresBlobs,
    others: PostgresBlobs,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    looked_up: int,
):
    monkeypatch.setattr(module, "_LOOKED_UP", looked_up)
    await others.tidy()  # there is no folder yet
    digest, other = await blobs.put(DATA), await blobs.put(b"other")
    for each in (blobs, others):
        for name in (digest, other):
            await each.source(name)
    await blobs.remove(digest)
    await others.tidy()
    for each, folder in ((blobs, tmp_path / "one"), (others, tmp_path / "deep" / "two")):
        assert len(await asyncio.to_thread(os.listdir, folder)) == 2
        assert not await each.has(digest)
        for call in (each.get, each.source):
            with pytest.raises(NotFound):
                await call(digest)
        assert await each.get(other) == b"other"
    assert await others.put(DATA) == digest
    assert await blobs.get(digest) == DATA


async def test_what_is_held_in_memory_is_tidied_too(
    blobs: PostgresBlobs, others: PostgresBlobs, monkeypatch: pytest.MonkeyPatch
):
    digest = await blobs.put(DATA)
    monkeypatch.setattr(module, "write_durably", _full)
    assert await others.source(digest) == DATA
    await blobs.remove(digest)
    await others.tidy()
    assert not others._held
