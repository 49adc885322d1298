"""Credentials: random, shown once, kept as hashes.

A device's is `<device id>.<secret>`, so that it is found by its id and compared in constant time.
The secrets have 256 random bits: a plain SHA-256 of them is as good as a slow hash.
"""

import hashlib
import hmac
import re
import secrets

_IDENTIFIER = re.compile(r"[a-z0-9-]{1,63}")


def new_secret() -> str:
    """256 random bits, safe in a header and in a shell."""
    return secrets.token_hex(32)


def new_id(prefix: str) -> str:
    """A random identifier such as `device-1f3a...`; 80 bits, so two never meet."""
    return f"{prefix}-{secrets.token_hex(10)}"


def hashed(secret: str) -> str:
    """What is stored of a secret."""
    # A header's bytes that are not UTF-8 come as surrogates.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def matches(secret: str, stored: str) -> bool:
    """Whether `secret` is the one that was stored as `stored`; takes the same time either way."""
    return hmac.compare_digest(hashed(secret), stored)


def split(credential: str) -> tuple[str, str]:
    """A device's credential as (id, secret); empty strings when it is not of that form."""
    device, dot, secret = credential.partition(".")
    return (device, secret) if dot and _IDENTIFIER.fullmatch(device) else ("", "")
