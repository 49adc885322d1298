"""Gradients of normalisations; and batch norms whose statistics the devices recompute."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.coordinator.compiler.building import Shape, f32, ints, model, node, task
from tests.coordinator.compiler.checking import Case, Gradients, above, check, close

IMAGE: Shape = ("N", 4, 3, 2)


def statistics(channels: int = 4) -> dict[str, np.ndarray]:
    """Running statistics, which are no weights by themselves."""
    rng = np.random.default_rng(5)
    return {
        "mean": rng.normal(size=channels).astype(np.float32),
        "var": rng.uniform(0.5, 2, channels).astype(np.float32),
    }


def norm(*nodes: onnx.NodeProto, x: Shape = IMAGE, **values: object) -> Case:
    """`nodes` from `h` to `n`, and something that makes the loss depend on more than its norm."""
    return above(*nodes, node("Sin", "n", "out"), x=x, **values)


def bent(*nodes: onnx.NodeProto, x: Shape = IMAGE, **values: object) -> Case:
    """The same with a bent `t` in the place of `h`."""
    return norm(node("Tanh", "h", "t"), *nodes, x=x, **values)


CASES: dict[str, Case] = {
    "BatchNormalization": norm(
        node("BatchNormalization", "h s b mean var", "n", epsilon=1e-3), s=(4,), b=(4,),
        **statistics(),
    ),
    "BatchNormalization of features": norm(
        node("BatchNormalization", "h s b mean var", "n"), x=("N", 4), s=(4,), b=(4,),
        **statistics(),
    ),
    "BatchNormalization of sequences": norm(
        node("BatchNormalization", "h s b mean var", "n"), x=("N", 3, 4), s=(3,), b=(3,),
        **statistics(3),
    ),
    "LayerNormalization": bent(
        node("LayerNormalization", "t s b", "n"), x=("N", 3, 4), s=(4,), b=(4,)
    ),
    "LayerNormalization without bias": bent(
        node("LayerNormalization", "t s", "n", epsilon=1e-2), x=("N", 3, 4), s=(4,)
    ),
    "LayerNormalization of two axes": bent(
        node("LayerNormalization", "t s b", "n", axis=-2), s=(3, 2), b=(3, 2)
    ),
    "LayerNormalization, axis 1": bent(
        node("LayerNormalization", "t s b", "n", axis=1), s=(4, 3, 2), b=(4, 3, 2)
    ),
    "LayerNormalization whose mean is read too": bent(
        node("LayerNormalization", "t s b", "y m"), node("Add", "y m", "n"),
        x=("N", 3, 4), s=(4,), b=(4,),
    ),
    "LayerNormalization whose deviation is read too": bent(
        node("LayerNormalization", "t s", "y _ d", axis=-2, epsilon=1e-2), node("Mul", "y d", "n"),
        x=("N", 3, 4), s=(3, 4),
    ),
    "LayerNormalization in primitives": bent(
        node("ReduceMean", "t axes", "m"), node("Sub", "t m", "c"), node("Pow", "c two", "q"),
        node("ReduceMean", "q axes", "v"), node("Add", "v eps", "e"), node("Sqrt", "e", "d"),
        node("Div", "c d", "z"), node("Mul", "z s", "y"), node("Add", "y b", "n"),
        x=("N", 3, 4), s=(4,), b=(4,), axes=ints(-1), two=f32(2), eps=f32(1e-5),
    ),
    "InstanceNormalization": bent(
        node("InstanceNormalization", "t s b", "n"), s=(4,), b=(4,)
    ),
    "InstanceNormalization of sequences": bent(
        node("InstanceNormalization", "t s b", "n", epsilon=1e-2), x=("N", 3, 5), s=(3,), b=(3,)
    ),
    "GroupNormalization": bent(
        node("GroupNormalization", "t s b", "n", num_groups=2), s=(4,), b=(4,)
    ),
    "GroupNormalization, one group": bent(
        node("GroupNormalization", "t s b", "n", num_groups=1, epsilon=1e-2),
        x=("N", 4, 5), s=(4,), b=(4,),
    ),
    "LpNormalization": bent(node("LpNormalization", "t", "n")),
    "LpNormalization, axis 1": bent(node("LpNormalization", "t", "n", axis=1, p=2)),
    "LpNormalization, p 1": bent(node("LpNormalization", "t", "n", axis=1, p=1)),
    "MeanVarianceNormalization": bent(node("MeanVarianceNormalization", "t", "n")),
    "MeanVarianceNormalization of a channel": bent(
        node("MeanVarianceNormalization", "t", "n", axes=[2, 3])
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operator(name: str, tmp_path: Path) -> None:
    check(Gradients(model(*CASES[name], opset=21), task("mse"), tmp_path))


@pytest.mark.parametrize("name", [n for n in CASES if n.startswith("BatchNormalization")])
def test_recomputed(name: str, tmp_path: Path) -> None:
    spec = task("mse", model='batch_norm = "recomputed"')
    gradients = Gradients(model(*CASES[name], opset=21), spec, tmp_path)
    assert set(gradients.problem.updates) == {
        w for w, public in gradients.problem.weights.items() if public in ("mean", "var")
    }
    check(gradients)


def test_group_norm_of_operator_set_18(tmp_path: Path) -> None:
    """It had one scale and one bias for each group."""
    old = bent(node("GroupNormalization", "t s b", "n", num_groups=2), s=(2,), b=(2,))
    proto = model(*old, opset=18)
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "N"
    gradients = Gradients(proto, task("mse"), tmp_path)
    check(gradients)
    wide = bent(node("GroupNormalization", "t s b", "n", num_groups=2), s=(4,), b=(4,))
    new = model(*wide, opset=21)
    values = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    for tensor in new.graph.initializer:
        whole = values[tensor.name]
        each = np.repeat(whole, 2) if tensor.name in ("s", "b") else whole
        tensor.CopyFrom(numpy_helper.from_array(each, tensor.name))
    again = Gradients(new, task("mse"), tmp_path)
    examples = again.examples(3)
    ours, expected = gradients.lowered(examples), again.lowered(examples)
    close(ours["w0"], expected["w0"])
    close(ours["s"], expected["s"].reshape(2, 2).sum(axis=1))
