"""Why bytes were refused. One tree, one stable code for each rule.

WireError(ValueError)     bytes that break a rule of the wire; `.code` says which
"""

from enum import StrEnum


class Rule(StrEnum):
    """The rules that incoming bytes are held to. The value is the stable code on the wire."""

    TRUNCATED = "truncated"
    TOO_LARGE = "too_large"
    BAD_COMPRESSION = "bad_compression"
    BAD_FORMAT = "bad_format"
    BAD_MESSAGE = "bad_message"
    BAD_DIGEST = "bad_digest"
    WRONG_NAMES = "wrong_names"
    WRONG_SHAPE = "wrong_shape"
    WRONG_DTYPE = "wrong_dtype"
    NOT_FINITE = "not_finite"
    WRONG_CODEC = "wrong_codec"
    WRONG_BASE = "wrong_base"
    TOO_FAR = "too_far"
    TOO_FEW = "too_few"


DETAIL_LIMIT = 1000
"""Characters of an error's detail."""


class WireError(ValueError):
    """Bytes from the network, or from a file that came from it, that break a rule.

    `code` is the rule's stable code; `detail` says what was found and what is allowed. A long
    detail is cut, since it may repeat what a stranger sent.
    """

    def __init__(self, code: Rule, detail: str) -> None:
        if len(detail) > DETAIL_LIMIT:
            detail = detail[:DETAIL_LIMIT] + "..."
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
