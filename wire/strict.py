"""Documents into typed values, or an error that names the key, the value and what is allowed.

One home for what a message, a manifest, a task file and a device's configuration have in common:
unknown keys and bad values are errors, and the error is written for the person who must mend it.
A struct's own checks (`__post_init__`) raise `ValueError("key = value: what is allowed")`; a type's
plain words (`Meta(description=...)`) replace its pattern.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from wire.errors import Rule, WireError

T = TypeVar("T")
Hook = Callable[[Any], Any]
"""From a raw value to a custom type. Raises `ValueError` that says what is allowed."""
Hooks = Mapping[type, Hook]

_PATH = re.compile(r" - at (?P<key>`key` in )?`\$(?P<path>[^`]*)`\Z")
_STEP = re.compile(r"\[[^\]]*\]|[^.\[]+")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<field>.*)`")
_OWN = re.compile(r"(?P<field>\w+) = ")  # a struct's own check: `key = value: what is allowed`
_SHOWN = 60  # characters of an offending value that an error repeats
_TOML_TABLE = re.compile(r"\s*(?P<open>\[\[?)\s*(?P<name>[\w.-]+)\s*\]")
_TOML_KEY = re.compile(r"\s*(?P<name>[\w.-]+)\s*=")


def convert(document: Any, kind: type[T], hooks: Hooks | None = None) -> T:
    """Turn decoded JSON or TOML into `kind`; `hooks` convert custom types from their raw value.

    Raises `WireError` (bad_message) that names the key, the value and what is allowed.
    """
    return _convert(document, kind, hooks or {}, lambda _: None)


def decode_json(data: bytes, kind: type[T], limit: int) -> T:
    """Decode a JSON message of at most `limit` bytes. Raises `WireError`."""
    if len(data) > limit:
        raise WireError(Rule.TOO_LARGE, f"a message of {len(data)} bytes; at most {limit}")
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(Rule.BAD_MESSAGE, f"not JSON: {error}") from None
    return convert(document, kind)


def decode_toml(
    text: str, kind: type[T], hooks: Hooks | None = None, amend: Hook | None = None
) -> T:
    """Decode a TOML document, amended by `amend` (with defaults, say) before it is converted.

    Raises `WireError` that names the key and, where it can, the line.
    """
    try:
        document = msgspec.toml.decode(text)
    except (ValueError, RecursionError) as error:
        raise WireError(Rule.BAD_MESSAGE, f"not TOML: {error}") from None
    if amend:
        document = amend(document)
    return _convert(document, kind, hooks or {}, lambda path: _line_of(text, path))


def _convert(document: Any, kind: type[T], hooks: Hooks, line_of: Callable[[str], int | None]) -> T:
    def dec_hook(wanted: type, raw: Any) -> Any:
        if wanted in hooks:
            return hooks[wanted](raw)
        raise NotImplementedError(f"no conversion to {wanted}")

    try:
        return msgspec.convert(document, kind, dec_hook=dec_hook)
    except msgspec.ValidationError as error:
        path, text = _explain(str(error), document, kind, hooks)
        line = line_of(path)
        where = f"line {line}: " if line else ""
        raise WireError(Rule.BAD_MESSAGE, where + text) from None


def _explain(message: str, document: Any, kind: Any, hooks: Hooks) -> tuple[str, str]:
    """Where a value is wrong, and msgspec's message with the value found and what is allowed."""
    match = _PATH.search(message)
    rule = message[: match.start()] if match else message
    path, kinds, value = "", [kind], document
    for step in _STEP.findall(match["path"][1:] if match else ""):
        step, kinds, value = _enter(step, kinds, value, hooks)
        path = _join(path, step)
    # A key of the document may look like the end of a message: what it leads to is not trusted.
    if match and match["key"] and isinstance(value, dict):
        kinds = [get_args(k)[0] for k in _flat(kinds) if get_origin(k) is dict]
        value = next((k for k in value if not any(_fits(k, kind, hooks) for kind in kinds)), None)
        return path, f"{path}: key {value!r}: {_allowed(rule, kinds)}"
    if unknown := _UNKNOWN.match(rule):
        key = _join(path, unknown["field"])
        return key, f"unknown key {key!r}; allowed here: {', '.join(_keys(kinds, value))}"
    if missing := _MISSING.match(rule):
        step, kinds, _ = _enter(missing["field"], kinds, value, hooks)
        key = _join(path, step)
        return key, "; ".join(filter(None, [f"missing key {key!r}", _one_of(kinds)]))
    if own := _OWN.match(rule):
        return _join(path, own["field"]), _join(path, rule)
    return path, f"{path or 'the document'}{_shown(value)}: {_allowed(rule, kinds)}"


def _allowed(rule: str, kinds: list[Any]) -> str:
    """msgspec's rule, or better words for it: the values listed, the pattern described."""
    if found := _one_of(kinds):
        return found
    if "matching regex" in rule:
        rule = next((f"expected {text}" for k in kinds for text in _descriptions(k)), rule)
    return rule[:1].lower() + rule[1:]


def _enter(step: str, kinds: list[Any], value: Any, hooks: Hooks) -> tuple[str, list[Any], Any]:
    """One step down a path: its real name, the types the value there may have, and the value.

    msgspec calls every key of a mapping `[...]`: its real name is that of the first bad value.
    """
    found: list[Any] = []
    for kind in _flat(kinds):
        arguments = get_args(kind)
        if _is_struct(kind):
            found += _field(kind, step, value)
        elif get_origin(kind) is dict:
            found.append(arguments[1])
            if step == "[...]" and isinstance(value, dict):
                bad = (k for k, v in value.items() if not _fits(v, arguments[1], hooks))
                step = next(bad, step)
        elif get_origin(kind) in (list, tuple):
            fixed = len(arguments) > 1 and arguments[1] is not Ellipsis
            place = int(step[1:-1]) if fixed and step[1:-1].isdecimal() else 0
            found += arguments[place : place + 1]
    try:
        return step, found, value[int(step[1:-1]) if isinstance(value, list) else step]
    except (KeyError, IndexError, TypeError, ValueError):
        return step, found, msgspec.UNSET


def _flat(kinds: Iterable[Any]) -> Iterator[Any]:
    """The types, with the members of unions instead of unions, and without annotations."""
    for kind in kinds:
        origin = get_origin(kind)
        if origin is Annotated:
            yield from _flat(get_args(kind)[:1])
        elif origin in (Union, UnionType):
            yield from _flat(get_args(kind))
        else:
            yield kind


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def _field(struct: Any, name: str, value: Any) -> list[Any]:
    """The type of a struct's field, or of its tag."""
    config = struct.__struct_config__
    if name == config.tag_field:
        return [Literal[config.tag]]
    if not _tag_fits(struct, value):
        return []
    return [f.type for f in msgspec.structs.fields(struct) if f.encode_name == name]


def _tag_fits(struct: Any, value: Any) -> bool:
    config = struct.__struct_config__
    if config.tag_field is None or not isinstance(value, dict):
        return True
    return bool(value.get(config.tag_field) == config.tag)


def _fits(value: Any, kind: Any, hooks: Hooks) -> bool:
    try:
        _convert(value, kind, hooks, lambda _: None)
    except WireError:
        return False
    return True


def _keys(kinds: list[Any], value: Any) -> list[str]:
    """The keys that the structs among `kinds` know."""
    found: list[str] = []
    for kind in _flat(kinds):
        if _is_struct(kind) and _tag_fits(kind, value):
            tag = kind.__struct_config__.tag_field
            found += [tag] if tag else []
            found += [f.encode_name for f in msgspec.structs.fields(kind)]
    return list(dict.fromkeys(found))


def _one_of(kinds: list[Any]) -> str:
    """The values that literals, enumerations and tags among `kinds` allow, in words."""
    found: list[Any] = []
    for kind in _flat(kinds):
        if get_origin(kind) is Literal:
            found += get_args(kind)
        elif isinstance(kind, type) and issubclass(kind, Enum):
            found += [member.value for member in kind]
    return f"expected one of {', '.join(map(repr, found))}" if found else ""


def _descriptions(kind: Any) -> Iterator[str]:
    """What `Meta(description=...)` says of a type."""
    if get_origin(kind) in (Annotated, Union, UnionType):
        notes = getattr(kind, "__metadata__", ())
        yield from (m.description for m in notes if isinstance(m, msgspec.Meta) and m.description)
        for inner in get_args(kind):
            yield from _descriptions(inner)


def _join(path: str, step: str) -> str:
    return path + step if step.startswith("[") else ".".join(filter(None, [path, step]))


def _shown(value: Any) -> str:
    if value is msgspec.UNSET or isinstance(value, dict | list):
        return ""
    text = repr(value)
    return f" = {text if len(text) <= _SHOWN else text[:_SHOWN] + '...'}"


def _line_of(text: str, path: str) -> int | None:
    """The line of a TOML text that sets `path`, or the nearest table around it.

    `None` when a plain search cannot tell.
    """
    if '"""' in text or "'''" in text:  # lines of a long string may look like keys
        return None
    lines: dict[str, int] = {}
    repeats: Counter[str] = Counter()
    table = ""
    for number, line in enumerate(text.split("\n"), 1):
        if found := _TOML_TABLE.match(line):
            table = found["name"]
            if found["open"] == "[[":
                repeats[table] += 1
                table += f"[{repeats[table] - 1}]"
            lines.setdefault(table, number)
        elif found := _TOML_KEY.match(line):
            lines.setdefault(_join(table, found["name"]), number)
    steps = _STEP.findall(path)
    while steps:
        path = ""
        for step in steps:
            path = _join(path, step)
        if path in lines:
            return lines[path]
        steps.pop()
    return None
