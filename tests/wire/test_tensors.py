"""Tensors in the safetensors format: round trips, canonical bytes, and hostile files."""

import json
import math

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.wire import memory
from tests.wire.samples import NAMES, SHAPES
from wire import tensors as tensors_module
from wire.errors import DETAIL_LIMIT, Rule, WireError
from wire.tensors import Spec, offsets, read, size_limit, write

F4, I1 = np.dtype("<f4"), np.dtype("i1")
SCHEMA = {"a": Spec(F4, (2, 2)), "b": Spec(F4, ()), "q": Spec(I1, (3,))}
TENSORS = {
    "q": np.array([1, -2, 3], I1),
    "a": np.array([[1, 2], [3, 4]], F4),
    "b": np.array(0.5, F4),
}
WHOLE = write(TENSORS)
DTYPES = ["f8", "f4", "f2", "i8", "i4", "i1", "u1"]


@st.composite
def named_tensors(draw):
    """Finite tensors of any allowed type and shape, little- or big-endian."""
    shapes = draw(st.dictionaries(NAMES, SHAPES, max_size=4))
    made = {}
    for name, shape in shapes.items():
        dtype = np.dtype(draw(st.sampled_from(DTYPES))).newbyteorder(draw(st.sampled_from("<>")))
        finite = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
        made[name] = draw(arrays.arrays(dtype, shape, elements=arrays.from_dtype(dtype, **finite)))
    return made


def schema_of(tensors):
    return {n: Spec(a.dtype.newbyteorder("<"), a.shape) for n, a in tensors.items()}


def split(data):
    """The header, as a dictionary, and the tensors' bytes."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def file(header, body):
    """A file made by hand. `header` is JSON text or a value that becomes compact JSON."""
    if not isinstance(header, bytes):
        header = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return len(header).to_bytes(8, "little") + header + body


def changed(name, **changes):
    """The whole file with some fields of one header entry changed."""
    header, body = split(WHOLE)
    header[name] |= changes
    return file(header, body)


def refusal(data, schema=SCHEMA):
    with memory.at_most(200_000), pytest.raises(WireError) as caught:
        read(data, schema)
    assert len(caught.value.detail) <= DETAIL_LIMIT + 3
    return caught.value.code


@given(named_tensors())
def test_tensors_come_back_as_they_were(tensors):
    data = write(tensors)
    schema = schema_of(tensors)
    assert len(data) <= size_limit(schema)
    found, notes = read(data, schema)
    assert notes == {}
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        assert found[name].dtype == array.dtype.newbyteorder("<")
        assert found[name].shape == array.shape
        assert np.array_equal(found[name], array)
        assert not found[name].flags.writeable


@given(named_tensors(), st.randoms(use_true_random=False))
def test_the_same_tensors_in_any_order_are_the_same_bytes(tensors, random):
    order = list(tensors)
    random.shuffle(order)
    assert write({name: tensors[name] for name in order}) == write(tensors)


@given(named_tensors())
def test_the_safetensors_library_reads_our_files(tensors):
    found = safetensors.numpy.load(write(tensors))
    assert found.keys() == tensors.keys()
    for name, array in tensors.items():
        assert found[name].dtype == array.dtype.newbyteorder("<")
        assert np.array_equal(found[name], array)


@given(named_tensors())
def test_we_read_the_safetensors_librarys_files(tensors):
    native = {n: a.astype(a.dtype.newbyteorder("<"), order="C") for n, a in tensors.items()}
    data = safetensors.numpy.save(native)
    assert len(data) <= size_limit(schema_of(tensors))
    found, _ = read(data, schema_of(tensors))
    for name, array in tensors.items():
        assert np.array_equal(found[name], array)


@given(st.dictionaries(NAMES, NAMES, min_size=1, max_size=4))
def test_metadata_comes_back_as_it_was(notes):
    data = write(TENSORS, notes)
    room = sum(len(k) + len(v) + 6 for k, v in notes.items())
    assert len(data) <= size_limit(SCHEMA, room)
    assert read(data, SCHEMA, room)[1] == notes
    assert safetensors.numpy.load(data).keys() == TENSORS.keys()


def test_offsets_say_where_the_bytes_lie():
    for name, (start, length) in offsets(WHOLE).items():
        assert WHOLE[start : start + length] == TENSORS[name].tobytes()


def test_tensors_are_views_of_the_file():
    size = 1 << 20
    data = write({"a": np.ones(size, F4)})
    with memory.at_most(20_000):
        read(data, {"a": Spec(F4, (size,))})


def test_no_tensor_takes_the_metadatas_name():
    with pytest.raises(ValueError, match="__metadata__"):
        write({"__metadata__": np.zeros(1, F4)})


def test_a_file_cut_at_any_byte_is_refused():
    for end in range(len(WHOLE)):
        assert refusal(WHOLE[:end]) == Rule.TRUNCATED


def test_bytes_after_the_last_tensor_are_refused():
    assert refusal(WHOLE + b"\0") == Rule.BAD_FORMAT


@pytest.mark.parametrize("claim", [10 << 30, (1 << 64) - 1, size_limit(SCHEMA)])
def test_a_header_that_claims_too_much_is_refused(claim):
    assert refusal(claim.to_bytes(8, "little") + WHOLE[8:]) == Rule.TOO_LARGE


@pytest.mark.parametrize("filler", [b"[]", b"{}", b"0", b'"a"'])
def test_a_long_header_never_becomes_objects(filler):
    header = b'{"a":[' + b",".join([filler] * (1 << 20)) + b"]}"
    assert refusal(file(header, b"")) == Rule.TOO_LARGE
    many = {f"tensor{n}": Spec(F4, ()) for n in range(1000)}
    header = b'{"a":[' + b",".join([filler] * 100_000) + b"]}"
    with memory.at_most(3 * len(header)), pytest.raises(WireError):
        read(file(header, b""), many)


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (file(b"", b""), Rule.BAD_FORMAT),
        (file(b"[]", b""), Rule.BAD_FORMAT),
        (file(b"null", b""), Rule.BAD_FORMAT),
        (file(b"{", b""), Rule.BAD_FORMAT),
        (file(b'{"a":\xff}', b""), Rule.BAD_FORMAT),
        (file(b'{"\xff":{}}', b""), Rule.BAD_FORMAT),
        (file(b'{"a":' + b"[" * 2000, b""), Rule.BAD_FORMAT),
        (file(b'{"a":' * 400, b""), Rule.BAD_FORMAT),
        (file({}, b""), Rule.WRONG_NAMES),
        (file({"a": 3}, b""), Rule.BAD_FORMAT),
        (file({"a": {"dtype": "F32"}}, b""), Rule.BAD_FORMAT),
        (changed("a", extra=1), Rule.BAD_FORMAT),
        (changed("a", dtype=4), Rule.BAD_FORMAT),
        (changed("a", dtype="F16"), Rule.WRONG_DTYPE),
        (changed("a", dtype="BF16"), Rule.WRONG_DTYPE),
        (changed("a", dtype="f32"), Rule.WRONG_DTYPE),
        (changed("a", dtype="x" * 1000), Rule.WRONG_DTYPE),
        (changed("a", shape=[4]), Rule.WRONG_SHAPE),
        (changed("a", shape=[2, 2, 1]), Rule.WRONG_SHAPE),
        (changed("a", shape=[-2, -2]), Rule.WRONG_SHAPE),
        (changed("a", shape=[2, 1 << 40]), Rule.WRONG_SHAPE),
        (changed("a", shape=[10**1000]), Rule.WRONG_SHAPE),
        (changed("a", shape=[2.0, 2.0]), Rule.BAD_FORMAT),
        (changed("a", shape="22"), Rule.BAD_FORMAT),
        (changed("b", shape=[1]), Rule.WRONG_SHAPE),
        (changed("a", data_offsets=[0, 10**400]), Rule.BAD_FORMAT),
        (changed("a", data_offsets=[-16, 0]), Rule.BAD_FORMAT),
        (changed("a", data_offsets=[16, 0]), Rule.BAD_FORMAT),
        (changed("a", data_offsets=[0, 12]), Rule.BAD_FORMAT),
        (changed("a", data_offsets=[0]), Rule.BAD_FORMAT),
        (changed("b", data_offsets=[0, 4]), Rule.BAD_FORMAT),  # overlaps a
        (changed("q", data_offsets=[21, 24]), Rule.BAD_FORMAT),  # leaves a hole
        (changed("q", data_offsets=[10 << 30, (10 << 30) + 3]), Rule.BAD_FORMAT),
    ],
    ids=lambda value: repr(value)[-40:] if isinstance(value, bytes) else None,
)
def test_a_bad_header_is_refused(data, rule):
    assert refusal(data) == rule


@pytest.mark.parametrize(
    "notes",
    [3, "text", ["a"], {"a": 1}, {"a": None}, {"a": {"b": "c"}}],
    ids=repr,
)
def test_metadata_of_a_wrong_type_is_refused(notes):
    header, body = split(WHOLE)
    with pytest.raises(WireError) as caught:
        read(file({"__metadata__": notes} | header, body), SCHEMA, 100)
    assert caught.value.code == Rule.BAD_FORMAT


def test_metadata_is_refused_where_none_is_expected():
    assert refusal(write(TENSORS, {"format": "pt"})) == Rule.BAD_FORMAT


def test_metadata_that_is_too_long_is_refused():
    data = write(TENSORS, {"note": "x" * 100_000})
    with pytest.raises(WireError) as caught:
        read(data, SCHEMA, 1000)
    assert caught.value.code == Rule.TOO_LARGE


def test_a_repeated_key_is_refused():
    header, body = split(WHOLE)
    entry = json.dumps(header["a"], separators=(",", ":"))
    rest = json.dumps({k: header[k] for k in "bq"}, separators=(",", ":"))[1:]
    assert read(file(f'{{"a":{entry},{rest}'.encode(), body), SCHEMA)
    for doubled in (
        f'{{"a":{entry},"a":{entry},{rest}',
        f'{{"a":{{"dtype":"I8",{entry[1:]},{rest}',
        f'{{"__metadata__":{{}},"__metadata__":{{}},"a":{entry},{rest}',
    ):
        assert refusal(file(doubled.encode(), body)) == Rule.BAD_FORMAT


def test_a_header_that_is_not_compact_is_refused():
    header, body = split(WHOLE)
    assert refusal(file(json.dumps(header).encode(), body)) == Rule.BAD_FORMAT


@pytest.mark.parametrize("names", [{"a", "b"}, {"a", "b", "q", "z"}, {"A", "b", "q"}, set()])
def test_wrong_names_are_refused(names):
    data = write({name: np.zeros(2, F4) for name in names})
    assert refusal(data) == Rule.WRONG_NAMES


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", ["<f8", "<f4", "<f2"])
@pytest.mark.parametrize("shape", [(), (1,), (3, 100)])
def test_a_value_that_is_not_finite_is_refused(value, dtype, shape):
    array = np.zeros(shape, dtype)
    array[(-1,) * array.ndim] = value
    assert refusal(write({"a": array}), {"a": Spec(array.dtype, shape)}) == Rule.NOT_FINITE


@pytest.mark.parametrize("dtype", ["<f8", "<f4", "<f2"])
def test_large_finite_values_are_read(dtype):
    largest = np.full(100, np.finfo(dtype).max, dtype)
    found, _ = read(write({"a": largest}), {"a": Spec(np.dtype(dtype), (100,))})
    assert np.array_equal(found["a"], largest)


@given(st.data())
def test_flipped_bytes_are_refused_or_still_fit_the_schema(data):
    mutated = bytearray(WHOLE)
    for at in data.draw(st.lists(st.integers(0, len(WHOLE) - 1), min_size=1, max_size=4)):
        mutated[at] = data.draw(st.integers(0, 255))
    try:
        found, _ = read(bytes(mutated), SCHEMA)
    except WireError:
        return
    assert {n: Spec(a.dtype, a.shape) for n, a in found.items()} == SCHEMA
    assert all(np.isfinite(a).all() for a in found.values())


def test_a_reader_finds_what_read_finds_in_canonical_and_in_other_files():
    tensors = {"b": np.arange(3, dtype="<f4"), "a": np.arange(4, dtype="i1")}
    schema = {name: Spec(a.dtype, a.shape) for name, a in tensors.items()}
    reader = tensors_module.Reader(schema, 100)
    data = write(tensors, {"note": "x"})
    length = int.from_bytes(data[:8], "little")
    padded = (length + 8).to_bytes(8, "little") + data[8 : 8 + length] + b" " * 8
    for file in (data, padded + data[8 + length :], write(tensors)):
        found, notes = reader.read(file)
        expected, expected_notes = read(file, schema, 100)
        assert notes == expected_notes
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)
            assert not found[name].flags.writeable


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_reader_names_the_tensor_that_is_not_finite(value: float):
    tensors = {"a": np.zeros(3, "<f4"), "b": np.array([0, value], "<f4")}
    schema = {name: Spec(a.dtype, a.shape) for name, a in tensors.items()}
    with pytest.raises(WireError, match="'b' holds NaN or infinity"):
        tensors_module.Reader(schema, 100).read(write(tensors, {"note": "x"}))
