"""Where tensors of a model from the network lie, wherever in it they are."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.onnx_fields import BadModel, Place, all_places, check_places

onnx = pytest.importorskip("onnx")
helper = onnx.helper

FILES = {"frozen.bin": 100}


def lying(location="frozen.bin", offset="0", length="12", *more):
    """A tensor of three floats that lies elsewhere."""
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[3], data_location=1)
    for key, value in (("location", location), ("offset", offset), ("length", length), *more):
        tensor.external_data.add(key=key, value=value)
    return tensor


def in_initializer(tensor):
    return helper.make_graph([], "g", [], [], [tensor])


def in_attribute(tensor):
    return helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensor)], "g", [], [])


def in_attributes(tensor):
    made = helper.make_node("Odd", [], ["c"])
    made.attribute.add(name="many", type=9).tensors.append(tensor)
    return helper.make_graph([made], "g", [], [])


def in_branch(tensor):
    branch = in_attribute(tensor)
    return helper.make_graph(
        [helper.make_node("If", ["x"], ["y"], then_branch=branch)], "g", [], []
    )


def in_sparse(tensor):
    graph = helper.make_graph([], "g", [], [])
    graph.sparse_initializer.add().values.CopyFrom(tensor)
    return graph


PLACES = [in_initializer, in_attribute, in_attributes, in_branch, in_sparse]


def in_function(tensor):
    made = helper.make_model(helper.make_graph([], "g", [], []))
    body = [helper.make_node("Constant", [], ["c"], value=tensor)]
    made.functions.append(helper.make_function("d", "f", [], ["c"], body, []))
    return made


def in_training(tensor):
    made = helper.make_model(helper.make_graph([], "g", [], []))
    made.training_info.add().algorithm.CopyFrom(in_initializer(tensor))
    return made


def models(tensor):
    """One model for each place that a tensor may have."""
    made = [helper.make_model(build(tensor)) for build in PLACES]
    return [m.SerializeToString() for m in (*made, in_function(tensor), in_training(tensor))]


def test_a_tensor_is_found_wherever_it_is():
    for data in models(lying(offset="8")):
        assert list(all_places(data)) == [Place("frozen.bin", 8, 12)]
        check_places(data, FILES)
    assert list(all_places(b"")) == []


@pytest.mark.parametrize("location", [
    "/etc/passwd", "../x", "x", "", "./frozen.bin", "frozen.bin\0", "frozen.bin/../x", "FROZEN.BIN",
])  # fmt: skip
def test_no_other_file_is_read(location):
    for data in models(lying(location)):
        with pytest.raises(BadModel, match="which is no file of the plan"):
            check_places(data, FILES)


@pytest.mark.parametrize(
    ("offset", "length"), [("89", "12"), ("0", "101"), ("101", "0"), ("9" * 19, "12")]
)
def test_nothing_lies_past_the_end(offset, length):
    with pytest.raises(BadModel, match="ends at byte"):
        check_places(models(lying(offset=offset, length=length))[0], FILES)


@pytest.mark.parametrize(
    ("offset", "length"),
    [("-1", "12"), ("0", ""), ("0x0", "12"), ("0", "12.0"), ("9" * 20, "1"), ("0", "\u0661")],
)
def test_places_are_plain_numbers(offset, length):
    with pytest.raises(BadModel, match="bytes long"):
        check_places(models(lying(offset=offset, length=length))[0], FILES)


def test_a_place_is_told_once():
    for key in ("location", "offset", "length"):
        with pytest.raises(BadModel, match="two values"):
            check_places(models(lying("frozen.bin", "0", "12", (key, "1")))[0], FILES)


def test_what_is_written_twice_is_looked_at_twice():
    """Protocol Buffers merge a message that comes twice: neither half may lie elsewhere."""
    one, other = (
        helper.make_model(in_initializer(lying(name))).SerializeToString()
        for name in ("frozen.bin", "/etc/passwd")
    )
    for data in (one + other, other + one):
        with pytest.raises(BadModel, match="/etc/passwd"):
            check_places(data, FILES)


def test_deep_nests_end():
    graph = in_attribute(lying())
    for _ in range(30):
        outer = helper.make_node("If", ["x"], ["y"], then_branch=graph)
        graph = helper.make_graph([outer], "g", [], [])
    with pytest.raises(BadModel, match="deep"):
        check_places(helper.make_model(graph).SerializeToString(), FILES)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    with suppress(BadModel):
        check_places(data, FILES)
