"""Gradients through operators that rearrange, pick and resize."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from coordinator.compiler.errors import CompileError
from edge_agent.examples import Examples
from tests.coordinator.compiler.building import (
    INT64,
    Shape,
    compiled,
    ints,
    model,
    node,
    task,
    weights,
)
from tests.coordinator.compiler.checking import Case, Gradients, above, check, close
from tests.coordinator.compiler.stepping import measured

Constants = Mapping[str, Any]


def over(x: Shape, *nodes: onnx.NodeProto, **constants: Any) -> Case:
    """`nodes` go from `h`, x with its last axis multiplied by a weight, to `out`."""
    own = weights(w0=(x[-1], x[-1]))  # type: ignore[arg-type]
    return [node("MatMul", "x w0", "h", "under"), *nodes], {**own, **constants}, x


def einsum(equation: str, x: Shape, *w: Sequence[int]) -> Case:
    names = [f"w{i + 1}" for i in range(len(w))]
    made = weights(1, **dict(zip(names, w, strict=True)))
    return over(x, node("Einsum", " ".join(["h", *names]), "out", equation=equation), **made)


def resize(x: Shape, scales: Sequence[float] = (), sizes: Sequence[int] = (), **how: Any) -> Case:
    inputs, given = ("h _ s", np.array(scales, np.float32)) if scales else ("h _ _ s", ints(*sizes))
    return over(x, node("Resize", inputs, "out", "resize", **how), s=given)


def pad(mode: str, *pads: int, **constants: Any) -> Case:
    inputs = " ".join(["h pads", *constants])
    return over(("N", 4, 5), node("Pad", inputs, "out", mode=mode), pads=ints(*pads), **constants)


def cut(
    starts: Sequence[int], ends: Sequence[int], axes: Sequence[int], steps: Sequence[int]
) -> Case:
    constants = {"s": ints(*starts), "e": ints(*ends), "a": ints(*axes), "t": ints(*steps)}
    return over(("N", 5, 7), node("Slice", "h s e a t", "out"), **constants)


OPSET = 19  # Split has `num_outputs` from 18 on
TABLE = weights(3, table=(6, 4))["table"]
PICK = np.array([[0, 3], [1, 1]])

CASES: dict[str, Case] = {
    "Concat": above(node("Tanh", "h", "t"), node("Concat", "h t x", "out", axis=1)),
    "Concat in the middle": over(("N", 2, 3), node("Tanh", "h", "t"),
                                 node("Concat", "h t", "out", axis=-2)),
    "Split": over(("N", 6), node("Split", "h", "a b c", axis=1, num_outputs=3),
                  node("Mul", "a b", "d"), node("Add", "d c", "out")),
    "Split parts": over(("N", 6), node("Split", "h p", "a b", axis=-1), node("Tanh", "a", "t"),
                        node("Concat", "b t", "out", axis=1), p=ints(2, 4)),
    "Split, a part unused": over(("N", 7), node("Split", "h", "a b c", axis=1, num_outputs=3),
                                 node("Mul", "a b", "out")),
    "Slice": cut([1], [4], [1], [1]),
    "Slice, several axes": cut([1, -4], [4, -1], [1, 2], [1, 1]),
    "Slice, steps": cut([1, 0], [100, 7], [2, 1], [3, 2]),
    "Slice backwards": cut([-1, 3], [-100, 0], [1, 2], [-1, -2]),
    "Slice backwards to the start": cut([4], [-(2**63)], [1], [-1]),
    "Slice whole": cut([0], [2**63 - 1], [0], [1]),
    "Pad": pad("constant", 0, 1, 2, 0, 0, 3),
    "Pad with a value": pad("constant", 0, 1, 0, 0, 0, 1, value=np.float32(2)),
    "Pad axes": over(("N", 4, 5), node("Pad", "h pads _ axes", "out"), pads=ints(1, 2),
                     axes=ints(-1)),
    "Pad reflect": pad("reflect", 0, 3, 2, 0, 1, 4),
    "Pad edge": pad("edge", 0, 1, 2, 0, 5, 1),
    "Pad wrap": pad("wrap", 0, 1, 2, 0, 0, 1),
    "Tile": over(("N", 2, 3), node("Tile", "h r", "out"), r=ints(1, 3, 2)),
    "Expand": over(("N", 1, 3), node("Expand", "h s", "out"), s=ints(1, 4, 1)),
    "Expand to more axes": over(("N", 3), node("Unsqueeze", "h a", "u"),
                                node("Expand", "u s", "out"), a=ints(1), s=ints(2, 3)),
    "Gather": over(("N", 5, 3), node("Gather", "h i", "out", axis=1), i=ints(4, 0, -1)),
    "Gather, one place": over(("N", 5, 3), node("Gather", "h i", "out", axis=-2), i=np.array(-1)),
    "Gather, a matrix": over(("N", 5), node("Gather", "h i", "out", axis=1), i=PICK),
    "Gather, many times": over(("N", 3, 2), node("Gather", "h i", "out", axis=1),
                               i=ints(0, 0, 0, 0, 0, 2)),
    "Gather, a table in order": ([node("Gather", "table i", "p"), node("Mul", "x p", "out")],
                                 {"table": TABLE, "i": ints(0, 1, 2)}, ("N", 3, 4)),
    "GatherElements": over(("N", 3), node("Cast", "x", "f", to=INT64),
                           node("Clip", "f lo hi", "i"),
                           node("GatherElements", "h i", "out", axis=1), lo=np.array(0),
                           hi=np.array(2)),
    "GatherND": over(("N", 3, 2), node("Cast", "x", "f", to=INT64), node("Clip", "f lo hi", "c"),
                     node("Unsqueeze", "c a", "i"),
                     node("GatherND", "h i", "out", batch_dims=1), lo=np.array(0), hi=np.array(1),
                     a=ints(-1)),
    "Trilu": over(("N", 3, 4), node("Trilu", "h", "out")),
    "Trilu lower": over(("N", 3, 4), node("Trilu", "h k", "out", upper=0), k=np.array(-1)),
    "DepthToSpace": over(("N", 8, 2, 3), node("DepthToSpace", "h", "out", blocksize=2)),
    "DepthToSpace CRD": over(("N", 8, 2, 3), node("DepthToSpace", "h", "out", blocksize=2,
                                                  mode="CRD")),
    "SpaceToDepth": over(("N", 2, 4, 6), node("SpaceToDepth", "h", "out", blocksize=2)),
    "Resize": resize(("N", 2, 3, 2), (1, 1, 2, 3)),
    "Resize asymmetric": resize(("N", 2, 3, 4), (1, 1, 2, 2), nearest_mode="floor",
                                coordinate_transformation_mode="asymmetric"),
    "Resize to sizes": resize(("N", 1, 3, 4), sizes=(5, 7), axes=[2, 3], nearest_mode="floor",
                              coordinate_transformation_mode="asymmetric"),
    "Resize smaller": resize(("N", 1, 5, 6), (1, 1, 0.6, 0.5)),
    "Resize 1-D": resize(("N", 2, 4), (1, 1, 2)),
    "Resize 1-D by a fraction": resize(("N", 2, 4), (1, 1, 1.5)),
    "Resize linear": resize(("N", 2, 3, 4), (1, 1, 2, 1.5), mode="linear"),
    "Resize linear, align corners": resize(("N", 2, 3, 4), (1, 1, 2, 2), mode="linear",
                                           coordinate_transformation_mode="align_corners"),
    "Resize axes": resize(("N", 2, 3, 4), (2, 2), axes=[2, 3]),
    "Einsum": einsum("bij,jk->bik", ("N", 2, 3), (3, 4)),
    "Einsum heads": einsum("bqhd,bkhd->bhqk", ("N", 2, 3, 4)),
    "Einsum implicit": einsum("bi,ij", ("N", 2), (2, 3)),
    "Einsum ellipsis": einsum("...i,ij->...j", ("N", 2, 3), (3, 2)),
    "Einsum of three": einsum("bi,ij,jk->bk", ("N", 2), (2, 3), (3, 4)),
    "Einsum outer": einsum("bi,j->bij", ("N", 2), (3,)),
    "Einsum of one": einsum("bij->bj", ("N", 2, 3)),
    "Einsum transposed": einsum("bij->bji", ("N", 2, 3)),
    "Einsum elementwise": einsum("bi,i->bi", ("N", 2), (2,)),
    "Einsum, an index summed alone": einsum("bij,jk->bk", ("N", 2, 3), (3, 4)),
    "Reshape": over(("N", 2, 4), node("Reshape", "h s", "out"), s=ints(0, 4, -1)),
    "Reshape with the batch": over(
        ("N", 2, 4), node("Reshape", "h s", "f"), node("Tanh", "f", "t"),
        node("Reshape", "t u", "out"), s=ints(-1, 4), u=ints(-1, 2, 4)),
    "Flatten": over(("N", 2, 4), node("Flatten", "h", "out", axis=-2)),
    "Squeeze": over(("N", 1, 4), node("Squeeze", "h a", "out"), a=ints(-2)),
    "Unsqueeze": over(("N", 4), node("Unsqueeze", "h a", "out"), a=ints(1, 3)),
    "Transpose": over(("N", 3, 4), node("Transpose", "h", "t", perm=[1, 2, 0]),
                      node("Tanh", "t", "u"), node("Transpose", "u", "out", perm=[2, 1, 0])),
}  # fmt: skip
CASES["Einsum heads"] = over(
    ("N", 2, 3, 4),
    node("Tanh", "h", "k"),
    node("Einsum", "h k", "out", equation="bqhd,bkhd->bhqk"),
)

# The training build's own kernels cannot run these: finite differences are the proof.
NO_KERNEL = ("Resize", "Slice backwards")


@pytest.mark.parametrize("name", CASES)
def test_operator(name: str, tmp_path: Path) -> None:
    kernels = not name.startswith(NO_KERNEL)
    check(Gradients(model(*CASES[name], opset=OPSET), task("mse"), tmp_path), kernels=kernels)


def test_a_part_that_leads_nowhere_is_no_crash(tmp_path: Path) -> None:
    """ONNX Runtime crashes on a Split of which a part has no name."""
    plan = compiled(model(*CASES["Split, a part unused"], opset=OPSET), tmp_path, task("mse"))
    ones = {i.name: np.ones((2, *i.shape), i.dtype) for i in plan.manifest.inputs}
    assert np.isfinite(measured(plan, tmp_path, Examples(ones))["loss"])


def test_negative_pads_cut(tmp_path: Path) -> None:
    """ONNX's reference does not know them, so there are no finite differences."""
    made = Gradients(
        model(*pad("constant", 0, -1, 2, 0, 0, -2), opset=OPSET), task("mse"), tmp_path
    )
    examples = made.examples(3)
    lowered, expected = made.lowered(examples), made.training_build(examples)
    for name, value in lowered.items():
        close(value, expected[name])


def embedding(rows: int = 50, axis: int = 0) -> onnx.ModelProto:
    """Four embeddings, and a layer above it."""
    table = (rows, 4) if axis == 0 else (4, rows)
    nodes = [
        node("Gather", "table x", "e", axis=axis),
        *([] if axis == 0 else [node("Transpose", "e", "f", perm=[1, 2, 0])]),
        node("Flatten", "f" if axis else "e", "s"),
        node("MatMul", "s w", "out"),
    ]
    return model(nodes, weights(table=table, w=(16, 3)), inputs={"x": (INT64, ("N", 4))})


@pytest.mark.parametrize("axis", [0, 1])
def test_embeddings(axis: int, tmp_path: Path) -> None:
    made = Gradients(embedding(5, axis), task("mse"), tmp_path)
    examples = made.examples(3)
    examples["x"] = np.random.default_rng(0).integers(-5, 5, (3, 4))
    lowered = made.lowered(examples)
    assert set(lowered) == {"table", "w"}
    made.check_differences(examples, lowered)


def test_an_embedding_s_gradient_has_no_one_hot_of_the_vocabulary(tmp_path: Path) -> None:
    plan = compiled(embedding(1000), tmp_path, task("mse"))
    made = onnx.load_from_string(plan.files["train.onnx"])
    ops = [n.op_type for n in made.graph.node]
    assert "ScatterND" in ops
    assert "OneHot" not in ops


ALONG_THE_BATCH = {
    "Concat": over(("N", 3), node("Concat", "h h", "out", axis=0)),
    "Gather": over(("N", 3), node("Gather", "h i", "out"), i=ints(0, 0)),
    "GatherND": over(("N", 3), node("GatherND", "h i", "out"), i=ints(0, 0).reshape(2, 1)),
    "Pad": pad("constant", 1, 0, 0, 0, 0, 0),
    "Slice": cut([0], [2], [0], [1]),
    "Tile": over(("N", 3), node("Tile", "h r", "out"), r=ints(2, 1)),
    "Resize": resize(("N", 2, 3, 2), (2, 1, 1, 1)),
}


@pytest.mark.parametrize("op", ALONG_THE_BATCH)
def test_along_the_batch_is_refused(op: str, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=rf"{op} \(|output 'out' must be float32 with the batch"):
        compiled(model(*ALONG_THE_BATCH[op], opset=OPSET), tmp_path, task("mse"))


def test_einsum_with_a_diagonal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="an index twice in one operand"):
        compiled(model(*einsum("bii->bi", ("N", 3, 3)), opset=OPSET), tmp_path, task("mse"))


def test_a_gather_beyond_the_end_is_refused(tmp_path: Path) -> None:
    case = over(("N", 3), node("Gather", "h i", "out", axis=1), i=ints(3))
    with pytest.raises(CompileError, match="index 3 or 3 on an axis of length 3"):
        compiled(model(*case, opset=OPSET), tmp_path, task("mse"))
