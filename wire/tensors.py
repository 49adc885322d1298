"""Named tensors in the safetensors format, held to a schema before they cost anything.

The layout is canonical: tensors sorted by element size (largest first), then by name; the header
is compact JSON padded with spaces to eight bytes. So the same tensors always have the same bytes,
hence the same digest, whatever library version wrote them. Reading makes views, never copies.

Format: https://github.com/huggingface/safetensors#format
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from wire.errors import Rule, WireError

Array = npt.NDArray[Any]

_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_ALIGN = 8
_HEADER_ROOM = 512  # header bytes a tensor may cost beyond its name


class Spec(NamedTuple):
    """What one tensor must be: a little-endian numpy dtype and an exact shape."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


Schema = Mapping[str, Spec]
"""The exact set of tensors a file must hold."""


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def write(tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> bytes:
    """The tensors as one safetensors file. Big-endian or strided arrays are copied as needed."""
    arrays = {
        name: np.asarray(a, dtype=a.dtype.newbyteorder("<"), order="C")
        for name, a in tensors.items()
    }
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    for name in order:
        array = arrays[name]
        header[name] = _Entry(_NAMES[array.dtype], array.shape, (offset, offset + array.nbytes))
        offset += array.nbytes
    encoded = msgspec.json.encode(header)
    encoded += b" " * (-len(encoded) % _ALIGN)
    parts = [len(encoded).to_bytes(8, "little"), encoded]
    parts.extend(arrays[name].tobytes() for name in order)
    return b"".join(parts)


def size_limit(schema: Schema, metadata: int = 0) -> int:
    """Bytes that a file of this schema may have, with `metadata` bytes of metadata, at most."""
    header = sum(_HEADER_ROOM + 6 * len(name) for name in schema)
    return 8 + header + 6 * metadata + _ALIGN + sum(spec.nbytes for spec in schema.values())


def read(data: bytes, schema: Schema) -> tuple[dict[str, Array], dict[str, str]]:
    """The tensors and the metadata of a file, as read-only views of `data`.

    Raises `WireError` unless the file holds exactly the tensors of `schema`, back to back, and
    every floating-point value is finite.
    """
    header, body = _split(data)
    metadata = _metadata(header.pop("__metadata__", {}))
    if header.keys() != schema.keys():
        missing = sorted(schema.keys() - header.keys())[:3]
        extra = sorted(header.keys() - schema.keys())[:3]
        raise WireError(Rule.WRONG_NAMES, f"tensors missing {missing}, not expected {extra}")
    tensors: dict[str, Array] = {}
    end = 0
    for name, raw in sorted(header.items(), key=_offset):
        entry = _entry(name, raw)
        spec = schema[name]
        if entry.dtype != _NAMES[spec.dtype]:
            raise WireError(
                Rule.WRONG_DTYPE, f"{name!r} is {entry.dtype}, expected {_NAMES[spec.dtype]}"
            )
        if entry.shape != spec.shape:
            raise WireError(
                Rule.WRONG_SHAPE, f"{name!r} has shape {entry.shape}, expected {spec.shape}"
            )
        if entry.data_offsets != (end, end + spec.nbytes):
            raise WireError(Rule.BAD_FORMAT, f"{name!r} is not where the one before it ends")
        end += spec.nbytes
        if end > len(body):
            raise WireError(Rule.TRUNCATED, f"{name!r} ends at byte {end} of {len(body)}")
        flat = np.frombuffer(body[end - spec.nbytes : end], dtype=spec.dtype)
        tensors[name] = _finite(name, flat).reshape(spec.shape)
    if end != len(body):
        raise WireError(Rule.BAD_FORMAT, f"{len(body) - end} bytes after the last tensor")
    return tensors, metadata


def offsets(data: bytes) -> dict[str, tuple[int, int]]:
    """Where each tensor's bytes lie in a trusted file: name to (offset in the file, length)."""
    header, body = _split(data)
    header.pop("__metadata__", None)
    start = len(data) - len(body)
    found = {name: _entry(name, raw).data_offsets for name, raw in header.items()}
    return {name: (start + a, b - a) for name, (a, b) in found.items()}


def _split(data: bytes) -> tuple[dict[str, Any], memoryview]:
    view = memoryview(data)
    if len(view) < 8:
        raise WireError(Rule.TRUNCATED, f"{len(view)} bytes; a header alone needs 8")
    length = int.from_bytes(view[:8], "little")
    if length > len(view) - 8:
        raise WireError(
            Rule.TRUNCATED, f"the header claims {length} bytes, {len(view) - 8} are there"
        )
    try:
        header = msgspec.json.decode(view[8 : 8 + length])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(Rule.BAD_FORMAT, f"the header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise WireError(Rule.BAD_FORMAT, "the header is not a JSON object")
    return header, view[8 + length :]


def _metadata(raw: Any) -> dict[str, str]:
    try:
        return msgspec.convert(raw, dict[str, str])
    except msgspec.ValidationError:
        raise WireError(Rule.BAD_FORMAT, "__metadata__ must map strings to strings") from None


def _entry(name: str, raw: Any) -> _Entry:
    try:
        return msgspec.convert(raw, _Entry)
    except msgspec.ValidationError as error:
        raise WireError(Rule.BAD_FORMAT, f"header entry {name!r}: {error}") from None


def _offset(item: tuple[str, Any]) -> tuple[int, int]:
    entry = _entry(*item)
    return entry.data_offsets


def _finite(name: str, flat: Array) -> Array:
    # The sum of squares is finite unless a value is not, or the values are absurdly large: one
    # pass without a temporary in the usual case.
    if flat.dtype.kind == "f" and flat.size:
        with np.errstate(over="ignore", invalid="ignore"):
            suspicious = not np.isfinite(np.dot(flat, flat))
        if suspicious and not np.isfinite(flat).all():
            raise WireError(Rule.NOT_FINITE, f"{name!r} holds NaN or infinity")
    return flat
