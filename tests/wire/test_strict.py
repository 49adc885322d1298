"""Errors that name the key, the value and what is allowed."""

from enum import StrEnum
from typing import Annotated, Literal

import msgspec
import pytest
from msgspec import Meta

from wire.errors import DETAIL_LIMIT, Rule, WireError
from wire.strict import convert, decode_json, decode_toml


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Circle(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="circle"):
    radius: float


class Square(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="square"):
    side: float


class Celsius(float):
    """A custom type, for hooks."""


def celsius(raw: object) -> Celsius:
    if not isinstance(raw, str) or not raw.endswith(" C"):
        raise ValueError("expected degrees such as '20 C'")
    return Celsius(raw[:-2])


class Span(msgspec.Struct, forbid_unknown_fields=True):
    low: int
    high: int

    def __post_init__(self) -> None:
        if self.high < self.low:
            raise ValueError(f"high = {self.high}: at least low ({self.low})")


class Drawing(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    title: Annotated[str, Meta(pattern=r"\A[a-z]+\Z", description="lower-case letters")] = "a"
    code: Annotated[str, Meta(pattern=r"\A[0-9]\Z")] | None = None
    colour: Colour | None = None
    mode: Literal["fast", "fine"] = "fast"
    main: Circle | Square | None = None
    shapes: tuple[Circle | Square, ...] = ()
    pair: tuple[int, Colour] | None = None
    sizes: dict[str, Annotated[int, Meta(ge=0)]] = {}
    modes: dict[Literal["fast", "fine"], int] = {}
    span: Span | None = None
    heat: Celsius = Celsius(20)


def refusal(document: object) -> str:
    with pytest.raises(WireError) as caught:
        convert(document, Drawing, {Celsius: celsius})
    assert caught.value.code == Rule.BAD_MESSAGE
    return caught.value.detail


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"mode": "slow"}, "mode = 'slow': expected one of 'fast', 'fine'"),
        ({"mode": 3}, "mode = 3: expected one of 'fast', 'fine'"),
        ({"colour": "green"}, "colour = 'green': expected one of 'red', 'blue'"),
        (
            {"main": {"kind": "oval"}},
            "main.kind = 'oval': expected one of 'circle', 'square'",
        ),
        ({"main": {}}, "missing key 'main.kind'; expected one of 'circle', 'square'"),
        ({"main": {"kind": "circle"}}, "missing key 'main.radius'"),
        (
            {"main": {"kind": "circle", "radius": "x"}},
            "main.radius = 'x': expected `float`, got `str`",
        ),
        (
            {"main": {"kind": "square", "side": 1, "radius": 2}},
            "unknown key 'main.radius'; allowed here: kind, side",
        ),
        (
            {"shapes": [{"kind": "square", "side": 1}, {"kind": "oval"}]},
            "shapes[1].kind = 'oval': expected one of 'circle', 'square'",
        ),
        ({"pair": [1, "green"]}, "pair[1] = 'green': expected one of 'red', 'blue'"),
        ({"pair": [1]}, "pair: expected `array` of length 2, got 1"),
        ({"sizes": {"a": 1, "b": "x"}}, "sizes.b = 'x': expected `int`, got `str`"),
        ({"sizes": {"a": 1, "b": -1}}, "sizes.b = -1: expected `int` >= 0"),
        ({"modes": {"slow": 1}}, "modes: key 'slow': expected one of 'fast', 'fine'"),
        ({"title": "A1"}, "title = 'A1': expected lower-case letters"),
        ({"code": "x"}, r"code = 'x': expected `str` matching regex '\\A[0-9]\\Z'"),
        ({"span": {"low": 2, "high": 1}}, "span.high = 1: at least low (2)"),
        ({"heat": 20}, "heat = 20: expected degrees such as '20 C'"),
        (
            {"x`y\nz": 1},
            "unknown key 'x`y\\nz'; allowed here: title, code, colour, mode, main, shapes, pair, "
            "sizes, modes, span, heat",
        ),
        ([], "the document: expected `object`, got `array`"),
        ({"sizes": [1]}, "sizes: expected `object`, got `array`"),
    ],
)
def test_an_error_names_the_key_the_value_and_what_is_allowed(document, expected):
    assert refusal(document) == expected


@pytest.mark.parametrize(
    "forged",
    [
        "x` - at `$.title",
        "x` - at `key` in `$.nowhere",
        "x` - at `key` in `$.title",
        "x` - at `key` in `$.pair[0]",
        "x` - at `$.pair[...]",
        "x` - at `$.pair[99]",
        "x` - at `$[" + "9" * 5000 + "]",
    ],
)
def test_a_key_that_looks_like_a_place_is_refused_as_any_other(forged: str):
    refusal({"title": "a", "pair": [1, "red"], forged: 1})


def test_a_hook_converts_a_custom_type():
    assert convert({"heat": "5 C"}, Drawing, {Celsius: celsius}).heat == 5


def test_a_long_value_is_cut():
    assert len(refusal({"mode": "x" * 10_000})) < 200


def test_a_long_key_is_cut():
    assert len(refusal({"x" * 10_000: 1})) <= DETAIL_LIMIT + 3


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"mode": "fast"',
        b'{"mode": "fast"} {}',
        b'{"mode": "\xff"}',
        b'{"mode": "\\ud800"}',
        b'{"mode": NaN}',
        b'{"heat": 1e999}',
        b'{"sizes": {"a": ' + b"1" * 5000 + b"}}",
        b"[" * 100_000 + b"]" * 100_000,
        b'{"sizes": ' * 50_000,
    ],
    ids=lambda data: repr(data[:20]),
)
def test_what_is_not_json_is_refused(data):
    with pytest.raises(WireError, match="not JSON") as caught:
        decode_json(data, Drawing, 1 << 20)
    assert caught.value.code == Rule.BAD_MESSAGE


def test_json_over_the_limit_is_refused_unread():
    with pytest.raises(WireError, match="101 bytes; at most 100") as caught:
        decode_json(b"[" * 101, Drawing, 100)
    assert caught.value.code == Rule.TOO_LARGE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mode =", "not TOML: Invalid value"),
        ("mode = 'fast'\nmode = = 3\nheat = 1", "at line 2"),
        ("mode = " + "[" * 5000, "not TOML"),
        ("mode = " + "9" * 5000, "not TOML"),
        ("mode = 1979-13-45", "not TOML"),
        ("\0", "not TOML"),
    ],
)
def test_what_is_not_toml_is_refused(text, message):
    with pytest.raises(WireError, match=message) as caught:
        decode_toml(text, Drawing)
    assert caught.value.code == Rule.BAD_MESSAGE


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("# first\nmode = 'slow'", "line 2: mode"),
        ("\n[main]\nkind = 'oval'", "line 3: main.kind"),
        ("\nmain.kind = 'oval'", "line 2: main.kind"),
        ("\nmain = {kind = 'oval'}", "line 2: main.kind"),
        ("[main]\n\n[span]\nlow = 1\nhigh = 2", "line 1: missing key 'main.kind'"),
        ("[ span ]\nlow = 3\nhigh = 2", "line 3: span.high"),
        ("[sizes]\na = 1\nb = 'x'", "line 3: sizes.b"),
        (
            "[[shapes]]\nkind = 'square'\nside = 1\n[[shapes]]\n  kind = 'square'\n  side = 'x'",
            "line 6: shapes[1].side",
        ),
        ("pair = [\n  1,\n  'green',\n]", "line 1: pair[1]"),
        ("mode = 'fast'\n[span]\nlow = 1\nhgih = 2", "line 4: unknown key 'span.hgih'"),
        ("'mode' = 'slow'", "mode = 'slow'"),
        ('title = """\nmode = \'a\'\n"""\nmode = "slow"', "title = "),
    ],
)
def test_an_error_in_toml_names_the_line_where_a_search_finds_it(text, where):
    with pytest.raises(WireError) as caught:
        decode_toml(text, Drawing, {Celsius: celsius})
    assert caught.value.detail.startswith(where)
