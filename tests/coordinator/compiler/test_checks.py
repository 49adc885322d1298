"""What is looked at before a plan is handed out."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from coordinator.compiler import checks
from coordinator.compiler.compile import compile_task
from coordinator.compiler.errors import CompileError
from coordinator.compiler.options import numbers
from coordinator.taskfile import parse
from tests.coordinator.compiler.bad_inputs import task as task_text
from tests.coordinator.compiler.building import (
    compiled,
    dense,
    model,
    node,
    task,
    weights,
)
from wire.plan import Input


def quantised() -> onnx.ModelProto:
    """A model whose activations go through eight bits."""
    nodes = [
        node("Gemm", "x w b", "h"),
        node("QuantizeLinear", "h scale zero", "q", "odd"),
        node("DequantizeLinear", "q scale zero", "r"),
        node("Gemm", "r v", "out"),
    ]
    values = {"scale": np.array(0.1, np.float32), "zero": np.array(0, np.int8)}
    return model(nodes, weights(w=(4, 3), b=(3,), v=(3, 3)) | values)


def test_a_sound_model_has_no_warnings(tmp_path: Path) -> None:
    assert compiled(dense(), tmp_path).warnings == ()


def test_weights_that_no_output_depends_on_are_named(tmp_path: Path) -> None:
    nodes = [node("Gemm", "x w b", "out"), node("Gemm", "x lost forgotten", "nowhere")]
    made = model(nodes, weights(w=(4, 3), b=(3,), lost=(4, 3), forgotten=(3,)))
    (warning,) = compiled(made, tmp_path).warnings
    assert warning == "no output of the model depends on 'lost', 'forgotten'"


def test_weights_of_other_outputs_are_named(tmp_path: Path) -> None:
    nodes = [node("Gemm", "x w b", "out"), node("Gemm", "x other", "second")]
    made = model(nodes, weights(w=(4, 3), b=(3,), other=(4, 3)), outputs=("out", "second"))
    (warning,) = compiled(made, tmp_path, task(more='output = "out"')).warnings
    assert "the loss does not depend on 'other'" in warning
    assert "not trained" in warning


def test_weights_behind_whole_numbers_are_named(tmp_path: Path) -> None:
    (warning,) = compiled(quantised(), tmp_path).warnings
    assert "'w', 'b' will not be trained" in warning
    assert compiled(quantised(), tmp_path, task(frozen=["w", "b"])).warnings == ()


@pytest.mark.parametrize(
    ("dtype", "classes", "fits"),
    [("uint8", 256, True), ("uint8", 257, False), ("int32", 1 << 31, True)],
)
def test_labels_fit_their_type(dtype: str, classes: int, fits: bool) -> None:
    label = Input(name="label", dtype=dtype, shape=(), classes=classes)  # type: ignore[arg-type]
    if fits:
        checks.check_labels([label])
    else:
        with pytest.raises(CompileError, match="257 classes, and uint8 ends at 255"):
            checks.check_labels([label])


def test_classes_of_fractions_are_refused() -> None:
    with pytest.raises(CompileError, match="float32; classes are integers"):
        checks.check_labels([Input(name="label", dtype="float32", shape=(), classes=3)])


def test_every_weight_without_gradient_is_named() -> None:
    checks.check_gradients([])
    with pytest.raises(CompileError, match=r"weight 'a', weight 'b': name them in model\.frozen"):
        checks.check_gradients(["weight 'a'", "weight 'b'"])


def test_a_weight_with_an_axis_of_nothing_is_refused(tmp_path: Path) -> None:
    made = model(
        [node("MatMul", "x w", "h"), node("Concat", "h more", "out", axis=0)],
        {**weights(w=(4, 3)), "more": np.zeros((0, 3), np.float32)},
    )
    with pytest.raises(CompileError, match=r"weight 'more' has the shape \[0, 3\].*length 0"):
        compiled(made, tmp_path)


def test_a_board_that_is_too_small_is_named_with_a_batch_that_fits(tmp_path: Path) -> None:
    onnx.save(dense(hidden=1000, features=40), tmp_path / "model.onnx")
    spec = parse(task_text(training="batch = 8192"))
    plan = compile_task(spec, tmp_path / "model.onnx")
    (warning,) = plan.warnings
    assert "Raspberry Pi Zero 2 W" in warning
    assert "gives 200 MB" in warning
    assert "training.batch = 4096 fits" in warning


@pytest.mark.parametrize("value", [0.0, 1e-30, 0.1, 0.9999999, 1.0, 3e38])
def test_numbers_that_float32_has(value: float) -> None:
    assert numbers.problem(value) is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1e-39, "float32"),
        (4e38, "float32"),
        (float("nan"), "finite"),
        (1 - 1e-9, "is 1 in float32"),
    ],
)
def test_numbers_that_it_has_not(value: float, said: str) -> None:
    assert said in (numbers.problem(value) or "")


def test_a_reshape_that_the_batch_alone_decides_is_not_judged(tmp_path: Path) -> None:
    """[batch, 4] into [2, -1, 2, ...] would mix examples: that is said elsewhere, not here."""
    nodes = [node("Gemm", "x w", "h"), node("Reshape", "h to", "r"), node("Gemm", "r v", "out")]
    made = model(nodes, weights(w=(4, 6), v=(6, 3)) | {"to": np.array([-1, 6])})
    assert compiled(made, tmp_path).manifest.weights == 24 + 18


def test_shapes_are_judged_where_they_begin(tmp_path: Path) -> None:
    pooled = [
        node("Conv", "x w", "c"),
        node("MaxPool", "c", "p", "too_large", kernel_shape=[9, 9]),
        node("Flatten", "p", "f"),
        node("Gemm", "f v", "out"),
    ]
    made = model(pooled, weights(w=(1, 1, 1, 1), v=(4, 3)), ("N", 1, 8, 8))
    with pytest.raises(CompileError, match=r"MaxPool \(node 'too_large'\): its window is larger"):
        compiled(made, tmp_path)


def test_what_cannot_be_foreseen_is_one_error(tmp_path: Path) -> None:
    """An operator whose name is no text: the ONNX package answers with an error of Python's own."""
    path = tmp_path / "model.onnx"
    path.write_bytes(dense().SerializeToString().replace(b"Relu", b"\xffelu"))
    with pytest.raises(CompileError, match=r"model\.onnx: .*UnicodeDecodeError") as caught:
        compile_task(task(), path)
    assert isinstance(caught.value.__cause__, UnicodeDecodeError)
