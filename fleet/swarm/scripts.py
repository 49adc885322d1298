"""What devices ask for, as scripts and as bytes."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from fleet.clients import FACTS
from fleet.swarm.line import Answer, Script
from fleet.swarm.mould import Body
from wire import PROTOCOL_VERSIONS
from wire.messages import (
    Acknowledgement,
    CheckIn,
    CheckInReply,
    Enroll,
    Enrolled,
    Problem,
    UploadState,
)

_ACKNOWLEDGEMENT = msgspec.json.Decoder(Acknowledgement)


class Said(NamedTuple):
    """How an upload ended: the status and, where it was refused, the code of the refusal."""

    status: int
    code: str = ""
    accepted: bool = False


class Unexpected(Exception):
    """The coordinator said no where a load test takes a yes for granted."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"status {answer.status}: {answer.body[:300]!r}")


def enroll(token: str, labels: Mapping[str, str] | None = None) -> Script[Enrolled]:
    """A device joins by an enrolment token. Raises `Unexpected`."""
    message = Enroll(name="swarm", labels=dict(labels or {}), facts=FACTS)
    answer = yield request("POST", "/v1/enroll", token, msgspec.json.encode(message))
    return msgspec.json.decode(_good(answer), type=Enrolled)


def check_in(secret: str, tasks: tuple[str, ...] | None = None) -> Script[CheckInReply]:
    """A device asks for work. Raises `Unexpected`."""
    message = CheckIn(protocols=PROTOCOL_VERSIONS, facts=FACTS, tasks=tasks)
    answer = yield request("POST", "/v1/check-in", secret, msgspec.json.encode(message))
    return msgspec.json.decode(_good(answer), type=CheckInReply)


def deliver(post: bytes) -> Script[Said]:
    """Upload by a request of `update_request`; where the coordinator wants the bytes after an
    announcement, by a second one."""
    answer = yield post
    if answer.status == 201:
        head, _, body = post.partition(b"\r\n\r\n")
        path, secret = head.split(b" ", 2)[1], head.partition(b"Bearer ")[2].split(b"\r\n")[0]
        offset = int(answer.header(b"upload-offset"))
        answer = (
            yield append_head(path.decode(), secret.decode(), offset, len(body)) + body[offset:]
        )
    return said(answer)


def said(answer: Answer) -> Said:
    """What the coordinator says of an upload."""
    if answer.status == 200:
        state = _ACKNOWLEDGEMENT.decode(answer.body).state
        return Said(200, accepted=state is UploadState.ACCEPTED)
    try:
        return Said(answer.status, msgspec.json.decode(answer.body, type=Problem).code)
    except msgspec.DecodeError:
        return Said(answer.status, "no problem document")


def request(method: str, path: str, secret: str, body: bytes = b"", headers: str = "") -> bytes:
    """A request with a JSON body; `headers` are whole lines."""
    return (
        f"{method} {path} HTTP/1.1\r\nHost: swarm\r\nAuthorization: Bearer {secret}\r\n"
        f"Content-Length: {len(body)}\r\n{headers}\r\n"
    ).encode() + body


def update_path(assignment: str) -> str:
    """Where an assignment's update goes."""
    return f"/v1/assignments/{assignment}/update"


def update_request(secret: str, assignment: str, body: Body) -> bytes:
    """An upload in one request."""
    announced = _announced(body) + "Upload-Complete: ?1\r\n"
    whole = body.front + body.tail
    return request("POST", update_path(assignment), secret, whole, announced)


def announcement(secret: str, assignment: str, body: Body) -> bytes:
    """An upload is about to start; its bytes come later."""
    return request("POST", update_path(assignment), secret, b"", _announced(body))


def append_head(path: str, secret: str, offset: int, length: int) -> bytes:
    """The head of a PATCH that brings the rest of `length` bytes from `offset` on."""
    return (
        f"PATCH {path} HTTP/1.1\r\nHost: swarm\r\nAuthorization: Bearer {secret}\r\n"
        f"Upload-Offset: {offset}\r\nUpload-Complete: ?1\r\n"
        "Content-Type: application/partial-upload\r\n"
        f"Content-Length: {length - offset}\r\n\r\n"
    ).encode()


def _announced(body: Body) -> str:
    return f"Upload-Length: {body.length}\r\nRepr-Digest: {body.digest}\r\n"


def _good(answer: Answer) -> bytes:
    if answer.status >= 300:
        raise Unexpected(answer)
    return answer.body
