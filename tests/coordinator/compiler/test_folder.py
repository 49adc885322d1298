"""A plan's folder: what is told of one that cannot be written, and what is left in it."""

from pathlib import Path

import pytest

from coordinator.compiler.errors import CompileError
from coordinator.compiler.folder import MANIFEST_NAME, read_plan_dir, write_plan_dir
from tests.coordinator.compiler.building import compiled, dense, task


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    plan = compiled(dense(), tmp_path)
    with pytest.raises(OSError, match=r"sub: the plan cannot be written: Not a directory") as found:
        write_plan_dir(plan, tmp_path / "model.onnx" / "sub")
    assert "Errno" not in str(found.value)


def test_a_plan_that_is_half_written_over_another_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "plan"
    compiled(dense(), tmp_path)
    other = compiled(dense(), tmp_path / "plan", task(optimizer='kind = "adamw"'))
    (folder / "checkpoint.safetensors").unlink()
    (folder / "checkpoint.safetensors").mkdir()  # the last that is written before the manifest
    with pytest.raises(OSError, match="cannot be written: Is a directory"):
        write_plan_dir(other, folder)
    assert not (folder / MANIFEST_NAME).exists()
    with pytest.raises(CompileError, match="not a compiled plan"):
        read_plan_dir(folder)
