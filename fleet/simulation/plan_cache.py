"""Plans compiled once for an experiment: a folder each, by the digest of what they come from."""

import hashlib
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from coordinator.compiler.errors import CompileError
from coordinator.compiler.folder import read_plan_dir, write_plan_dir
from coordinator.taskfile import StatisticsFile, TaskFile


def compiled(task: TaskFile | StatisticsFile, base: Path, cache: Path) -> Path:
    """The folder in `cache` with the plan of a task, whose files are in `base`.

    A change of the task, be it in its file or by the command line's `--rounds`, of its model and
    weights, or of our version makes it anew.
    Raises `CompileError`, `OSError`.
    """
    folder = cache / _digest(task, base)
    try:
        read_plan_dir(folder)
        return folder
    except CompileError:
        pass  # it is not there, or damaged
    from coordinator.compiler.compile import compile_beside  # slow to import

    plan = compile_beside(task, base)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".new-") as scratch:
        made = Path(scratch) / "plan"
        write_plan_dir(plan, made)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    return folder


def _digest(task: TaskFile | StatisticsFile, base: Path) -> str:
    # A task is plain values, so what it looks like is all there is to it.
    found = hashlib.sha256(f"{_version()}\0{task!r}\0".encode())
    for path in _beside(task, base):
        found.update(str(path).encode() + b"\0")
        try:
            with path.open("rb") as opened:
                found.update(hashlib.file_digest(opened, "sha256").digest())
        except OSError:
            continue  # whoever needs it says what is wrong
    return found.hexdigest()[:16]


def _beside(task: TaskFile | StatisticsFile, folder: Path) -> list[Path]:
    """The files that a task names: its model, and what holds the model's weights, or its first
    centres."""
    if isinstance(task, StatisticsFile):
        centres = getattr(task.statistics, "centres", None)
        return [folder / centres] if centres else []
    import onnx  # slow to import
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    model = folder / task.model.file
    try:
        graph = onnx.load(model, load_external_data=False).graph
    except (OSError, DecodeError):  # what is wrong with it, the compiler says
        return [model]
    places = {
        model.parent / entry.value
        for tensor in graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [model, *sorted(places)]


def _version() -> str:
    try:
        return version("lamplighter")
    except PackageNotFoundError:
        return "?"
