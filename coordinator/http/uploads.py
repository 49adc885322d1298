"""Resumable uploads of updates, after the IETF draft "Resumable Uploads for HTTP".

    POST  /v1/assignments/{id}/update   announce: Upload-Length, Repr-Digest. 201, Upload-Offset
    HEAD  /v1/assignments/{id}/update   where to go on: Upload-Offset
    PATCH /v1/assignments/{id}/update   the bytes from Upload-Offset on. 200, Acknowledgement

A POST with `Upload-Complete: ?1` brings all of the bytes with it, and is answered as a PATCH is.
The upload's address is its assignment's, so announcing twice is harmless and an update that is
sent twice counts once. What arrived before a cut stays. Only `accepted` lets the device forget.
Draft: draft-ietf-httpbis-resumable-upload; digests: RFC 9530.
"""

import base64
import binascii
import re

from aiohttp import web

from coordinator.errors import Conflict, Refused
from coordinator.http.common import Body, coordinator_of, for_device, json_answer
from coordinator.store.records import AssignmentRecord, DeviceRecord
from coordinator.task import Task
from coordinator.uploads import Incoming
from wire.messages import Acknowledgement, UploadState

_WHOLE_NUMBER = re.compile(r"[0-9]{1,15}")
_SHA256 = re.compile(r"sha-256=:([A-Za-z0-9+/=]{44}):")


async def create(request: web.Request, device: DeviceRecord) -> web.StreamResponse:
    """POST: the device says what it is about to send, or sends it."""
    uploads = coordinator_of(request).uploads
    row, task = await uploads.find(request.match_info["assignment"], device.id)
    length, digest = _whole_number(request, "Upload-Length"), _digest(request)
    if row.state == "accepted":
        uploads.again(task)
        return _accepted(length)
    await uploads.check_length(row, task, length)
    if request.headers.get("Upload-Complete") == "?1":
        return await _receive(request, row, task, length, digest)
    offset = await uploads.announce(row.id, length, digest)
    return web.Response(
        status=201,
        headers={
            "Location": str(request.rel_url),
            "Upload-Offset": str(offset),
            "Upload-Complete": "?0",
            "Upload-Limit": f"max-size={task.upload_limit}",
        },
    )


async def offset(request: web.Request, device: DeviceRecord) -> web.StreamResponse:
    """HEAD: how much has arrived."""
    uploads = coordinator_of(request).uploads
    row, _ = await uploads.find(request.match_info["assignment"], device.id)
    accepted = row.state == "accepted"
    length = (row.length or 0) if accepted else (await uploads.announced(row.id))[0]
    arrived = length if accepted else await uploads.offset(row.id)
    return web.Response(
        status=204,
        headers={
            "Upload-Offset": str(arrived),
            "Upload-Length": str(length),
            "Upload-Complete": "?1" if accepted else "?0",
            "Cache-Control": "no-store",
        },
    )


async def append(request: web.Request, device: DeviceRecord) -> web.StreamResponse:
    """PATCH: the bytes from an offset on; the last ones are answered when they are durable."""
    uploads = coordinator_of(request).uploads
    row, task = await uploads.find(request.match_info["assignment"], device.id)
    start = _whole_number(request, "Upload-Offset")
    if row.state == "accepted":
        uploads.again(task)
        return _accepted(row.length or 0)
    length, digest = await uploads.announced(row.id)
    # A wrong offset is told before the body is read.
    if start > (held := await uploads.offset(row.id)):
        detail = f"{held} bytes are here, not {start}"
        raise Conflict("wrong_offset", detail, {"Upload-Offset": str(held)})
    return await _receive(request, row, task, length, digest, start=start, announced=True)


async def _receive(
    request: web.Request,
    row: AssignmentRecord,
    task: Task,
    length: int,
    digest: str,
    *,
    start: int = 0,
    announced: bool = False,
) -> web.StreamResponse:
    """Take the body; when the upload is complete with it, answer once it counts."""
    coordinator = coordinator_of(request)
    async with Incoming(
        *(coordinator.uploads, coordinator.services, row.id, length, digest),
        start=start,
        announced=announced,
    ) as incoming:
        body = Body(request)
        while chunk := await body.next():
            await incoming.take(chunk)
            chunk = b""  # half a megabyte, at worst, is not held while more is awaited
        data = await incoming.whole()
    if data is None and incoming.position < length:
        reached = Acknowledgement(state=UploadState.INCOMPLETE, offset=incoming.position)
        return json_answer(reached)
    await coordinator.uploads.submit(row, task, length, digest, data)
    return _accepted(length)


def _accepted(length: int) -> web.Response:
    answer = json_answer(Acknowledgement(state=UploadState.ACCEPTED, offset=length))
    answer.headers["Upload-Complete"] = "?1"
    return answer


def _whole_number(request: web.Request, header: str) -> int:
    text = request.headers.get(header, "")
    if not _WHOLE_NUMBER.fullmatch(text):
        raise Refused("bad_header", f"{header}: expected a whole number, found {text[:40]!r}")
    return int(text)


def _digest(request: web.Request) -> str:
    match = _SHA256.search(request.headers.get("Repr-Digest", ""))
    try:
        raw = base64.b64decode(match[1], validate=True) if match else b""
    except binascii.Error:
        raw = b""
    if len(raw) != 32:
        raise Refused("bad_header", "Repr-Digest: expected 'sha-256=:<base64>:'")
    return f"sha256:{raw.hex()}"


def routes() -> list[web.RouteDef]:
    """This module's routes."""
    path = "/v1/assignments/{assignment}/update"
    return [
        web.post(path, for_device(create)),
        web.head(path, for_device(offset)),
        web.patch(path, for_device(append)),
    ]
