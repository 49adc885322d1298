"""Control messages: round trips, bounds, and errors that name the key."""

from collections.abc import Iterator

import msgspec
import pytest
from msgspec import inspect

from tests.wire.samples import DIGEST, header
from wire import messages
from wire.errors import Rule, WireError
from wire.messages import (
    MESSAGE_LIMIT,
    Acknowledgement,
    Assignment,
    CheckIn,
    CheckInReply,
    Enroll,
    Enrolled,
    Evaluation,
    Facts,
    GiveUp,
    Left,
    Message,
    Problem,
    Published,
    UploadState,
    Wait,
    WaitReason,
)
from wire.plan import Manifest
from wire.strict import decode_json
from wire.update import UpdateHeader

FACTS = Facts(
    agent="0.1.0",
    machine="aarch64",
    system="Linux",
    python="3.13.1",
    runtime="onnxruntime 1.31",
    cores=4,
    memory_bytes=1 << 30,
)
EVALUATION = Evaluation(
    task="digits",
    version=3,
    examples=40,
    metrics={"accuracy": 0.75},
    personal={"accuracy": 0.875},
)
ASSIGNMENT = Assignment(
    id="a-1",
    task="digits",
    round=2,
    version=1,
    plan=DIGEST,
    model=DIGEST,
    codec="uniform:8",
    deadline=340.5,
    upload_limit=1 << 20,
    seed=(1 << 63) - 1,
)
WAIT = Wait(reason=WaitReason.ROUND_FULL, after=10, before=20.5)
PUBLISHED = Published(task="digits", version=3, plan=DIGEST, model=DIGEST)

SAMPLES: list[Message] = [
    FACTS,
    EVALUATION,
    ASSIGNMENT,
    WAIT,
    PUBLISHED,
    Enroll(name="kitchen \N{HOT BEVERAGE}", labels={"site": "north"}, facts=FACTS),
    Enrolled(device="d-1", secret="s" * 20),
    CheckIn(protocols=(1,), facts=FACTS, tasks=("digits",), evaluations=(EVALUATION,)),
    CheckIn(protocols=(2, 1), facts=FACTS),
    CheckInReply(protocol=1, assignment=ASSIGNMENT, published=(PUBLISHED,)),
    CheckInReply(protocol=1, wait=WAIT),
    GiveUp(reason="not_eligible", detail="on battery"),
    Left(dropped=1, published=7),
    Acknowledgement(state=UploadState.ACCEPTED, offset=120),
    Problem(type="about:blank", title="Gone", status=410, code="round_closed"),
]

EVERY_FIELD = [(sample, name) for sample in SAMPLES for name in sample.__struct_fields__]


def ids(value: object) -> str:
    return value if isinstance(value, str) else type(value).__name__


def refusal(fields: object, kind: type[Message]) -> str:
    with pytest.raises(WireError) as caught:
        decode_json(msgspec.json.encode(fields), kind, MESSAGE_LIMIT)
    assert caught.value.code == Rule.BAD_MESSAGE
    return caught.value.detail


def test_every_message_has_a_sample_here():
    known = {kind for kind in vars(messages).values() if isinstance(kind, type)}
    known = {kind for kind in known if issubclass(kind, Message)} - {Message}
    assert known == {type(sample) for sample in SAMPLES}


@pytest.mark.parametrize("sample", SAMPLES, ids=ids)
def test_a_message_comes_back(sample):
    assert decode_json(msgspec.json.encode(sample), type(sample), MESSAGE_LIMIT) == sample


@pytest.mark.parametrize("sample", SAMPLES, ids=ids)
def test_an_unknown_key_is_refused(sample):
    error = refusal(msgspec.to_builtins(sample) | {"sudo": True}, type(sample))
    assert error.startswith("unknown key 'sudo'; allowed here: ")
    assert all(name in error for name in sample.__struct_fields__)


@pytest.mark.parametrize(("sample", "name"), EVERY_FIELD, ids=ids)
def test_a_value_of_a_wrong_type_is_refused(sample, name):
    error = refusal(msgspec.to_builtins(sample) | {name: [[0]]}, type(sample))
    assert error.startswith(name)
    assert "expected" in error


@pytest.mark.parametrize(("sample", "name"), EVERY_FIELD, ids=ids)
def test_a_missing_key_is_refused_unless_it_has_a_default(sample, name):
    fields = msgspec.to_builtins(sample)
    del fields[name]
    required = {f.name for f in msgspec.structs.fields(sample) if f.required}
    if name in required:
        assert refusal(fields, type(sample)).startswith(f"missing key {name!r}")
    else:
        decode_json(msgspec.json.encode(fields), type(sample), MESSAGE_LIMIT)


@pytest.mark.parametrize("sample", SAMPLES, ids=ids)
def test_a_message_over_the_limit_is_refused(sample):
    data = msgspec.json.encode(sample)
    with pytest.raises(WireError) as caught:
        decode_json(data + b" " * MESSAGE_LIMIT, type(sample), MESSAGE_LIMIT)
    assert caught.value.code == Rule.TOO_LARGE


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b'"text"', b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_message_is_refused(data):
    with pytest.raises(WireError) as caught:
        decode_json(data, CheckIn, MESSAGE_LIMIT)
    assert caught.value.code == Rule.BAD_MESSAGE


@pytest.mark.parametrize(
    ("sample", "changes", "error"),
    [
        (
            ASSIGNMENT,
            {"id": "../a"},
            "id = '../a': expected lower-case letters, digits and hyphens",
        ),
        (ASSIGNMENT, {"task": "a\n"}, r"task = 'a\n': expected lower-case letters"),
        (ASSIGNMENT, {"task": "a" * 64}, "63 at most"),
        (ASSIGNMENT, {"task": "-a"}, "no hyphen first"),
        (ASSIGNMENT, {"plan": "sha256:../../x"}, "plan = 'sha256:../../x': expected 'sha256:' and"),
        (ASSIGNMENT, {"deadline": -1}, "deadline = -1: expected `float` >= 0.0"),
        (ASSIGNMENT, {"deadline": 1e300}, "deadline = 1e+300: expected `float` <= 31622400.0"),
        (ASSIGNMENT, {"deadline": None}, "deadline = None: expected `float`, got `null`"),
        (ASSIGNMENT, {"deadline": "10"}, "deadline = '10': expected `float`, got `str`"),
        (ASSIGNMENT, {"seed": 1 << 63}, "seed = 9223372036854775808: expected `int`"),
        (ASSIGNMENT, {"seed": -1}, "seed = -1: expected `int` >= 0"),
        (ASSIGNMENT, {"round": True}, "round = True: expected `int`, got `bool`"),
        (FACTS, {"cores": 10**100}, "cores = 1000000"),
        (FACTS, {"agent": "x" * 101}, "agent = 'xxx"),
        (WAIT, {"reason": "tired"}, "reason = 'tired': expected one of 'no_task', 'task_done', "),
        (EVALUATION, {"metrics": {"a": 1, "b": "x"}}, "metrics.b = 'x': expected `float`"),
        (EVALUATION, {"metrics": {str(n): n for n in range(33)}}, "`object` of length <= 32"),
        (SAMPLES[5], {"labels": {"a": "x" * 101}}, "labels.a = 'xxx"),
        (SAMPLES[7], {"protocols": []}, "protocols: expected `array` of length >= 1"),
        (SAMPLES[7], {"tasks": ["ok", "/etc"]}, "tasks[1] = '/etc': expected lower-case letters"),
        (SAMPLES[7], {"tasks": ["a"] * 1001}, "tasks: expected `array` of length <= 1000"),
    ],
    ids=ids,
)
def test_a_value_out_of_bounds_is_refused(sample, changes, error):
    assert error in refusal(msgspec.to_builtins(sample) | changes, type(sample))


def unbounded(kind: inspect.Type, path: str) -> Iterator[str]:
    """Every string and collection inside `kind` that may be of any length."""
    match kind:
        case inspect.StrType(max_length=None, pattern=None):
            yield path
        case inspect.Metadata(type=inner):
            yield from unbounded(inner, path)
        case inspect.UnionType(types=types):
            for inner in types:
                yield from unbounded(inner, path)
        case inspect.StructType(fields=fields):
            for field in fields:
                yield from unbounded(field.type, f"{path}.{field.name}")
        case inspect.DictType(key_type=key, value_type=value, max_length=limit):
            if limit is None and not isinstance(key, inspect.LiteralType):
                yield path
            yield from unbounded(key, f"{path} keys")
            yield from unbounded(value, f"{path}[]")
        case inspect.VarTupleType(item_type=item, max_length=limit):
            if limit is None:
                yield path
            yield from unbounded(item, f"{path}[]")
        case inspect.ListType() | inspect.AnyType() | inspect.BytesType():
            yield path


@pytest.mark.parametrize(
    "kind",
    [*{type(sample) for sample in SAMPLES}, Manifest, UpdateHeader],
    ids=lambda k: k.__name__,
)
def test_every_string_and_every_collection_has_a_bound(kind):
    assert list(unbounded(inspect.type_info(kind), kind.__name__)) == []


def test_the_header_of_an_update_is_a_message_too():
    assert msgspec.json.decode(msgspec.json.encode(header()), type=UpdateHeader) == header()
