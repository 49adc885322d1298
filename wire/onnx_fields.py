"""The fields of an ONNX file, without the `onnx` package, and where its tensors lie.

The format is Protocol Buffers: a message is a list of fields, each a number, a kind and a value; a
message inside a message is a value with its length before it. What is read comes from the network,
so nothing is believed: every length is held against what there is.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

Buffer = bytes | memoryview

COUNTED = 2
"""The kind of a field whose value begins with its length."""
DEEPEST = 50
"""Messages in messages, at most."""

INSIDE: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""Where messages that may hold tensors are, by the numbers of onnx.proto3."""

_EXTERNAL_DATA = 13
_KEY, _VALUE = 1, 2


class BadModel(ValueError):
    """Bytes that are no ONNX model, or one whose weights are not where it says."""


class Place(NamedTuple):
    """Where a tensor's bytes lie outside the model: a file's name, and a part of the file."""

    location: str
    offset: int
    length: int

    @property
    def end(self) -> int:
        """Where they end in the file."""
        return self.offset + self.length


class Field(NamedTuple):
    """`whole` is the field as it stands; `value` is what it counts, `None` for a number."""

    number: int
    whole: memoryview
    value: memoryview | None


def all_places(model: Buffer) -> Iterator[Place]:
    """Where any tensor of the model lies that is not inside it: those of attributes, of graphs in
    graphs and of functions, too. Raises `BadModel`."""
    yield from _places("model", memoryview(model), 0)


def check_places(model: Buffer, files: Mapping[str, int]) -> None:
    """Raise `BadModel` unless all that the model has outside lies in these files, by their sizes in
    bytes. To be asked before a runtime opens a model from the network: it would read any file."""
    for place in all_places(model):
        check_place(place, files)


def check_place(place: Place, files: Mapping[str, int]) -> None:
    """Raise `BadModel` unless it is in one of these files, by their sizes in bytes."""
    if place.location not in files:
        raise BadModel(f"a tensor lies in {place.location!r}, which is no file of the plan")
    size = files[place.location]
    if place.end > size:
        raise BadModel(f"a tensor ends at byte {place.end} of {place.location}, which has {size}")


def _places(kind: str, message: memoryview, depth: int) -> Iterator[Place]:
    if depth > DEEPEST:
        raise BadModel(f"messages nested more than {DEEPEST} deep")
    if kind == "tensor":
        if place := place_of(message):
            yield place
        return
    for field in fields(message):
        inner = INSIDE[kind].get(field.number)
        if inner is None:
            continue
        if field.value is None:
            raise BadModel(f"not an ONNX model: field {field.number} of a {kind} is a number")
        yield from _places(inner, field.value, depth + 1)


def place_of(tensor: memoryview) -> Place | None:
    """Where a tensor's bytes lie, if that is outside. Raises `BadModel`."""
    told: dict[str, str] = {}
    for field in fields(tensor):
        if field.number == _EXTERNAL_DATA and field.value is not None:
            entry = {f.number: f.value for f in fields(field.value) if f.value is not None}
            key = text(entry.get(_KEY))
            if key in told:  # each reader would have its own idea of which one holds
                raise BadModel(f"a tensor has two values for {key!r}")
            told[key] = text(entry.get(_VALUE))
    if not told:
        return None
    offset, length = told.get("offset", "0"), told.get("length", "")
    if not all(n.isascii() and n.isdigit() and len(n) < 20 for n in (offset, length)):
        raise BadModel(f"a tensor lies at {offset!r} and is {length!r} bytes long")
    return Place(told.get("location", ""), int(offset), int(length))


def fields(message: memoryview) -> Iterator[Field]:
    """The fields of a message. Raises `BadModel`."""
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
            case 2:  # COUNTED
                length, at = _varint(message, at)
                value = message[at : at + length]
                at += length
            case 5:
                at += 4
            case kind:
                raise BadModel(f"not an ONNX model: a field of kind {kind}")
        if at > end:
            raise BadModel("not an ONNX model, or cut short")
        yield Field(tag >> 3, message[start:at], value)


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


def text(value: memoryview | None) -> str:
    """The characters of a field, "" for none."""
    return "" if value is None else bytes(value).decode(errors="replace")
