"""Control messages between a device and the coordinator, JSON, checked on both sides.

Times are durations in seconds ("in 340 s"), never clock readings: a Raspberry Pi has no clock
battery. Every collection and every string has a bound.
"""

from enum import StrEnum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from wire.digest import Digest

MESSAGE_LIMIT = 1 << 20
"""Bytes of a control message, at most."""

Identifier = Annotated[
    str,
    Meta(
        pattern=r"\A[a-z0-9][a-z0-9-]{0,62}\Z",
        description="lower-case letters, digits and hyphens (63 at most, no hyphen first)",
    ),
]
"""Names of tasks, devices and assignments: safe in a URL, as a file name and in a log line."""
_ONE_LINE = r"\A[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z"  # a terminal obeys U+009B as it does ESC [
Label = Annotated[
    str,
    Meta(
        max_length=100,
        pattern=_ONE_LINE,
        description="at most 100 characters, none of them a control character",
    ),
]
"""One line for people: what a device says must not forge lines of a log."""
Labels = Annotated[dict[Label, Label], Meta(max_length=32)]
LONGEST_TIME = 366 * 86400.0
"""Seconds that a message tells at most: a leap year."""
Seconds = Annotated[float, Meta(ge=0, le=LONGEST_TIME)]
Count = Annotated[int, Meta(ge=0, le=1 << 53)]
Text = Annotated[
    str,
    Meta(
        max_length=500,
        pattern=_ONE_LINE,
        description="at most 500 characters, none of them a control character",
    ),
]


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A control message."""


class Facts(Message, frozen=True, kw_only=True):
    """What a device is and can run."""

    agent: Label
    machine: Label
    system: Label
    python: Label
    runtime: Label
    cores: Count
    memory_bytes: Count


class Enroll(Message, frozen=True, kw_only=True):
    """A device asks to join; the enrolment token is the request's credential."""

    name: Label
    labels: Labels = {}
    facts: Facts


class Enrolled(Message, frozen=True, kw_only=True):
    """The device's identity. The secret is shown once and is the credential of every request."""

    device: Identifier
    secret: Annotated[str, Meta(min_length=20, max_length=200)]


class Spoken(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a check-in that every version must be able to read: the protocol versions that
    the device speaks. Whatever else is there is passed over."""

    protocols: Annotated[tuple[int, ...], Meta(min_length=1, max_length=16)]


class Evaluation(Message, frozen=True, kw_only=True, omit_defaults=True):
    """A published model on the device's held-out examples: metrics and counts, nothing else.
    `personal`: the metrics of the device's own version of that model on the same examples; left out
    where there is none, since older coordinators do not know it."""

    task: Identifier
    version: Count
    examples: Annotated[int, Meta(ge=1, le=1 << 53)]
    metrics: Annotated[dict[Label, float], Meta(max_length=32)]
    personal: Annotated[dict[Label, float], Meta(max_length=32)] = {}


class CheckIn(Message, frozen=True, kw_only=True):
    """A device that may work asks for some. `tasks`: those it has examples for; `None` is any, but
    `without` those for which it lately found none."""

    protocols: Annotated[tuple[int, ...], Meta(min_length=1, max_length=16)]
    facts: Facts
    tasks: Annotated[tuple[Identifier, ...], Meta(max_length=1000)] | None = None
    without: Annotated[tuple[Identifier, ...], Meta(max_length=1000)] = ()
    evaluations: Annotated[tuple[Evaluation, ...], Meta(max_length=100)] = ()


class Assignment(Message, frozen=True, kw_only=True):
    """Work for one device: train `plan` from `model`, upload within `deadline` seconds.

    One assignment takes one update: the assignment's id is the update's, so an update that is
    sent twice counts once.
    """

    id: Identifier
    task: Identifier
    round: Count
    version: Count
    plan: Digest
    model: Digest
    codec: Label
    deadline: Seconds
    upload_limit: Count
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class WaitReason(StrEnum):
    """Why there is no work now."""

    NO_TASK = "no_task"
    TASK_DONE = "task_done"
    ROUND_FULL = "round_full"
    ALREADY_SERVED = "already_served"
    WINDOW_CLOSED = "window_closed"
    NOT_SELECTED = "not_selected"
    RESTING = "resting"
    BUSY = "busy"


class Wait(Message, frozen=True, kw_only=True):
    """No work now: check in again between `after` and `before` seconds from now."""

    reason: WaitReason
    after: Seconds
    before: Seconds


class Published(Message, frozen=True, kw_only=True):
    """The newest model of a task."""

    task: Identifier
    version: Count
    plan: Digest
    model: Digest


class CheckInReply(Message, frozen=True, kw_only=True):
    """An assignment, or how long to wait; and the newest models of the device's tasks."""

    protocol: int
    assignment: Assignment | None = None
    wait: Wait | None = None
    published: Annotated[tuple[Published, ...], Meta(max_length=1000)] = ()


class GiveUp(Message, frozen=True, kw_only=True):
    """The device will not deliver an assignment, and why (a stable code and a sentence)."""

    reason: Label
    detail: Text = ""


class Left(Message, frozen=True, kw_only=True):
    """A device has left. Of its accepted updates, `dropped` were not yet in a published model and
    never will be; `published` are in one for good."""

    dropped: Count
    published: Count


class UploadState(StrEnum):
    """What became of an update."""

    INCOMPLETE = "incomplete"
    ACCEPTED = "accepted"


class Acknowledgement(Message, frozen=True, kw_only=True):
    """`accepted` means durable: only then may the device forget the update."""

    state: UploadState
    offset: Count


class Problem(Message, frozen=True, kw_only=True):
    """An error, as an RFC 9457 problem document. `code` is stable; `detail` is for people."""

    type: Text
    title: Text
    status: Annotated[int, Meta(ge=400, le=599)]
    code: Label
    detail: Annotated[str, Meta(max_length=2000)] = ""


PROBLEM_TYPE: Literal["application/problem+json"] = "application/problem+json"
