"""ONNX files without the `onnx` package: fill in weights that lie outside, read them back, attach a
note.

A plan's `model.onnx` keeps its weights in files beside it. A local program wants one file that any
ONNX Runtime opens, so the bytes are put where they belong. Everything else of the model is copied
as it is. How the bytes are read is told in `wire.onnx_fields`.
"""

from collections.abc import Iterator, Mapping

from wire.onnx_fields import (
    COUNTED,
    DEEPEST,
    INSIDE,
    BadModel,
    Buffer,
    Place,
    check_place,
    fields,
    place_of,
    text,
)

__all__ = ["BadModel", "Buffer", "Place", "complete", "note", "noted", "places", "raw_weights"]

SIZE_LIMIT = (1 << 31) - 1
"""Bytes of a Protocol Buffers message, at most."""

_GRAPH, _INITIALIZER = 7, 5
_NAME, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 8, 9, 13, 14
_METADATA = 14
_KEY, _VALUE = 1, 2


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
        if place := place_of(tensor):
            found[name] = place
    return found


def raw_weights(model: Buffer) -> dict[str, memoryview]:
    """The graph's weights that lie inside it as plain bytes, by name. Raises `BadModel`."""
    return {
        name: field.value
        for name, tensor in _initializers(model)
        for field in fields(tensor)
        if field.number == _RAW_DATA and field.value is not None
    }


def note(key: str, value: str) -> bytes:
    """Bytes that, appended to a model, add this to its metadata. Every ONNX Runtime shows it, in
    the model's custom metadata."""
    entry = [*_counted(_KEY, [key.encode()]), *_counted(_VALUE, [value.encode()])]
    return b"".join(_counted(_METADATA, entry))


def noted(model: Buffer, key: str) -> str | None:
    """What a model's metadata say under `key`. Touches little of it. Raises `BadModel`."""
    found = None
    for field in fields(memoryview(model)):
        if field.number == _METADATA and field.value is not None:
            entry = {f.number: f.value for f in fields(field.value) if f.value is not None}
            if text(entry.get(_KEY)) == key:
                found = text(entry.get(_VALUE))
    return found


def _filled(
    kind: str, message: memoryview, outside: Mapping[str, Buffer], depth: int
) -> list[Buffer]:
    if depth > DEEPEST:
        raise BadModel(f"messages nested more than {DEEPEST} deep")
    if kind == "tensor":
        return _inlined(message, outside)
    parts: list[Buffer] = []
    for field in fields(message):
        inner = INSIDE[kind].get(field.number)
        if inner is None or field.value is None:
            parts.append(field.whole)
        else:
            parts += _counted(field.number, _filled(inner, field.value, outside, depth + 1))
    return parts


def _inlined(tensor: memoryview, outside: Mapping[str, Buffer]) -> list[Buffer]:
    place = place_of(tensor)
    if place is None:
        return [tensor]
    check_place(place, {name: len(data) for name, data in outside.items()})
    data = memoryview(outside[place.location])
    told = (_EXTERNAL_DATA, _DATA_LOCATION)
    parts: list[Buffer] = [f.whole for f in fields(tensor) if f.number not in told]
    return parts + _counted(_RAW_DATA, [data[place.offset : place.end]])


def _initializers(model: Buffer) -> Iterator[tuple[str, memoryview]]:
    for outer in fields(memoryview(model)):
        if outer.number != _GRAPH or outer.value is None:
            continue
        for field in fields(outer.value):
            if field.number == _INITIALIZER and field.value is not None:
                names = [f.value for f in fields(field.value) if f.number == _NAME]
                yield text(names[-1] if names else None), field.value


def _counted(number: int, parts: list[Buffer]) -> list[Buffer]:
    """A field that holds these bytes."""
    return [_number(number << 3 | COUNTED) + _number(_size(parts)), *parts]


def _number(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _size(parts: list[Buffer]) -> int:
    return sum(len(part) for part in parts)
