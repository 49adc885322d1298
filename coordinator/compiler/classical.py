"""scikit-learn's models: operators of `ai.onnx.ml`, as skl2onnx writes them, in standard operators.

Linear models become Gemm with `coefficients` and `intercepts` as weights, which can be trained.
A table of probabilities (`ZipMap`) becomes the tensor [batch, classes] that it is made of.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from coordinator.compiler import convert, specification
from coordinator.compiler.errors import CompileError

DOMAIN = "ai.onnx.ml"

_WITHOUT_ANY = 9  # the operator set taken where all of a model's operators are of `DOMAIN`
_AXES_AS_INPUT = 18  # the operator set from which on ReduceL2 and its like take axes as an input


def standard(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without operators of `ai.onnx.ml`, where they can be told in others.

    Those that cannot stay, for whoever checks operators to name. An output that nobody can make
    any more, the names of classes, is dropped. Raises `CompileError` for an attribute that makes no
    sense.
    """
    if not any(node.domain == DOMAIN for node in model.graph.node):
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    version = specification.version(model) or _WITHOUT_ANY
    rewriter = _Rewriter(result.graph, version)
    del result.graph.node[:]
    for node in model.graph.node:
        rule = RULES.get(node.op_type) if node.domain == DOMAIN else None
        result.graph.node.extend(rule(rewriter, node) if rule else [node])
    _drop(result.graph, rewriter.gone)
    _retype(result.graph, rewriter.tables)
    left = any(node.domain == DOMAIN for node in result.graph.node)
    kept = [o for o in model.opset_import if o.domain not in specification.DOMAINS]
    del result.opset_import[:]
    result.opset_import.append(helper.make_opsetid("", version))
    result.opset_import.extend(o for o in kept if left or o.domain != DOMAIN)
    return result


class _Rewriter:
    """What the rules share: names, constants, and outputs that cannot be made."""

    def __init__(self, graph: onnx.GraphProto, version: int) -> None:
        self.version = version
        self.gone: set[str] = set()
        self.tables: set[str] = set()
        self.softmax: set[str] = set()
        self._graph = graph
        self._taken = {t.name for t in graph.initializer} | {i.name for i in graph.input}
        self._taken |= {o for node in graph.node for o in node.output}

    def name(self, wanted: str) -> str:
        """`wanted`, or something like it that is free."""
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name

    def weight(self, wanted: str, value: np.ndarray[Any, Any]) -> str:
        """An initialiser of this name: a weight that can be trained."""
        name = self.name(wanted)
        self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def const(self, value: Any, dtype: Any = np.float32) -> tuple[onnx.NodeProto, str]:
        """A node that makes a constant, which is never trained, and the constant's name."""
        name = self.name("constant")
        data = numpy_helper.from_array(np.asarray(value, dtype))
        return helper.make_node("Constant", [], [name], value=data), name


_Rule = Callable[[_Rewriter, onnx.NodeProto], Sequence[onnx.NodeProto]]


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {
        k: v.decode("utf-8", "replace") if isinstance(v, bytes) else v for k, v in found.items()
    }


def _matrix(node: onnx.NodeProto, rows: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(Coefficients [rows, features], intercepts [rows])."""
    given = _attributes(node)
    flat = np.asarray(given.get("coefficients", ()), np.float32)
    intercepts = np.asarray(given.get("intercepts") or np.zeros(rows), np.float32)
    if rows < 1 or not flat.size or flat.size % rows or intercepts.shape != (rows,):
        raise CompileError(
            f"operator {node.op_type} ({convert.where_of(node)}) has {flat.size} coefficients and "
            f"{intercepts.size} intercepts for {rows} outputs"
        )
    return flat.reshape(rows, -1), intercepts


def _floats(rewriter: _Rewriter, node: onnx.NodeProto) -> tuple[list[onnx.NodeProto], str]:
    """The first input in float32: these operators take any number."""
    name = rewriter.name(f"{node.input[0]}_float")
    return [helper.make_node("Cast", [node.input[0]], [name], to=onnx.TensorProto.FLOAT)], name


def _product(
    rewriter: _Rewriter, node: onnx.NodeProto, x: str, rows: int, out: str, scale: float = 1.0
) -> onnx.NodeProto:
    coefficients, intercepts = _matrix(node, rows)
    weights = [
        rewriter.weight("coefficients", coefficients * np.float32(scale)),
        rewriter.weight("intercepts", intercepts * np.float32(scale)),
    ]
    return helper.make_node("Gemm", [x, *weights], [out], name=node.name, transB=1)


def _regressor(rewriter: _Rewriter, node: onnx.NodeProto) -> Sequence[onnx.NodeProto]:
    if _attributes(node).get("post_transform", "NONE") != "NONE":
        return [node]
    cast, x = _floats(rewriter, node)
    return [*cast, _product(rewriter, node, x, _attributes(node).get("targets", 1), node.output[0])]


def _classifier(rewriter: _Rewriter, node: onnx.NodeProto) -> Sequence[onnx.NodeProto]:
    """Scores of all classes, and the class of the highest.

    Two classes have the scores -z and z, and `LOGISTIC` makes sigmoid(-z) and sigmoid(z) of them:
    that is the softmax of -z/2 and z/2, whose loss is computed well.
    """
    given = _attributes(node)
    labels = given.get("classlabels_ints") or given.get("classlabels_strings") or []
    rows, after = len(labels), given.get("post_transform", "NONE")
    opposed = after == "LOGISTIC" and rows == 2 and _opposed(node)
    if after not in ("NONE", "SOFTMAX") and not opposed:
        return [node]
    nodes, x = _floats(rewriter, node)
    label, scores = [*node.output, ""][:2]
    logits = rewriter.name("logits") if after != "NONE" or not scores else scores
    nodes.append(_product(rewriter, node, x, rows, logits, 0.5 if opposed else 1.0))
    if after != "NONE" and scores:
        nodes.append(helper.make_node("Softmax", [logits], [scores], axis=1))
        rewriter.softmax.add(scores)
    if not given.get("classlabels_ints"):
        rewriter.gone.add(label)
        return nodes
    best, (constant, classes) = rewriter.name("best"), rewriter.const(labels, np.int64)
    nodes += [
        helper.make_node("ArgMax", [logits], [best], axis=1, keepdims=0),
        constant,
        helper.make_node("Gather", [classes, best], [label], axis=0),
    ]
    return nodes


def _opposed(node: onnx.NodeProto) -> bool:
    """Whether the two classes' scores are each other's negative."""
    coefficients, intercepts = _matrix(node, 2)
    rows = np.column_stack([coefficients, intercepts])
    return bool(np.array_equal(rows[0], -rows[1]))


def _scaler(rewriter: _Rewriter, node: onnx.NodeProto) -> Sequence[onnx.NodeProto]:
    """(X - offset) scale."""
    given = _attributes(node)
    nodes, at = _floats(rewriter, node)
    for op, values in (("Sub", given.get("offset")), ("Mul", given.get("scale"))):
        if values:
            (constant, name), out = rewriter.const(values), rewriter.name(f"{op.lower()}_out")
            nodes += [constant, helper.make_node(op, [at, name], [out])]
            at = out
    return [*nodes, helper.make_node("Identity", [at], [node.output[0]])]


def _normalizer(rewriter: _Rewriter, node: onnx.NodeProto) -> Sequence[onnx.NodeProto]:
    """X over its length along the last axis; probabilities are of length 1 already."""
    norm = _attributes(node).get("norm", "MAX")
    if norm == "L1" and node.input[0] in rewriter.softmax:
        rewriter.softmax.add(node.output[0])
        return [helper.make_node("Identity", [node.input[0]], [node.output[0]])]
    if norm not in ("L1", "L2"):
        return [node]
    nodes, x = _floats(rewriter, node)
    length = rewriter.name("length")
    if rewriter.version >= _AXES_AS_INPUT:
        constant, axes = rewriter.const([-1], np.int64)
        nodes += [constant, helper.make_node(f"Reduce{norm}", [x, axes], [length], keepdims=1)]
    else:
        nodes.append(helper.make_node(f"Reduce{norm}", [x], [length], axes=[-1], keepdims=1))
    (least, tiny), safe = rewriter.const(1e-30), rewriter.name("length")
    nodes += [least, helper.make_node("Max", [length, tiny], [safe])]
    return [*nodes, helper.make_node("Div", [x, safe], [node.output[0]])]


def _extractor(rewriter: _Rewriter, node: onnx.NodeProto) -> Sequence[onnx.NodeProto]:
    """X[..., indices]. A vector stays one, where the operator would make [1, n] of it: n is the
    batch here, and the exporter's next step flattens it."""
    constant, shape = rewriter.const([-1], np.int64)
    flat = rewriter.name("indices")
    return [
        constant,
        helper.make_node("Reshape", [node.input[1], shape], [flat]),
        helper.make_node("Gather", [node.input[0], flat], [node.output[0]], axis=-1),
    ]


def _zip_map(rewriter: _Rewriter, node: onnx.NodeProto) -> Sequence[onnx.NodeProto]:
    rewriter.tables.add(node.output[0])
    if node.input[0] in rewriter.softmax:
        rewriter.softmax.add(node.output[0])
    return [helper.make_node("Identity", [node.input[0]], [node.output[0]])]


def _features(rewriter: _Rewriter, node: onnx.NodeProto) -> Sequence[onnx.NodeProto]:
    return [helper.make_node("Concat", node.input, node.output, axis=1)]


RULES: dict[str, _Rule] = {
    "LinearRegressor": _regressor,
    "LinearClassifier": _classifier,
    "Scaler": _scaler,
    "Normalizer": _normalizer,
    "ArrayFeatureExtractor": _extractor,
    "FeatureVectorizer": _features,
    "ZipMap": _zip_map,
}


def _drop(graph: onnx.GraphProto, gone: set[str]) -> None:
    """Remove the nodes and the outputs that need a tensor which cannot be made."""
    kept = []
    for node in graph.node:
        if gone.intersection(node.input):
            gone.update(node.output)
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    outputs = [o for o in graph.output if o.name not in gone]
    del graph.output[:]
    graph.output.extend(outputs)


def _retype(graph: onnx.GraphProto, tables: set[str]) -> None:
    """The outputs that were tables are tensors now; types said for what is between may be old."""
    del graph.value_info[:]
    for output in graph.output:
        if output.name in tables:
            float32 = onnx.TensorProto.FLOAT
            output.type.CopyFrom(helper.make_tensor_type_proto(float32, ["batch", "classes"]))
