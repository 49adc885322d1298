"""zstd with a bound: nothing is decompressed that could be larger than allowed."""

import zstandard

from wire.errors import Rule, WireError

_LEVEL = 3  # higher levels gain under 1 % on weights and cost a Raspberry Pi seconds


def compress(data: bytes) -> bytes:
    """One zstd frame that states its content size."""
    return zstandard.ZstdCompressor(level=_LEVEL).compress(data)


def decompress(data: bytes, limit: int) -> bytes:
    """The content of one zstd frame of at most `limit` bytes. Raises `WireError`.

    The frame must state its content size; it is checked before memory is allocated for it.
    """
    try:
        parameters = zstandard.get_frame_parameters(data)
    except zstandard.ZstdError as error:
        raise WireError(Rule.BAD_COMPRESSION, f"not a zstd frame: {error}") from None
    size = parameters.content_size
    if size == zstandard.CONTENTSIZE_UNKNOWN:
        raise WireError(Rule.BAD_COMPRESSION, "the zstd frame does not state its content size")
    if size > limit:
        raise WireError(Rule.TOO_LARGE, f"decompresses to {size} bytes; at most {limit}")
    if parameters.dict_id:
        raise WireError(Rule.BAD_COMPRESSION, "the zstd frame wants a dictionary")
    decompressor = zstandard.ZstdDecompressor(max_window_size=max(limit, 1 << 10))
    try:
        content = decompressor.decompress(data, max_output_size=limit, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise WireError(Rule.BAD_COMPRESSION, str(error)) from None
    if len(content) != size:
        raise WireError(Rule.TRUNCATED, f"{len(content)} bytes in a frame that states {size}")
    return content
