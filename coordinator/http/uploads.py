"""Resumable uploads of updates, after the IETF draft "Resumable Uploads for HTTP".

    POST  /v1/assignments/{id}/update   announce: Upload-Length, Repr-Digest. 201, Upload-Offset
    HEAD  /v1/assignments/{id}/update   where to go on: Upload-Offset
    PATCH /v1/assignments/{id}/update   the bytes from Upload-Offset on. 200, Acknowledgement

The upload's address is its assignment's, so announcing twice is harmless and an update that is
sent twice counts once. What arrived before a cut stays. Only `accepted` lets the device forget.
Draft: draft-ietf-httpbis-resumable-upload; digests: RFC 9530.
"""

import asyncio
import base64
import binascii
import re

from aiohttp import web

from coordinator.errors import Conflict, NotFound, Refused, TooLarge
from coordinator.http.common import coordinator_of, for_device, json_answer, next_chunk
from coordinator.service import Coordinator
from coordinator.store.records import AssignmentRecord, DeviceRecord
from wire.messages import Acknowledgement, UploadState

PARTIAL_UPLOAD = "application/partial-upload"
_WRITE_BYTES = 64 << 10  # gathered before they go to disk; what one upload holds in memory
_SHA256 = re.compile(r"sha-256=:([A-Za-z0-9+/=]{44}):")


async def announce(request: web.Request, device: DeviceRecord) -> web.StreamResponse:
    """POST: the device says what it is about to send."""
    assignment = request.match_info["assignment"]
    length, digest = _whole_number(request, "Upload-Length"), _digest(request)
    task = await coordinator_of(request).task_of(assignment, device.id)
    if task is None or await task.announce(assignment, length, digest) is UploadState.ACCEPTED:
        return _accepted(length)
    offset = await _offset(coordinator_of(request), assignment)
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
    assignment = request.match_info["assignment"]
    task = await coordinator_of(request).task_of(assignment, device.id)
    row = await _announced(coordinator_of(request), assignment)
    accepted = task is None or row.state == "accepted"
    arrived = row.length if accepted else await _offset(coordinator_of(request), assignment)
    return web.Response(
        status=204,
        headers={
            "Upload-Offset": str(arrived),
            "Upload-Length": str(row.length),
            "Upload-Complete": "?1" if accepted else "?0",
            "Cache-Control": "no-store",
        },
    )


async def append(request: web.Request, device: DeviceRecord) -> web.StreamResponse:
    """PATCH: the bytes from an offset on; the last ones are answered when they are durable."""
    coordinator, assignment = coordinator_of(request), request.match_info["assignment"]
    start = _whole_number(request, "Upload-Offset")
    task = await coordinator.task_of(assignment, device.id)
    row = await _announced(coordinator, assignment)
    assert row.length is not None
    if task is None or row.state == "accepted":
        return _accepted(row.length)
    held = await _offset(coordinator, assignment)
    if start > held:
        raise Conflict(
            "wrong_offset", f"{held} bytes are here, not {start}", {"Upload-Offset": str(held)}
        )
    arrived = await _receive(request, coordinator, assignment, start, row.length)
    if arrived < row.length:
        return json_answer(Acknowledgement(state=UploadState.INCOMPLETE, offset=arrived))
    await task.submit(assignment)
    return _accepted(row.length)


async def _receive(
    request: web.Request, coordinator: Coordinator, assignment: str, start: int, length: int
) -> int:
    """Write the body to the spool; returns the offset reached. A cut keeps what came before it."""
    pending, position = bytearray(), start
    spool, counter = coordinator.services.spool, coordinator.services.metrics.bytes_in

    async def write() -> None:
        nonlocal position
        data = bytes(pending)
        pending.clear()
        position = await asyncio.to_thread(spool.write, assignment, position, data)
        counter.inc(len(data))

    try:
        while chunk := await next_chunk(request):
            pending += chunk
            if position + len(pending) > length:
                raise TooLarge("too_large", f"more than the {length} bytes that were announced")
            if len(pending) >= _WRITE_BYTES:
                await write()
    finally:
        if pending and position + len(pending) <= length:
            await write()
    return position


async def _offset(coordinator: Coordinator, assignment: str) -> int:
    return await asyncio.to_thread(coordinator.services.spool.size, assignment)


async def _announced(coordinator: Coordinator, assignment: str) -> AssignmentRecord:
    row = await coordinator.services.worker.call(
        coordinator.services.database.assignment, assignment
    )
    if row is None or row.length is None:
        raise NotFound("not_announced", "announce the upload first, with POST")
    return row


def _accepted(length: int) -> web.Response:
    answer = json_answer(Acknowledgement(state=UploadState.ACCEPTED, offset=length))
    answer.headers["Upload-Complete"] = "?1"
    return answer


def _whole_number(request: web.Request, header: str) -> int:
    text = request.headers.get(header, "")
    if not re.fullmatch(r"\d{1,15}", text):
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
        web.post(path, for_device(announce)),
        web.head(path, for_device(offset)),
        web.patch(path, for_device(append)),
    ]
