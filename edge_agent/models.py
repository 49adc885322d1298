"""For local programs: the newest model of a task that did well on this device.

    from edge_agent.models import open_model

    model = open_model("digits")
    session = model.session()              # an onnxruntime.InferenceSession
    while True:
        if model.changed():                # costs one stat
            session = model.session()      # model.info says which version it is, and its metric
        (logits,) = session.run(None, {"x": next_image()})

Programs in other languages open the file itself, `models/TASK/current.onnx` in the agent's state
folder: it holds all of its weights, and is replaced by a rename, so that a file once opened stays
whole. Watch the folder for it (inotify: IN_MOVED_TO), or look at its modification time. Its
metadata are inside, as JSON under the key `lamplighter` of the model's custom metadata, so they
always belong to the model; `current.json` beside it repeats them, written right after the model.

This module imports neither numpy nor onnxruntime before `session` is called.
"""

import asyncio
import mmap
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge_agent.onnx_file import BadModel, Buffer, noted

if TYPE_CHECKING:
    import onnxruntime as ort

CURRENT = "current.onnx"
NOTE = "lamplighter"
"""The key of the metadata in a model's custom metadata."""

_SERVICE = Path("/var/lib/lamplighter/models")
_Identity = tuple[int, int, int]


class NoModel(Exception):
    """There is no model of the task yet, or no such folder, or the file is not one of ours."""


class Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """An input or output: its type as numpy calls it; a size is a number, or a name if it may
    vary (`None` if it has no name)."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model.

    `model` is the digest of its published weights, `graph` that of its graph, `plan` that of the
    plan they were trained by. `value` is its `metric` over `held_out` examples of this device when
    it was adopted, `None` if there were none. `code` and `why` say why it was; `adopted` is ISO
    8601.

    `personal`: this device trained it on, on its own examples; `published` is then the metric of
    the published model over the same held-out examples.
    """

    task: str
    version: int
    model: str
    plan: str
    graph: str
    opset: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    metric: str
    value: float | None
    held_out: int
    code: str
    why: str
    adopted: str
    personal: bool = False
    published: float | None = None


class LocalModel:
    """A task's model on this device. `info` is of the one that `session` loaded last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.info: Info | None = None
        self._loaded: _Identity | None = None

    def session(self, threads: int = 1) -> "ort.InferenceSession":
        """The model there is now, on so many threads, which sleep when there is nothing to do.

        Reads the file once, so `info` is of the very model that is returned. Blocking. Raises
        `NoModel`.
        """
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime as ort

        try:
            with self.path.open("rb") as file:
                identity, data = _identity(os.fstat(file.fileno())), file.read()
        except OSError as error:
            raise NoModel(f"{self.path}: {error.strerror}") from None
        info = info_in(data, self.path)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self.info, self._loaded = info, identity
        return session

    def changed(self) -> bool:
        """Whether there is a model, and another one than `session` loaded last."""
        return self._now() not in (None, self._loaded)

    async def changes(self, every: float = 5.0) -> AsyncIterator[Info]:
        """What is known of the model there is, then of each that follows it; looks every so many
        seconds. A model that is replaced between two looks is passed over."""
        seen: _Identity | None = None
        while True:
            now = await asyncio.to_thread(self._now)
            if now not in (None, seen):
                try:
                    info = await asyncio.to_thread(read_info, self.path)
                except NoModel:
                    pass  # someone put another file there
                else:
                    yield info
                seen = now
            await asyncio.sleep(every)

    def _now(self) -> _Identity | None:
        try:
            return _identity(self.path.stat())
        except OSError:
            return None


def open_model(task: str, folder: Path | str | None = None) -> LocalModel:
    """A task's model in a folder of models, `default_folder()` by default. It need not be there
    yet."""
    return LocalModel(Path(folder or default_folder()) / task / CURRENT)


def default_folder() -> Path:
    """`$LAMPLIGHTER_MODELS`, else the service's models where there are any, else those of this
    user's own agent."""
    if named := os.environ.get("LAMPLIGHTER_MODELS"):
        return Path(named)
    if _SERVICE.is_dir():
        return _SERVICE
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "lamplighter" / "agent" / "models"


def read_info(path: Path) -> Info:
    """What is known of the model in a file; reads little of it. Raises `NoModel`."""
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise NoModel(f"{path}: {error}") from None
    return info_in(memoryview(data), path)


def info_in(data: Buffer, path: Path) -> Info:
    """What a model's own bytes say. Raises `NoModel`, which names `path`."""
    try:
        found = noted(data, NOTE)
        if found is None:
            raise NoModel(f"{path}: not a model that this agent wrote")
        return msgspec.json.decode(found, type=Info)
    except (BadModel, msgspec.DecodeError) as error:
        raise NoModel(f"{path}: {error}") from None


def _identity(found: os.stat_result) -> _Identity:
    """A file that is renamed to a place is another one than was there."""
    return found.st_ino, found.st_mtime_ns, found.st_size
