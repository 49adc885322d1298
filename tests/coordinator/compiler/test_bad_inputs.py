"""Every bad input is one clear error: no traceback, exit status 2, nothing written."""

import random
import sys
import time
from pathlib import Path

import pytest

from coordinator.cli import main
from coordinator.compiler.compile import compile_task
from coordinator.compiler.errors import CompileError
from tests.coordinator.compiler.bad_inputs import ALL, Bad
from tests.coordinator.compiler.building import dense, model, node, weights
from tests.coordinator.compiler.building import task as parsed_task
from tests.coordinator.processes import one_line, run

_SECONDS = 20.0  # an entry takes under two, on a machine that has nothing else to do
_REAL = ("cut in half", "an unknown operator", "a learning rate that diverges", "not TOML")


def compile_here(
    path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *more: str
) -> tuple[int, str, str]:
    """`coordinator compile` in this process: its status, and what it wrote to both outputs."""
    folder = path.parent / "plan"
    monkeypatch.setattr(
        sys, "argv", ["coordinator", "compile", str(path), "-o", str(folder), *more]
    )
    with pytest.raises(SystemExit) as left:
        main()
    said = capfd.readouterr()
    assert isinstance(left.value.code, int)
    return left.value.code, said.out, said.err


def test_the_list_is_long_enough() -> None:
    assert len(ALL) >= 40


@pytest.mark.parametrize("bad", ALL.values(), ids=ALL)
def test_one_error(
    bad: Bad,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = bad.write(tmp_path)
    begun = time.monotonic()
    status, out, err = compile_here(path, capfd, monkeypatch)
    assert status == 2, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    for words in bad.words:
        assert words in err, err
    assert not (tmp_path / "plan").exists()
    assert time.monotonic() - begun < _SECONDS


@pytest.mark.parametrize("name", _REAL)
def test_the_real_command(name: str, tmp_path: Path) -> None:
    path = ALL[name].write(tmp_path)
    text = one_line(run("compile", path, "-o", tmp_path / "plan"), 2)
    for words in ALL[name].words:
        assert words in text
    assert not (tmp_path / "plan").exists()


def convolution() -> bytes:
    """A small image model's file."""
    nodes = [
        node("Conv", "x w b", "h", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        node("Relu", "h", "r"),
        node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", "p", "f"),
        node("Gemm", "f v c", "out", transB=1),
    ]
    values = weights(w=(2, 1, 3, 3), b=(2,), v=(3, 32), c=(3,))
    return model(nodes, values, ("N", 1, 8, 8)).SerializeToString()


def damaged(data: bytes, seed: int) -> bytes:
    """Cut somewhere, or with some bytes or a bit changed."""
    rng = random.Random(seed)
    if seed % 3 == 0:
        return data[: rng.randrange(len(data))]
    made = bytearray(data)
    if seed % 3 == 1:
        for _ in range(rng.randint(1, 3)):
            made[rng.randrange(len(made))] = rng.randrange(256)
    else:
        made[rng.randrange(len(made))] ^= 1 << rng.randrange(8)
    return bytes(made)


def test_a_damaged_file_is_read_or_refused(tmp_path: Path) -> None:
    """Nine thousand of these were tried once: the compiled code of onnx and ONNX Runtime did not
    crash, though it raised what nobody would expect."""
    path, spec = tmp_path / "model.onnx", parsed_task()
    files = (dense(hidden=3).SerializeToString(), convolution())
    refused = 0
    for seed in range(150):
        path.write_bytes(damaged(files[seed % 2], seed))
        try:
            compile_task(spec, path)
        except CompileError:
            refused += 1
    assert 50 < refused < 150


def test_an_output_that_is_a_file_is_said_before_anything_is_compiled(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Bad([]).write(tmp_path)
    (tmp_path / "plan").write_text("mine")
    status, _, err = compile_here(path, capfd, monkeypatch)
    assert status == 2
    assert "there is a file of that name" in err
    assert (tmp_path / "plan").read_text() == "mine"


def test_a_dry_run_can_be_left_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ALL["a learning rate that diverges"].write(tmp_path)
    status, out, err = compile_here(path, capfd, monkeypatch, "--no-dry-run")
    assert (status, err) == (0, "")
    assert "estimated" in out
