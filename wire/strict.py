"""Documents into typed values, or an error that names the key, the value and what is allowed.

One home for what a message, a manifest, a task file and a device's configuration have in common:
unknown keys and bad values are errors, and the error is written for the person who must mend it.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args

import msgspec

from wire.errors import Rule, WireError

T = TypeVar("T")
Hook = Callable[[Any], Any]

_PATH = re.compile(r"\s*- at `(?:key in )?\$(?P<path>[^`]*)`\Z")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>[^`]*)`")
_SHOWN = 60  # characters of an offending value that an error repeats


def convert(document: Any, kind: type[T], hooks: Mapping[type, Hook] | None = None) -> T:
    """Turn decoded JSON or TOML into `kind`; `hooks` convert custom types from their raw value.

    Raises `WireError` (bad_message) that names the key, the value and what is allowed.
    """

    def dec_hook(wanted: type, raw: Any) -> Any:
        if hooks and wanted in hooks:
            return hooks[wanted](raw)
        raise NotImplementedError(f"no conversion to {wanted}")

    try:
        return msgspec.convert(document, kind, dec_hook=dec_hook)
    except msgspec.ValidationError as error:
        raise WireError(Rule.BAD_MESSAGE, _explain(str(error), document, kind)) from None


def decode_json(data: bytes, kind: type[T], limit: int) -> T:
    """Decode a JSON message of at most `limit` bytes. Raises `WireError`."""
    if len(data) > limit:
        raise WireError(Rule.TOO_LARGE, f"a message of {len(data)} bytes; at most {limit}")
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(Rule.BAD_MESSAGE, f"not JSON: {error}") from None
    return convert(document, kind)


def decode_toml(text: str, kind: type[T], hooks: Mapping[type, Hook] | None = None) -> T:
    """Decode a TOML document. Raises `WireError` that names the line or the key."""
    try:
        document = msgspec.toml.decode(text)
    except msgspec.DecodeError as error:
        raise WireError(Rule.BAD_MESSAGE, f"not TOML: {error}") from None
    return convert(document, kind, hooks)


def _explain(message: str, document: Any, kind: Any) -> str:
    """Rewrite msgspec's message with the value found and, for an unknown key, the keys allowed."""
    match = _PATH.search(message)
    path = match["path"] if match else ""
    rule = message[: match.start()] if match else message
    steps = [step for step in re.split(r"\.|(?=\[)", path) if step]
    where = path.lstrip(".") or "the document"
    if unknown := _UNKNOWN.match(rule):
        key = ".".join(filter(None, [path.lstrip("."), unknown["field"]]))
        allowed = _fields_at(steps, document, kind)
        return f"unknown key {key!r}; allowed here: {', '.join(allowed)}"
    return f"{where}{_shown(_value_at(steps, document))}: {rule[:1].lower()}{rule[1:]}"


def _value_at(steps: list[str], document: Any) -> Any:
    for step in steps:
        try:
            document = document[int(step[1:-1]) if step.startswith("[") else step]
        except (KeyError, IndexError, TypeError, ValueError):
            return msgspec.UNSET
    return document


def _shown(value: Any) -> str:
    if value is msgspec.UNSET or isinstance(value, dict | list):
        return ""
    text = repr(value)
    return f" = {text if len(text) <= _SHOWN else text[:_SHOWN] + '...'}"


def _fields_at(steps: list[str], document: Any, kind: Any) -> list[str]:
    """Names of the fields of the struct that `steps` lead to, through unions and sequences."""
    candidates = _structs(kind)
    for step in steps:
        if not step.startswith("["):
            fields = [f for c in candidates for f in msgspec.structs.fields(c)]
            candidates = [s for f in fields if f.encode_name == step for s in _structs(f.type)]
        document = _value_at([step], document)
    tagged = [c for c in candidates if _tag_fits(c, document)]
    found = [f.encode_name for c in tagged for f in msgspec.structs.fields(c)]
    tags = [c.__struct_config__.tag_field for c in tagged if c.__struct_config__.tag_field]
    return list(dict.fromkeys([*tags, *found]))


def _tag_fits(struct: Any, document: Any) -> bool:
    config = struct.__struct_config__
    if config.tag_field is None or not isinstance(document, dict):
        return True
    return bool(document.get(config.tag_field) == config.tag)


def _structs(kind: Any) -> list[Any]:
    """Every msgspec struct inside a type such as `A | B` or `tuple[A, ...]`."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [kind]
    return [s for inner in get_args(kind) for s in _structs(inner)]
