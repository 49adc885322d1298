"""What an input that chooses from a table may be, so that devices skip what it has not."""

from pathlib import Path

import numpy as np
import pytest
from msgspec import UNSET
from onnx import NodeProto, TensorProto

from tests.coordinator.compiler.building import FLOAT, INT64, compiled, model, node, weights

WORDS = 11


def embedder(*nodes: NodeProto, dtype: int = INT64, **constants: np.ndarray):  # type: ignore[no-untyped-def]
    """Indices x [N, 5], by way of `nodes` i, to the mean of their rows."""
    all_nodes = [
        *nodes,
        node("Gather", f"table {'i' if nodes else 'x'}", "e"),
        node("ReduceMean", "e", "m", axes=[1], keepdims=0),
        node("Gemm", "m w", "out"),
    ]
    values = weights(table=(WORDS, 4), w=(4, 3)) | constants
    return model(all_nodes, values, inputs={"x": (dtype, ("N", 5))})


@pytest.mark.parametrize(
    "proto",
    [
        embedder(),
        embedder(node("Cast", "x", "c", to=INT64), node("Identity", "c", "i"), dtype=6),
        embedder(
            node("Transpose", "x", "c", perm=[1, 0]), node("Transpose", "c", "i", perm=[1, 0])
        ),
    ],
)
def test_an_index_is_bounded_by_its_table(proto, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (entry, _) = compiled(proto, tmp_path).manifest.inputs
    assert entry.range == (-11.0, 10.0)


@pytest.mark.parametrize(
    "proto",
    [
        # Some of the values go elsewhere, or come changed: nothing can be said of all of them.
        embedder(
            node("Slice", "x start end axes", "i"),
            start=np.array([0]),
            end=np.array([2]),
            axes=np.array([1]),
        ),
        embedder(node("Mod", "x words", "i"), words=np.array(WORDS)),
        embedder(node("Cast", "x", "b", to=TensorProto.BOOL), node("Cast", "b", "i", to=INT64)),
        model([node("Cast", "x", "f", to=FLOAT), node("Gemm", "f w", "out")], weights(w=(5, 3)),
              inputs={"x": (INT64, ("N", 5))}),
    ],
)  # fmt: skip
def test_what_is_no_plain_index_is_not_bounded(proto, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (entry, _) = compiled(proto, tmp_path).manifest.inputs
    assert entry.range is UNSET
