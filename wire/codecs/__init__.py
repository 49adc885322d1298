"""Update codecs: how a delta is coded on its way up. One small module each.

Each names the tensors of its coded form (`schema`), so that a hostile payload is refused before
anything is decoded. zstd comes after every codec, in `wire.update`.
"""

from collections.abc import Mapping

from wire.codecs.base import Codec, Delta, Few
from wire.codecs.floats import Float16, Float32
from wire.codecs.int8 import Int8
from wire.codecs.mask8 import Mask8
from wire.codecs.sampled import Sampled
from wire.codecs.sparse8 import Sparse8
from wire.errors import Rule, WireError

CODECS: Mapping[str, Codec] = {
    codec.name: codec for codec in (Float32(), Float16(), Int8(), Sparse8(), Mask8())
}


SAMPLED = frozenset({Sparse8.name, Mask8.name})
"""Those that send some of the weights, others each time: right on average, not by themselves."""


def codec_named(name: str) -> Codec:
    """The codec of that name. Raises `WireError` (wrong_codec) that lists those known."""
    if name not in CODECS:
        raise WireError(Rule.WRONG_CODEC, f"no codec {name!r}; known: {', '.join(CODECS)}")
    return CODECS[name]


__all__ = ["CODECS", "SAMPLED", "Codec", "Delta", "Few", "Sampled", "codec_named"]
