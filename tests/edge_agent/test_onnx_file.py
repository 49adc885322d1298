"""ONNX files without the `onnx` package, against ONNX Runtime and the package itself."""

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.onnx_file import BadModel, complete, note, noted, places, raw_weights
from fleet.digits import PLAN as DIGITS
from tests.edge_agent.plans import FLOWERS, LINE, weights_of
from wire.plan import CHECKPOINT_NAME

onnx = pytest.importorskip("onnx")

MODEL = (FLOWERS / "model.onnx").read_bytes()
CHECKPOINT = (FLOWERS / CHECKPOINT_NAME).read_bytes()


def completed(plan) -> bytes:
    outside = {CHECKPOINT_NAME: (plan / CHECKPOINT_NAME).read_bytes()}
    return b"".join(complete((plan / "model.onnx").read_bytes(), outside))


@pytest.mark.parametrize("plan", [DIGITS, FLOWERS, LINE], ids=["digits", "flowers", "line"])
def test_a_complete_model_answers_as_the_one_with_its_weights_beside_it(plan):
    one = ort.InferenceSession(completed(plan))
    other = ort.InferenceSession(str(plan / "model.onnx"))
    assert [(i.name, i.shape) for i in one.get_inputs()] == [
        (i.name, i.shape) for i in other.get_inputs()
    ]
    (x,) = one.get_inputs()
    rng = np.random.default_rng(1)
    feed = {x.name: rng.normal(size=(7, x.shape[1])).astype(np.float32)}
    np.testing.assert_array_equal(one.run(None, feed)[0], other.run(None, feed)[0])


@pytest.mark.parametrize("plan", [DIGITS, FLOWERS, LINE], ids=["digits", "flowers", "line"])
def test_only_the_place_of_the_weights_changes(plan):
    """The `onnx` package makes the same of it."""
    expected = onnx.load(plan / "model.onnx")
    made = onnx.load_model_from_string(completed(plan))
    onnx.checker.check_model(made)
    for tensor in expected.graph.initializer:
        tensor.ClearField("data_location")
        tensor.ClearField("external_data")
    assert made == expected


def test_the_weights_are_found_again():
    inside = raw_weights(completed(FLOWERS))
    found = sorted(bytes(inside[name]) for name in places(MODEL))
    assert found == sorted(a.tobytes() for a in weights_of(FLOWERS).values())


def anywhere() -> "onnx.ModelProto":
    """A model with external tensors in every place that ONNX has for one."""

    def far(name: str) -> "onnx.TensorProto":
        tensor = onnx.TensorProto(name=name, data_type=1, dims=[2], data_location=1)
        for key, value in (("location", "frozen.bin"), ("offset", "8"), ("length", "8")):
            tensor.external_data.add(key=key, value=value)
        return tensor

    h = onnx.helper
    inner = h.make_graph([], "inner", [], [], [far("a")])
    nodes = [
        h.make_node("Constant", [], ["b"], value=far("b")),
        h.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=inner),
    ]
    function = h.make_function("f", "F", [], ["b"], nodes[:1], [h.make_opsetid("", 21)])
    graph = h.make_graph(nodes, "outer", [], [], [far("e")])
    return h.make_model(graph, functions=[function])


def test_no_tensor_is_left_outside():
    made = b"".join(complete(anywhere().SerializeToString(), {"frozen.bin": bytes(range(20))}))
    assert b"frozen.bin" not in made
    assert made.count(bytes(range(8, 16))) == 5


@pytest.mark.parametrize(
    ("outside", "error"),
    [
        ({}, "no file of the plan"),
        ({"/etc/passwd": b"root"}, "no file of the plan"),
        ({CHECKPOINT_NAME: CHECKPOINT[:-1]}, "ends at byte"),
        ({CHECKPOINT_NAME: b""}, "ends at byte"),
    ],
)
def test_a_weight_that_is_nowhere_is_refused(outside, error):
    with pytest.raises(BadModel, match=error):
        complete(MODEL, outside)


@pytest.mark.parametrize("value", ["-1", "1e3", "", "9" * 40, "\u0663"])
@pytest.mark.parametrize("key", ["offset", "length"])
def test_a_place_that_is_no_number_is_refused(key, value):
    model = onnx.load_model_from_string(MODEL)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == key:
            entry.value = value
    with pytest.raises(BadModel, match="a tensor lies at"):
        complete(model.SerializeToString(), {CHECKPOINT_NAME: CHECKPOINT})


def test_nesting_has_an_end():
    data = b""
    for _ in range(60):  # a graph in an attribute of a node of a graph
        for tag in (0x32, 0x2A, 0x0A):
            data = onnx_field(tag, data)
    with pytest.raises(BadModel, match="nested"):
        complete(onnx_field(0x3A, data), {})


def onnx_field(tag: int, data: bytes) -> bytes:
    length = bytearray()
    size = len(data)
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([tag, *length, size]) + data


@given(st.integers(0, len(MODEL)), st.binary(max_size=40))
def test_whatever_the_bytes_are_it_is_one_error_or_a_model(cut, tail):
    try:
        complete(MODEL[:cut] + tail, {CHECKPOINT_NAME: CHECKPOINT})
        raw_weights(MODEL[:cut] + tail)
        noted(MODEL[:cut] + tail, "lamplighter")
    except BadModel:
        pass


def test_a_note_is_what_every_runtime_shows():
    made = completed(FLOWERS) + note("lamplighter", '{"größe": 3}')
    assert noted(made, "lamplighter") == '{"größe": 3}'
    shown = ort.InferenceSession(made).get_modelmeta().custom_metadata_map
    assert shown == {"lamplighter": '{"größe": 3}'}
    assert noted(made, "other") is None
    assert noted(MODEL, "lamplighter") is None


def test_the_last_note_counts():
    made = completed(FLOWERS) + note("a", "1") + note("b", "2") + note("a", "3")
    assert noted(made, "a") == "3"
