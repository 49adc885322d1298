"""Credentials: random, shown once, kept as hashes.

A device's is `<device id>.<secret>`, so that it is found by its id and compared in constant time.
The secrets have 256 random bits: a plain SHA-256 of them is as good as a slow hash.
"""

import hashlib
import hmac
import re
import secrets
import time

_IDENTIFIER = re.compile(r"[a-z0-9-]{1,63}")


def new_secret() -> str:
    """256 random bits, safe in a header and in a shell."""
    return secrets.token_hex(32)


def new_id(prefix: str) -> str:
    """An identifier such as `device-019d1f3a...`: the time, then 40 random bits, so that two never
    meet and those of one time lie together in the store. An id is no secret."""
    return f"{prefix}-{time.time_ns() // 1_000_000:010x}{secrets.token_hex(5)}"


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
