"""A graph of a plan with the shape of every tensor, the batch put in: what estimates count on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import shape_inference

from coordinator.compiler import convert
from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import Array, Node, TensorType


@dataclass(frozen=True)
class Sized:
    """A plan's graph. `types` has what is known of each tensor.

    `constants` has those that lie in the graph itself; `frozen` the names of those in a file
    beside it.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, Array]
    frozen: frozenset[str]
    types: Mapping[str, TensorType]

    def shape(self, name: str) -> tuple[int, ...] | None:
        """A tensor's axes; None where inference cannot tell."""
        known = self.types.get(name)
        if known is None or known.shape is None:
            return None
        if not all(isinstance(n, int) for n in known.shape):
            return None
        return tuple(int(n) for n in known.shape)

    def count(self, name: str) -> int:
        """A tensor's elements; 0 where they are not known."""
        shape = self.shape(name)
        return 0 if shape is None else math.prod(shape)

    def bytes(self, name: str) -> int:
        """A tensor's bytes; 0 where they are not known."""
        count = self.count(name)
        return count * self.types[name].dtype.itemsize if count else 0

    @property
    def unknown(self) -> tuple[str, ...]:
        """What the nodes make whose shapes cannot be told."""
        made = (name for node in self.nodes for name in node.outputs if name)
        return tuple(name for name in made if self.shape(name) is None)


def sized(data: bytes, batch: int) -> Sized:
    """Read a graph of a plan; `batch` is the length of the axes that vary: the first of the
    examples and of what else a device makes for each. Raises `CompileError` for what is no graph.
    """
    try:
        proto = onnx.load_model_from_string(data)
        _set_batch(proto, batch)
        proto = shape_inference.infer_shapes(proto, data_prop=True)
        return _read(proto)
    except CompileError:
        raise
    except Exception as error:
        raise CompileError(f"the plan's graph cannot be read: {error}") from error


def _set_batch(proto: onnx.ModelProto, batch: int) -> None:
    for info in proto.graph.input:
        first = info.type.tensor_type.shape.dim[:1]
        if first and not first[0].HasField("dim_value"):
            first[0].dim_value = batch
    for info in proto.graph.output:  # theirs follow from the inputs'
        if any(not d.HasField("dim_value") for d in info.type.tensor_type.shape.dim):
            info.type.tensor_type.ClearField("shape")


def _read(proto: onnx.ModelProto) -> Sized:
    types: dict[str, TensorType] = {}
    graph = proto.graph
    for info in (*graph.value_info, *graph.output, *graph.input):
        if (found := convert.type_of(info)) is not None:
            types[info.name] = found
    constants, frozen = {}, set()
    for tensor in graph.initializer:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        types[tensor.name] = TensorType(dtype, tuple(tensor.dims))
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            frozen.add(tensor.name)
        else:
            constants[tensor.name] = convert.array_of(tensor)
    return Sized(
        nodes=tuple(convert.node_of(node) for node in graph.node),
        inputs=tuple(info.name for info in graph.input),
        outputs=tuple(info.name for info in graph.output),
        constants=constants,
        frozen=frozenset(frozen),
        types=types,
    )
