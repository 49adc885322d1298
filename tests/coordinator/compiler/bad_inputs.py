"""Bad models and task files, and what must be said of each.

An entry that a new operator or loss makes good is moved to a test of that, or given another
operator that is still unknown: `UNKNOWN` names one in one place.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.coordinator.compiler.building import FLOAT, INT64, dense, model, node, read_by, weights

UNKNOWN = "Det"
"""An operator of the standard, on floats, that cannot be trained through. Matrices to numbers."""

TASK = """\
name = "test"
model = {{ {model} }}
loss = {{ {loss} }}
optimizer = {{ {optimizer} }}
training = {{ {training} }}
round = {{ goal = 2 }}
{rest}
"""
PARTS = {
    "model": 'file = "model.onnx"',
    "loss": 'kind = "cross_entropy"',
    "optimizer": 'kind = "sgd", learning_rate = 0.1',
    "training": "",
    "rest": "",
}


def task(**parts: str) -> str:
    """A task file's text; `parts` take the place of those of `PARTS`."""
    return TASK.format(**(PARTS | parts))


@dataclass(frozen=True)
class Bad:
    """A bad input: the model (as a message, bytes, or None for no file), the task file, what else
    is to be done in the folder, and the words that the one error must have."""

    words: Sequence[str]
    model: Callable[[], onnx.ModelProto | bytes | None] = dense
    task: str | bytes = field(default_factory=task)
    arrange: Callable[[Path], object] = lambda folder: None

    def write(self, folder: Path) -> Path:
        """Put it into `folder`; returns the task file."""
        made = self.model()
        if isinstance(made, onnx.ModelProto):
            made = made.SerializeToString()
        if made is not None:
            (folder / "model.onnx").write_bytes(made)
        path = folder / "task.toml"
        path.write_bytes(self.task if isinstance(self.task, bytes) else self.task.encode())
        self.arrange(folder)
        return path


# Models


def chain(*nodes: onnx.NodeProto, **shapes: Sequence[int]) -> Callable[[], onnx.ModelProto]:
    """x [N, 4] through these nodes to `out`, with random weights of these shapes."""
    return lambda: model(list(nodes), weights(**shapes))


def image(*nodes: onnx.NodeProto, **shapes: Sequence[int]) -> Callable[[], onnx.ModelProto]:
    """As `chain`, x being [N, 1, 8, 8]."""
    return lambda: model(list(nodes), weights(**shapes), ("N", 1, 8, 8))


def through(op: str, **attributes: object) -> Callable[[], onnx.ModelProto]:
    """A perceptron with this operator, named `odd`, where its activation was."""
    return chain(
        node("Gemm", "x w b", "h"),
        node(op, "h", "r", "odd", **attributes),
        node("Gemm", "r v", "out"),
        w=(4, 3),
        b=(3,),
        v=(3, 3),
    )


def changed(change: Callable[[onnx.ModelProto], object]) -> Callable[[], onnx.ModelProto]:
    """The perceptron, after this was done to it."""

    def made() -> onnx.ModelProto:
        proto = dense()
        change(proto)
        return proto

    return made


def with_input(dtype: int, shape: Sequence[int | str]) -> Callable[[], onnx.ModelProto]:
    """A linear model whose input has this type and shape."""
    return lambda: model(
        [node("Cast", "x", "f", to=FLOAT), node("MatMul", "f w", "out")],
        weights(w=(4, 3)),
        inputs={"x": (dtype, shape)},
    )


def determinant() -> onnx.ModelProto:
    """One operator that is unknown, between weights."""
    nodes = [
        node("Gemm", "x w b", "h"),
        node("Reshape", "h square", "s"),
        node(UNKNOWN, "s", "d", "odd"),
        node("Unsqueeze", "d last", "u"),
        node("Gemm", "u v", "out"),
    ]
    shapes = {"square": np.array([-1, 2, 2]), "last": np.array([1])}
    return model(nodes, weights(w=(4, 4), b=(4,), v=(1, 3)) | shapes)


def own_domain() -> onnx.ModelProto:
    """An operator of somebody's own."""
    proto = dense()
    proto.graph.node[1].CopyFrom(helper.make_node("Swirl", ["h"], ["r"], "odd", domain="acme"))
    proto.opset_import.append(helper.make_opsetid("acme", 1))
    return proto


def branches(op: str) -> onnx.ModelProto:
    """A model with a graph in its graph."""

    def inner(name: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, FLOAT, ["N", 3])
        return helper.make_graph([node("Identity", "h", name)], name, [], [out])

    halves = {"then_branch": inner("p"), "else_branch": inner("q")}
    return model(
        [node("Gemm", "x w b", "h"), node(op, "yes", "out", "odd", **halves)],
        {**weights(w=(4, 3), b=(3,)), "yes": np.array(True)},
    )


def a_loop() -> onnx.ModelProto:
    """A layer that is applied five times."""
    scalar = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Identity", "go_on", "again"), node("MatMul", "state w", "next")],
        "body",
        [scalar("i", INT64, []), scalar("go_on", 9, []), scalar("state", FLOAT, ["N", 4])],
        [scalar("again", 9, []), scalar("next", FLOAT, ["N", 4])],
    )
    values = {"five": np.array(5), "yes": np.array(True), **weights(w=(4, 4))}
    return model([node("Loop", "five yes x", "out", "odd", body=body)], values)


def a_sequence() -> onnx.ModelProto:
    """A model that puts tensors into a list and takes one out."""
    nodes = [
        node("Gemm", "x w", "h"),
        node("SequenceConstruct", "h h", "list", "odd"),
        node("SequenceAt", "list first", "r", "odd"),
        node("Gemm", "r v", "out"),
    ]
    return model(nodes, weights(w=(4, 3), v=(3, 3)) | {"first": np.array(0)})


def beyond_float32() -> onnx.ModelProto:
    """A model that multiplies by 10^38 twice."""
    nodes = [node("Gemm", "x w", "h"), node("Mul", "h large", "i"), node("Mul", "i large", "out")]
    return model(nodes, weights(w=(4, 3)) | {"large": np.array(1e38, np.float32)})


def set_weight(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[..., object]:
    """To be done to a model: one of its weights changed."""

    def apply(proto: onnx.ModelProto) -> None:
        for tensor in proto.graph.initializer:
            if tensor.name == name:
                value = change(numpy_helper.to_array(tensor).copy())
                tensor.CopyFrom(numpy_helper.from_array(value, name))

    return apply


def poisoned(value: np.ndarray) -> np.ndarray:
    """With a NaN in it."""
    value.ravel()[0] = np.nan
    return value


def outside(location: str, keep: bool = False) -> Callable[[Path], None]:
    """Put the weights of `model.onnx` into `w.bin`, then say that they are at `location`."""

    def arrange(folder: Path) -> None:
        path = folder / "model.onnx"
        proto = onnx.load(path)
        onnx.save(proto, path, save_as_external_data=True, location="w.bin", size_threshold=0)
        proto = onnx.load(path, load_external_data=False)
        for tensor in proto.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location
        path.write_bytes(proto.SerializeToString())
        if not keep:
            (folder / "w.bin").unlink()

    return arrange


def a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "model.onnx")


def truncated(path: Path, length: int) -> None:
    """A file of holes."""
    with path.open("wb") as file:
        file.truncate(length)


def vast() -> onnx.ModelProto:
    """Its weights are said to be in a file beside it, and that is all there is of them."""
    proto = dense()
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.dims[:] = [1 << 21, 1 << 21]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    return proto


def cut_weights(folder: Path) -> None:
    """Weights in a file beside the model that ends too early."""
    outside("w.bin", keep=True)(folder)
    (folder / "w.bin").write_bytes((folder / "w.bin").read_bytes()[:10])


def a_folder(folder: Path) -> None:
    """A directory where the model should be."""
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").mkdir()


def from_the_future(proto: onnx.ModelProto) -> None:
    proto.opset_import[0].version = 99


def no_output(proto: onnx.ModelProto) -> None:
    del proto.graph.output[:]


def a_cycle(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].input[0] = "r"


def two_of_a_name(proto: onnx.ModelProto) -> None:
    proto.graph.node[1].output[0] = "h"
    proto.graph.node[2].input[0] = "h"


def integers_only() -> onnx.ModelProto:
    """A quantised layer: nothing to train."""
    proto = model(
        [node("MatMulInteger", "x w", "i", "odd"), node("Cast", "i", "out", to=FLOAT)],
        {"w": np.ones((4, 3), np.uint8)},
        inputs={"x": (TensorProto.UINT8, ("N", 4))},
    )
    return proto


def strings() -> onnx.ModelProto:
    """A tokeniser's input."""
    return with_input(TensorProto.STRING, ("N", 4))()


def half_floats() -> onnx.ModelProto:
    """Weights of sixteen bits."""
    values = {"w": weights(w=(4, 3))["w"].astype(np.float16)}
    nodes = [node("MatMul", "h w", "p", "odd"), node("Cast", "p", "out", to=FLOAT)]
    return model([node("Cast", "x", "h", to=TensorProto.FLOAT16), *nodes], values)


def doubles() -> onnx.ModelProto:
    """Weights of sixty-four bits."""
    values = {"w": weights(w=(4, 3))["w"].astype(np.float64)}
    return model([node("MatMul", "x w", "out", "odd")], values, inputs={"x": (11, ("N", 4))})


def sparse() -> onnx.ModelProto:
    """A weight of which most is nothing."""
    proto = dense()
    values = numpy_helper.from_array(np.ones(2, np.float32), "w1")
    places = numpy_helper.from_array(np.array([0, 3]))
    proto.graph.initializer.remove(next(t for t in proto.graph.initializer if t.name == "w1"))
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [5, 4]))
    return proto


def two_inputs(first: Sequence[int | str], second: Sequence[int | str]) -> onnx.ModelProto:
    """A model of two inputs, added."""
    return model(
        [node("Add", "x y", "s"), node("Gemm", "s w", "out")],
        weights(w=(4, 3)),
        inputs={"x": (FLOAT, first), "y": (FLOAT, second)},
    )


def cut(part: float) -> Callable[[], bytes]:
    """So much of the perceptron's file."""
    return lambda: (data := dense().SerializeToString())[: int(len(data) * part)]


def huge(op: str) -> Callable[[], onnx.ModelProto]:
    """A constant of 4 TB, made by one operator."""

    def made() -> onnx.ModelProto:
        nodes = {
            "ConstantOfShape": [node("ConstantOfShape", "size", "c")],
            "Expand": [node("Expand", "one size", "c")],
            "Tile": [node("Tile", "one size", "c")],
        }[op]
        sums = [node("ReduceSum", "c", "s", keepdims=0), node("MatMul", "x w", "h")]
        values = {"size": np.array([10**6, 10**6]), "one": np.ones((1, 1), np.float32)}
        values = read_by(nodes, values) | weights(w=(4, 3))
        return model([*nodes, *sums, node("Add", "h s", "out")], values)

    return made


# The lists

MODELS: Mapping[str, Bad] = {
    "no model": Bad(["model.onnx", "no such file"], lambda: None),
    "a folder": Bad(["model.onnx", "cannot be read"], arrange=a_folder),
    "empty": Bad(["model.onnx", "not an ONNX model"], lambda: b""),
    "a zip": Bad(["model.onnx", "not an ONNX"], lambda: b"PK\x03\x04" + bytes(range(256))),
    "a pickle": Bad(["model.onnx", "not an ONNX"], lambda: b"\x80\x04\x95" + b"torch" * 99),
    "cut in half": Bad(["model.onnx", "not an ONNX"], cut(0.5)),
    "its last byte lost": Bad(["model.onnx", "not an ONNX"], cut(0.999)),
    "no nodes": Bad(
        ["model.onnx", "without any operator"], changed(lambda p: p.graph.ClearField("node"))
    ),
    "no output": Bad(["the model has no output"], changed(no_output)),
    "a tensor from nowhere": Bad(
        ["not a valid ONNX model", "nowhere", "first"],
        changed(lambda p: p.graph.node[0].input.__setitem__(0, "nowhere")),
    ),
    "a cycle": Bad(["not a valid ONNX model"], changed(a_cycle)),
    "two tensors of a name": Bad(["not a valid ONNX model", "h"], changed(two_of_a_name)),
    "an operator set from the future": Bad(["99", "operator set"], changed(from_the_future)),
    "a pipe": Bad(["model.onnx", "not a file"], lambda: None, arrange=a_pipe),
    "no end": Bad(
        ["model.onnx", "not a file"],
        lambda: None,
        arrange=lambda folder: (folder / "model.onnx").symlink_to("/dev/zero"),
    ),
    "more than memory holds": Bad(
        ["model.onnx", "4398046511104 bytes", "at most"],
        lambda: None,
        arrange=lambda folder: truncated(folder / "model.onnx", 1 << 42),
    ),
    "weights of more than memory holds": Bad(["17592186044416 bytes", "at most"], vast),
    "weights lost": Bad(["beside it", "w.bin"], arrange=outside("w.bin")),
    "weights cut": Bad(["beside it", "'w1'"], arrange=cut_weights),
    "weights in /etc/passwd": Bad(
        ["beside it", "/etc/passwd"], arrange=outside("/etc/passwd", keep=True)
    ),
    "weights up the tree": Bad(["beside it", "../w.bin"], arrange=outside("../w.bin", keep=True)),
    "weights of NaN": Bad(["weight 'w1'", "NaN"], changed(set_weight("w1", poisoned))),
    "weights in double": Bad(["weight 'w'", "float64", "float32", "'odd'"], doubles),
    "weights in half": Bad(["weight 'w'", "float16", "float32", "'odd'"], half_floats),
    "sparse weights": Bad(["sparse", "dense"], sparse),
    "an unknown operator": Bad([UNKNOWN, "'odd'", "Supported: "], determinant),
    "an operator of somebody's own": Bad(["acme.Swirl", "'odd'", "not a standard"], own_domain),
    "a loop": Bad(["Loop", "'odd'", "loops"], a_loop),
    "a list of tensors": Bad(["'odd'"], a_sequence),
    "one of all": Bad(["Hardmax", "'odd'", "Supported: "], through("Hardmax")),
    "numbers beyond float32": Bad(
        ["dry run", "not a finite number", "division by zero"], beyond_float32
    ),
    "the batch last": Bad(
        ["output 'out'", "batch as its first axis"],
        chain(node("Gemm", "x w", "h"), node("Transpose", "h", "out", perm=[1, 0]), w=(4, 3)),
        task(loss='kind = "mse"'),
    ),
    "branches": Bad(["If", "'odd'", "branches"], lambda: branches("If")),
    "integers only": Bad(["no weights to train"], integers_only),
    "no weights": Bad(["no weights to train"], chain(node("Relu", "x", "out"))),
    "shapes that do not fit": Bad(
        ["do not fit together", "'odd'"],
        chain(node("Gemm", "x w", "h"), node("Gemm", "h w", "out", "odd"), w=(4, 3)),
    ),
    "a reshape that cannot be": Bad(
        ["'odd'"],
        lambda: model(
            [node("Gemm", "x w", "h"), node("Reshape", "h to", "out", "odd")],
            weights(w=(4, 3)) | {"to": np.array([0, 7])},
        ),
    ),
    "a kernel larger than the image": Bad(
        ["'odd'"],
        image(
            node("Conv", "x w", "c", "odd", kernel_shape=[9, 9]),
            node("Flatten", "c", "f"),
            node("Gemm", "f v", "out"),
            w=(2, 1, 9, 9),
            v=(2, 3),
        ),
    ),
    "a kernel larger than the image by less than its stride": Bad(
        ["'odd'", "larger than its input"],
        image(
            node("Conv", "x w", "c", "odd", strides=[4, 4], dilations=[5, 5]),
            node("Flatten", "c", "f"),
            node("Gemm", "f v", "out"),
            w=(2, 1, 3, 3),
            v=(2, 3),
        ),
    ),
    "a pool larger than the image by less than its stride": Bad(
        ["'odd'", "larger than its input"],
        image(
            node("Conv", "x w", "c"),
            node("MaxPool", "c", "p", "odd", kernel_shape=[12, 12], strides=[6, 6], pads=[1] * 4),
            node("Flatten", "p", "out"),
            w=(3, 1, 1, 1),
        ),
    ),
    "channels that do not fit": Bad(
        ["'odd'"],
        image(
            node("Conv", "x w", "c", "odd"),
            node("Flatten", "c", "f"),
            node("Gemm", "f v", "out"),
            w=(2, 3, 1, 1),
            v=(128, 3),
        ),
    ),
    "axes that vary inside": Bad(
        ["input 'x'", "length", "fixed"], with_input(FLOAT, ("N", "length", 4))
    ),
    "an axis of nothing": Bad(["input 'x'", "nothing in it"], with_input(FLOAT, ("N", 0, 4))),
    "a scalar input": Bad(["input 'x'", "batch axis"], with_input(FLOAT, ())),
    "batches of two lengths": Bad(["first axis"], lambda: two_inputs((3, 4), (5, 4))),
    "an input of strings": Bad(["input 'x'", "string", "int64"], strings),
    "an input of complex numbers": Bad(["input 'x'"], with_input(TensorProto.COMPLEX64, ("N", 4))),
    "an input in half": Bad(
        ["input 'x'", "float16", "float32"], with_input(TensorProto.FLOAT16, ("N", 4))
    ),
    "an input named loss": Bad(
        ["input 'loss'", "rename"],
        lambda: model(
            [node("Gemm", "loss w", "out")], weights(w=(4, 3)), inputs={"loss": (FLOAT, ("N", 4))}
        ),
    ),
    "an output without a batch": Bad(
        ["'out'", "batch"],
        chain(node("Gemm", "x w", "y"), node("Add", "w w", "out"), w=(4, 3)),
        task(loss='kind = "mse"'),
    ),
    "several outputs, none named": Bad(
        ["several outputs", "loss.output", "'out', 'h'"], lambda: dense(outputs=("out", "h"))
    ),
    "a constant of 4 TB": Bad(["TB"], huge("ConstantOfShape")),
}

LOSSES: Mapping[str, Bad] = {
    "a loss that is none": Bad(["loss", "'magic'"], task=task(loss='kind = "magic"')),
    "no loss's kind": Bad(["loss", "kind"], task=task(loss='label = "label"')),
    "an output that is not there": Bad(
        ["loss.output", "'logits'", "'out'"],
        task=task(loss='kind = "cross_entropy", output = "logits"'),
    ),
    "one class": Bad(
        ["output 'out'", "[batch, classes]"], chain(node("Gemm", "x w", "out"), w=(4, 1))
    ),
    "logits of three axes": Bad(
        ["output 'out'"],
        lambda: model(
            [node("Gemm", "x w", "h"), node("Unsqueeze", "h last", "out")],
            weights(w=(4, 3)) | {"last": np.array([1, 2])},
        ),
    ),
    "a label named like an input": Bad(
        ["loss.label", "'x'", "another"], task=task(loss='kind = "cross_entropy", label = "x"')
    ),
    "a label named like a weight": Bad(
        ["loss.label", "'w1'", "another"], task=task(loss='kind = "cross_entropy", label = "w1"')
    ),
    "a label named loss": Bad(
        ["loss.label = 'loss'", "another"], task=task(loss='kind = "cross_entropy", label = "loss"')
    ),
    "a label without a name": Bad(
        ["loss.label = ''", "another"], task=task(loss='kind = "cross_entropy", label = ""')
    ),
    "a label that is a number": Bad(
        ["loss.label", "int"], task=task(loss='kind = "cross_entropy", label = 3')
    ),
    "accuracy of a regression": Bad(
        ["accuracy", "cross_entropy"],
        task=task(loss='kind = "mse"', training='metrics = ["accuracy"]'),
    ),
    "rmse of a classification": Bad(["rmse", "mse"], task=task(training='metrics = ["rmse"]')),
    "a metric that is none": Bad(["metrics", "speed"], task=task(training='metrics = ["speed"]')),
    "no metric": Bad(["metrics"], task=task(training="metrics = []")),
    "a metric named twice": Bad(["twice"], task=task(training='metrics = ["loss", "loss"]')),
}

TASKS: Mapping[str, Bad] = {
    "not TOML": Bad(["task.toml", "TOML"], task="name = = 3"),
    "not text": Bad(["task.toml", "cannot be read"], task=b"\xff\xfe\x00name"),
    "an empty file": Bad(["task.toml", "name"], task=""),
    "an unknown key": Bad(["learning_rat", "optimizer"], task=task(
        optimizer='kind = "sgd", learning_rat = 0.1')),
    "an optimiser that is none": Bad(["'magic'"], task=task(optimizer='kind = "magic"')),
    "no learning rate": Bad(["learning_rate"], task=task(optimizer='kind = "sgd"')),
    "a learning rate of nothing": Bad(
        ["optimizer.learning_rate"], task=task(optimizer='kind = "sgd", learning_rate = 0.0')),
    "a learning rate below nothing": Bad(
        ["optimizer.learning_rate"], task=task(optimizer='kind = "sgd", learning_rate = -1.0')),
    "a learning rate of infinity": Bad(
        ["optimizer.learning_rate", "finite"],
        task=task(optimizer='kind = "sgd", learning_rate = inf')),
    "a learning rate that float32 has not": Bad(
        ["optimizer.learning_rate", "float32"],
        task=task(optimizer='kind = "sgd", learning_rate = 1e-50')),
    "a learning rate too large for float32": Bad(
        ["optimizer.learning_rate", "float32"],
        task=task(optimizer='kind = "sgd", learning_rate = 1e39')),
    "a learning rate in words": Bad(
        ["optimizer.learning_rate"], task=task(optimizer='kind = "sgd", learning_rate = "high"')),
    "a learning rate that diverges": Bad(
        ["dry run", "optimizer.learning_rate", "too high", "--no-dry-run"],
        task=task(loss='kind = "mse"', optimizer='kind = "sgd", learning_rate = 50.0')),
    "a learning rate too small to matter": Bad(
        ["dry run", "optimizer.learning_rate", "too low"],
        task=task(optimizer='kind = "sgd", learning_rate = 1e-11')),
    "a momentum of 1": Bad(
        ["optimizer.momentum"],
        task=task(optimizer='kind = "sgd", learning_rate = 0.1, momentum = 1.0')),
    "a beta that is 1 in float32": Bad(
        ["optimizer.beta2", "float32"],
        task=task(optimizer='kind = "adamw", beta2 = 0.99999999999')),
    "a batch of nothing": Bad(["training.batch"], task=task(training="batch = 0")),
    "a batch of half an example": Bad(["training.batch"], task=task(training="batch = 0.5")),
    "a batch beyond all memory": Bad(
        ["training.batch", "65536", "fits"],
        lambda: dense(hidden=60_000), task(training="batch = 65536")),
    "no epoch": Bad(["training.epochs"], task=task(training="epochs = 0")),
    "frozen by a pattern that matches nothing": Bad(
        ["model.frozen", "'features.*'", "w1, b1, w2, b2"],
        task=task(model='file = "model.onnx", frozen = ["features.*"]')),
    "everything frozen": Bad(
        ["no weights to train", "frozen"], task=task(model='file = "model.onnx", frozen = ["*"]')),
    "no model's file": Bad(["model.file"], task=task(model="frozen = []")),
    "a model's file that is a number": Bad(["model.file"], task=task(model="file = 3")),
    "a model's file of nothing": Bad(["cannot be read"], task=task(model='file = ""')),
    "a model's file with a zero in it": Bad(["null byte"], task=task(model='file = "a\\u0000b"')),
    "an upload smaller than any": Bad(
        ["upload.budget"], task=task(rest='upload = { budget = "10 B" }')),
    "a codec that is none": Bad(["upload.codec", "'zip'"],
                                task=task(rest='upload = { codec = "zip" }')),
}  # fmt: skip

ALL: Mapping[str, Bad] = {**MODELS, **LOSSES, **TASKS}
