"""A compiled plan as a folder: `coordinator compile TASK.toml -o DIRECTORY`.

The folder holds the manifest, the plan's files and the first checkpoint, each under the name that
the others know it by, so `model.onnx` in it is already a complete model.
"""

from pathlib import Path

from coordinator.compiler.errors import CompileError
from coordinator.compiler.plan import CompiledPlan
from wire import checkpoint, digest
from wire.errors import WireError
from wire.plan import CHECKPOINT_NAME, FileName, parse_manifest

MANIFEST_NAME = "manifest.json"


def write_plan_dir(plan: CompiledPlan, directory: Path) -> None:
    """Write the plan; the folder is made if need be. The manifest comes last, when all is there,
    and that of a plan before it goes first. Raises `OSError` that names the folder."""
    try:
        _write(plan, directory)
    except OSError as error:
        raise OSError(
            f"{directory}: the plan cannot be written: {error.strerror or error}"
        ) from None


def _write(plan: CompiledPlan, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MANIFEST_NAME).unlink(missing_ok=True)
    for name, data in plan.files.items():
        (directory / name).write_bytes(data)
    (directory / CHECKPOINT_NAME).write_bytes(plan.initial)
    (directory / MANIFEST_NAME).write_bytes(plan.manifest.to_bytes())


def read_plan_dir(directory: Path) -> CompiledPlan:
    """Read a plan that was written so. Raises `CompileError` if it is not whole."""
    try:
        manifest = parse_manifest((directory / MANIFEST_NAME).read_bytes())
        files: dict[FileName, bytes] = {}
        for name, entry in manifest.files.items():
            files[name] = (directory / name).read_bytes()
            digest.verify(files[name], entry.digest)
        initial = (directory / CHECKPOINT_NAME).read_bytes()
        checkpoint.read(initial, manifest.checkpoint)
    except OSError as error:
        raise CompileError(f"{directory}: not a compiled plan: {error}") from None
    except WireError as error:
        raise CompileError(f"{directory}: not a whole plan: {error.detail}") from None
    return CompiledPlan(manifest, files, initial)
