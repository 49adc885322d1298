"""Content addresses: `sha256:` and 64 hexadecimal digits.

Plans and models are named by the digest of their bytes, so any cache may serve them and the
digest proves them. The strict pattern also makes a digest safe as a file name.
"""

import hashlib
import re
from typing import Annotated

import msgspec

from wire.errors import Rule, WireError

DIGEST_PATTERN = r"\Asha256:[0-9a-f]{64}\Z"

Digest = Annotated[
    str, msgspec.Meta(pattern=DIGEST_PATTERN, description="'sha256:' and 64 hexadecimal digits")
]


def digest_of(data: bytes | memoryview) -> str:
    """The content address of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def verify(data: bytes | memoryview, expected: str) -> None:
    """Raise `WireError` (bad_digest) unless `data` has the digest `expected`."""
    found = digest_of(data)
    if found != expected:
        raise WireError(Rule.BAD_DIGEST, f"expected {expected}, the bytes have {found}")


def hex_of(digest: str) -> str:
    """The 64 hexadecimal digits of a digest, for file names. Raises `WireError` (bad_digest)."""
    if not re.match(DIGEST_PATTERN, digest):
        raise WireError(Rule.BAD_DIGEST, f"{digest!r} is not 'sha256:' and 64 hexadecimal digits")
    return digest.removeprefix("sha256:")
