"""Content addresses."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire.digest import Digest, digest_of, hex_of, verify
from wire.errors import Rule, WireError
from wire.strict import convert

GOOD = "sha256:" + "0123456789abcdef" * 4


@given(st.binary(max_size=100))
def test_a_digest_is_that_of_the_bytes(data):
    digest = digest_of(data)
    assert digest == digest_of(memoryview(data))
    assert hex_of(digest) == hashlib.sha256(data).hexdigest()
    assert convert(digest, Digest) == digest
    verify(data, digest)


def test_other_bytes_are_refused():
    with pytest.raises(WireError, match="expected sha256:") as caught:
        verify(b"other", digest_of(b"data"))
    assert caught.value.code == Rule.BAD_DIGEST


@pytest.mark.parametrize(
    "name",
    [
        "",
        "sha256:",
        GOOD.removeprefix("sha256:"),
        GOOD + "\n",
        GOOD + "/..",
        GOOD[:-1],
        GOOD.upper(),
        "md5:" + "0" * 64,
        "sha256:" + "../" * 21 + "x",
        "sha256:" + "/" * 64,
        "sha256:" + "\0" * 64,
        "\n" + GOOD,
        # digits, to Unicode
        "sha256:" + "\N{ARABIC-INDIC DIGIT ONE}" * 64,
    ],
)
def test_a_name_that_is_no_digest_never_becomes_a_file_name(name):
    with pytest.raises(WireError) as caught:
        hex_of(name)
    assert caught.value.code == Rule.BAD_DIGEST
    with pytest.raises(WireError, match="expected 'sha256:' and 64 hexadecimal digits"):
        convert(name, Digest)
