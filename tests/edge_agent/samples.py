"""Valid values for the tests of the device to start from."""

from typing import Any

import msgspec

from edge_agent.eligibility import Verdict
from edge_agent.signals.signal import Signal
from wire.messages import Assignment, CheckInReply, Published, Wait, WaitReason

DIGEST = "sha256:" + "0f" * 32

ELIGIBLE = Verdict((Signal("power", True, "ok", ""), Signal("network", True, "ok", "")))
BUSY = Verdict((Signal("idle", False, "busy", "busy"), Signal("network", True, "ok", "")))
OFFLINE = Verdict((Signal("power", True, "ok", ""), Signal("network", False, "offline", "")))
MEASURING = Verdict((Signal("idle", False, "load_unknown", ""), Signal("network", True, "ok", "")))
VERDICTS = (ELIGIBLE, BUSY, OFFLINE, MEASURING)


def assignment(name: str = "a-1", **changes: Any) -> Assignment:
    """A valid assignment, with `changes`."""
    made = Assignment(
        id=name,
        task="digits",
        round=1,
        version=3,
        plan=DIGEST,
        model=DIGEST,
        codec="float32",
        deadline=100.0,
        upload_limit=1 << 20,
        seed=7,
    )
    return msgspec.structs.replace(made, **changes)


def published(version: int = 3, task: str = "digits") -> Published:
    """A published model."""
    return Published(task=task, version=version, plan=DIGEST, model=DIGEST)


def assigned(work: Assignment | None = None, *models: Published) -> CheckInReply:
    """A reply with work in it."""
    return CheckInReply(protocol=1, assignment=work or assignment(), published=models)


def told_to_wait(after: float, before: float, *models: Published) -> CheckInReply:
    """A reply without work."""
    wait = Wait(reason=WaitReason.ROUND_FULL, after=after, before=before)
    return CheckInReply(protocol=1, wait=wait, published=models)
