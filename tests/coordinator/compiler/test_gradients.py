"""Lowered gradients equal those of the training build, and finite differences."""

from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.compiler.operators import OPERATORS
from tests.coordinator.compiler.building import dense, model, node, task, weights
from tests.coordinator.compiler.checking import Case, Gradients, above, check, close

CASES: dict[str, Case] = {
    "Relu": above(node("Relu", "h", "out")),
    "Sigmoid": above(node("Sigmoid", "h", "out")),
    "Tanh": above(node("Tanh", "h", "out")),
    "Softmax": above(node("Softmax", "h", "s"), node("Mul", "s s", "out")),
    "Softmax axis 1 of 3": above(node("Softmax", "h", "out", axis=1), x=("N", 3, 4)),
    "LogSoftmax": above(node("LogSoftmax", "h", "l"), node("Tanh", "l", "out")),
    "Identity": above(node("Identity", "h", "out")),
    "Gemm": above(node("Gemm", "h w b", "out"), w=(4, 3), b=(3,)),
    "Gemm transB": above(node("Gemm", "h w b", "out", transB=1), w=(3, 4), b=(3,)),
    "Gemm transA": above(
        node("Transpose", "h", "t", perm=[1, 0]),
        node("Gemm", "t w b", "out", transA=1),
        w=(4, 3),
        b=(1, 3),
    ),
    "Gemm alpha beta": above(
        node("Gemm", "h w b", "out", alpha=0.5, beta=2.0), w=(4, 3), b=(3,)
    ),
    "Gemm without bias": above(node("Gemm", "h w", "out"), w=(4, 3)),
    "MatMul": above(node("MatMul", "h w", "out"), w=(4, 3)),
    "MatMul of rank 3": above(node("MatMul", "h w", "out"), x=("N", 2, 4), w=(4, 3)),
    "MatMul, a matrix for each": above(
        node("MatMul", "h w", "out"), x=("N", 5, 2, 4), w=(5, 4, 3)
    ),
    "MatMul, weight on the left": above(node("MatMul", "w h", "out"), x=("N", 2, 4), w=(3, 2)),
    "MatMul, weight transposed": above(
        node("Transpose", "w", "wt", perm=[1, 0]), node("MatMul", "h wt", "out"), w=(3, 4)
    ),
    "Add": above(node("Add", "h b", "out"), b=(4,)),
    "Add on the left": above(node("Add", "b h", "out"), b=(4,)),
    "Add, broadcast in the middle": above(
        node("Add", "h b", "out"), x=("N", 3, 4), b=(3, 1)
    ),
    "Add, same tensor": above(node("Add", "h h", "out")),
    "Add, residual": above(
        node("Tanh", "h", "t"), node("MatMul", "t w", "m"), node("Add", "m h", "out"), w=(4, 4)
    ),
    "Sub": above(node("Tanh", "h", "t"), node("Sub", "h t", "out")),
    "Mul": above(node("Tanh", "h", "t"), node("Mul", "h t", "out")),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operator(name: str, tmp_path: Path) -> None:
    check(Gradients(model(*CASES[name]), task("mse"), tmp_path))


def test_every_supported_operator_has_a_case() -> None:
    """A case in the table `CASES` of this module or of another of its family."""
    here = Path(__file__)
    modules = [f"{__package__}.{path.stem}" for path in here.parent.glob(f"{here.stem}*.py")]
    tables = [import_module(name).CASES for name in modules]
    found = {name.split()[0].strip(",") for table in tables for name in table}
    assert found == {op for op, entry in OPERATORS.items() if not entry.stops}


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("batch", [1, 7])
def test_loss(loss: str, batch: int, tmp_path: Path) -> None:
    check(Gradients(dense(), task(loss), tmp_path), batch)


def test_cross_entropy_of_large_logits_is_finite(tmp_path: Path) -> None:
    gradients = Gradients(dense(), task(), tmp_path)
    examples = gradients.examples(4)
    examples["x"] *= 1e4
    lowered, expected = gradients.lowered(examples), gradients.training_build(examples)
    for name, value in lowered.items():
        assert np.isfinite(value).all()
        close(value, expected[name])


@settings(max_examples=12)
@given(
    widths=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    activation=st.sampled_from(["Relu", "Sigmoid", "Tanh"]),
    trans=st.booleans(),
    batch=st.integers(1, 4),
)
def test_perceptrons(
    widths: list[int], activation: str, trans: bool, batch: int, tmp_path_factory: Any
) -> None:
    sizes = [3, *widths, 2]
    nodes, shapes, at = [], {}, "x"
    for i, (m, n) in enumerate(pairwise(sizes)):
        last = i == len(sizes) - 2
        shapes |= {f"w{i}": (n, m) if trans else (m, n), f"b{i}": (n,)}
        nodes.append(node("Gemm", f"{at} w{i} b{i}", "out" if last else f"h{i}", transB=int(trans)))
        if not last:
            nodes.append(node(activation, f"h{i}", f"a{i}"))
        at = f"a{i}"
    made = model(nodes, weights(**shapes), ("N", 3))
    check(Gradients(made, task(), tmp_path_factory.mktemp("mlp")), batch)
