"""ONNX files without the `onnx` package: fill in weights that lie outside, read them back, attach a
note.

A plan's `model.onnx` keeps its weights in files beside it. A local program wants one file that any
ONNX Runtime opens, so the bytes are put where they belong. Everything else of the model is copied
as it is. The format is Protocol Buffers: a message is a list of fields, each a number, a kind and a
value; a message inside a message is a value with its length before it.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

Buffer = bytes | memoryview

SIZE_LIMIT = (1 << 31) - 1
"""Bytes of a Protocol Buffers message, at most."""

_COUNTED = 2
_DEEPEST = 50

# Where messages that may hold tensors are, by the numbers of onnx.proto3.
_INSIDE: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_GRAPH, _INITIALIZER = 7, 5
_NAME, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 8, 9, 13, 14
_METADATA = 14
_KEY, _VALUE = 1, 2


class BadModel(ValueError):
    """Bytes that are no ONNX model, or one whose weights are not where it says."""


class Place(NamedTuple):
    """Where a tensor's bytes lie outside the model: a file's name, and a part of the file."""

    location: str
    offset: int
    length: int


class _Field(NamedTuple):
    """`whole` is the field as it stands; `value` is what it counts, `None` for a number."""

    number: int
    whole: memoryview
    value: memoryview | None


def complete(model: Buffer, outside: Mapping[str, Buffer]) -> list[Buffer]:
    """The model with all tensors inside: parts, to be joined. `outside` are the files beside it.

    Raises `BadModel` when a tensor lies in another file or past a file's end.
    """
    parts = _filled("model", memoryview(model), outside, 0)
    if _size(parts) > SIZE_LIMIT:
        raise BadModel(f"{_size(parts)} bytes; one ONNX file holds at most {SIZE_LIMIT}")
    return parts


def places(model: Buffer) -> dict[str, Place]:
    """The graph's weights that lie outside the model, by their names in it. Raises `BadModel`."""
    found = {}
    for name, tensor in _initializers(model):
        if place := _place(tensor):
            found[name] = place
    return found


def raw_weights(model: Buffer) -> dict[str, memoryview]:
    """The graph's weights that lie inside it as plain bytes, by name. Raises `BadModel`."""
    return {
        name: field.value
        for name, tensor in _initializers(model)
        for field in _fields(tensor)
        if field.number == _RAW_DATA and field.value is not None
    }


def note(key: str, text: str) -> bytes:
    """Bytes that, appended to a model, add this to its metadata. Every ONNX Runtime shows it, in
    the model's custom metadata."""
    entry = [*_counted(_KEY, [key.encode()]), *_counted(_VALUE, [text.encode()])]
    return b"".join(_counted(_METADATA, entry))


def noted(model: Buffer, key: str) -> str | None:
    """What a model's metadata say under `key`. Touches little of it. Raises `BadModel`."""
    found = None
    for field in _fields(memoryview(model)):
        if field.number == _METADATA and field.value is not None:
            entry = {f.number: f.value for f in _fields(field.value) if f.value is not None}
            if _text(entry.get(_KEY)) == key:
                found = _text(entry.get(_VALUE))
    return found


def _filled(
    kind: str, message: memoryview, outside: Mapping[str, Buffer], depth: int
) -> list[Buffer]:
    if depth > _DEEPEST:
        raise BadModel(f"messages nested more than {_DEEPEST} deep")
    if kind == "tensor":
        return _inlined(message, outside)
    parts: list[Buffer] = []
    for field in _fields(message):
        inner = _INSIDE[kind].get(field.number)
        if inner is None or field.value is None:
            parts.append(field.whole)
        else:
            parts += _counted(field.number, _filled(inner, field.value, outside, depth + 1))
    return parts


def _inlined(tensor: memoryview, outside: Mapping[str, Buffer]) -> list[Buffer]:
    place = _place(tensor)
    if place is None:
        return [tensor]
    if place.location not in outside:
        raise BadModel(f"a tensor lies in {place.location!r}, which is no file of the plan")
    data = memoryview(outside[place.location])
    end = place.offset + place.length
    if end > len(data):
        raise BadModel(f"a tensor ends at byte {end} of {place.location}, which has {len(data)}")
    told = (_EXTERNAL_DATA, _DATA_LOCATION)
    parts: list[Buffer] = [f.whole for f in _fields(tensor) if f.number not in told]
    return parts + _counted(_RAW_DATA, [data[place.offset : end]])


def _initializers(model: Buffer) -> Iterator[tuple[str, memoryview]]:
    for outer in _fields(memoryview(model)):
        if outer.number != _GRAPH or outer.value is None:
            continue
        for field in _fields(outer.value):
            if field.number == _INITIALIZER and field.value is not None:
                names = [f.value for f in _fields(field.value) if f.number == _NAME]
                yield _text(names[-1] if names else None), field.value


def _place(tensor: memoryview) -> Place | None:
    """Where a tensor's bytes lie, if that is outside."""
    told = {}
    for field in _fields(tensor):
        if field.number == _EXTERNAL_DATA and field.value is not None:
            entry = {f.number: f.value for f in _fields(field.value) if f.value is not None}
            told[_text(entry.get(_KEY))] = _text(entry.get(_VALUE))
    if not told:
        return None
    offset, length = told.get("offset", "0"), told.get("length", "")
    if not all(n.isascii() and n.isdigit() and len(n) < 20 for n in (offset, length)):
        raise BadModel(f"a tensor lies at {offset!r} and is {length!r} bytes long")
    return Place(told.get("location", ""), int(offset), int(length))


def _fields(message: memoryview) -> Iterator[_Field]:
    at, end = 0, len(message)
    while at < end:
        start = at
        tag, at = _varint(message, at)
        value = None
        match tag & 7:
            case 0:
                _, at = _varint(message, at)
            case 1:
                at += 8
            case 2:  # _COUNTED
                length, at = _varint(message, at)
                value = message[at : at + length]
                at += length
            case 5:
                at += 4
            case kind:
                raise BadModel(f"not an ONNX model: a field of kind {kind}")
        if at > end:
            raise BadModel("not an ONNX model, or cut short")
        yield _Field(tag >> 3, message[start:at], value)


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of up to ten bytes, seven bits each, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise BadModel("not an ONNX model, or cut short")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise BadModel("not an ONNX model: a number without end")


def _counted(number: int, parts: list[Buffer]) -> list[Buffer]:
    """A field that holds these bytes."""
    return [_number(number << 3 | _COUNTED) + _number(_size(parts)), *parts]


def _number(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _size(parts: list[Buffer]) -> int:
    return sum(len(part) for part in parts)


def _text(value: memoryview | None) -> str:
    return "" if value is None else bytes(value).decode(errors="replace")
