"""What a local program sees of a task's model."""

import asyncio
import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_agent.models import NoModel, default_folder, open_model, read_info
from edge_agent.onnx_file import note
from edge_agent.shelf import Shelf
from tests.edge_agent.local_models import NOW, adopt, info, parts


@pytest.fixture
def shelf(tmp_path) -> Shelf:
    return Shelf(tmp_path / "models" / "line")


def answer(session, x=(1.0, 0.0)) -> float:
    """The model of version v answers (x1 + x2 + 1) v."""
    return float(session.run(None, {"x": np.float32([x])})[0][0, 0])


def test_a_program_runs_the_model_and_sees_it_change(shelf):
    model = open_model("line", shelf.folder.parent)
    assert not model.changed()
    with pytest.raises(NoModel, match="No such file"):
        model.session()
    adopt(shelf, 3)
    assert model.changed()
    session = model.session()
    assert answer(session) == 6
    assert model.info == info(3)
    assert not model.changed()
    adopt(shelf, 4)
    assert model.changed()
    assert answer(session) == 6  # what was loaded stays
    assert answer(model.session()) == 8
    assert model.info == info(4)
    assert not model.changed()
    shelf.rollback(NOW)
    assert model.changed()
    assert answer(model.session()) == 6
    assert model.info == info(3)


def test_a_model_that_goes_is_no_new_one(shelf):
    adopt(shelf, 3)
    model = open_model("line", shelf.folder.parent)
    model.session()
    shelf.path.unlink()
    assert not model.changed()


async def test_a_program_waits_for_each_model(shelf):
    model = open_model("line", str(shelf.folder.parent))
    versions = []
    async with asyncio.timeout(20):
        writing = asyncio.create_task(asyncio.to_thread(adopt, shelf, 1))
        async for found in model.changes(every=0.01):
            versions.append(found.version)
            if found.version == 3:
                break
            await asyncio.to_thread(adopt, shelf, found.version + 1)
        await writing
    assert versions == [1, 2, 3]


async def test_a_strange_file_is_passed_over(shelf):
    await asyncio.to_thread(adopt, shelf, 1)
    await asyncio.to_thread(shelf.path.write_bytes, b"hello")
    changes = open_model("line", shelf.folder.parent).changes(every=0.01)
    waiting = asyncio.create_task(anext(changes))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await asyncio.to_thread(adopt, shelf, 2)
    async with asyncio.timeout(20):
        assert (await waiting).version == 2
    await changes.aclose()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"".join(parts(1)),
        b"".join(parts(1)) + note("lamplighter", "{"),
        b"".join(parts(1)) + note("lamplighter", '{"task": 3}'),
    ],
    ids=["empty", "strange", "without", "damaged", "other"],
)
def test_a_file_that_this_agent_did_not_write_is_one_clear_error(tmp_path, data):
    path = tmp_path / "line" / "current.onnx"
    path.parent.mkdir()
    path.write_bytes(data)
    with pytest.raises(NoModel, match=str(path)):
        read_info(path)
    with pytest.raises(NoModel, match=str(path)):
        open_model("line", tmp_path).session()


def test_the_metadata_are_beside_the_model_too(shelf):
    adopt(shelf, 3)
    said = json.loads((shelf.folder / "current.json").read_bytes())
    assert (said["task"], said["version"], said["metric"]) == ("line", 3, "loss")


def test_the_metadata_of_a_newer_agent_are_read(shelf, tmp_path):
    adopt(shelf, 3)
    said = json.loads((shelf.folder / "current.json").read_bytes()) | {"colour": "red"}
    path = tmp_path / "newer.onnx"
    path.write_bytes(b"".join(parts(3)) + note("lamplighter", json.dumps(said)))
    assert read_info(path) == info(3)


def test_where_the_models_are_looked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("LAMPLIGHTER_MODELS", raising=False)
    if not Path("/var/lib/lamplighter/models").is_dir():  # a machine with the service
        assert default_folder() == tmp_path / "lamplighter" / "agent" / "models"
    monkeypatch.setenv("LAMPLIGHTER_MODELS", "/srv/models")
    assert str(open_model("digits").path) == "/srv/models/digits/current.onnx"


def test_looking_at_a_model_loads_nothing_heavy(shelf):
    adopt(shelf, 3)
    program = (
        "import json, sys; from edge_agent.models import *\n"
        "model = open_model('line', sys.argv[1])\n"
        "print(json.dumps([model.changed(), read_info(model.path).version, *sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(shelf.folder.parent)],
        capture_output=True,
        check=True,
        timeout=60,
    )
    changed, version, *loaded = json.loads(done.stdout)
    assert (changed, version) == (True, 3)
    assert not {"numpy", "onnxruntime", "aiohttp", "psutil"} & set(loaded)


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_a_program_in_any_language_may_watch_the_folder(shelf):
    adopt(shelf, 1)
    libc = ctypes.CDLL(None)
    watch = libc.inotify_init1(os.O_NONBLOCK)
    moved_to = 0x80
    try:
        assert libc.inotify_add_watch(watch, os.fsencode(shelf.folder), moved_to) >= 0
        adopt(shelf, 2)
        told = os.read(watch, 4096)
    finally:
        os.close(watch)
    assert told.count(b"current.onnx\0") == 1
    assert told.index(b"current.onnx\0") < told.index(b"current.json\0")
