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
from typing import NamedTuple

from aiohttp import web

from coordinator.errors import NotFound, Refused, TooLarge
from coordinator.http.common import coordinator_of, for_device, json_answer, next_chunk
from coordinator.running import RunningTask
from coordinator.service import Coordinator
from coordinator.store.records import DeviceRecord
from wire.messages import Acknowledgement, UploadState

_WRITE_BYTES = 64 << 10  # gathered before they go to disk; what one upload holds in memory
_SHA256 = re.compile(r"sha-256=:([A-Za-z0-9+/=]{44}):")


class _Upload(NamedTuple):
    """An upload as it was announced."""

    assignment: str
    digest: str
    length: int
    accepted: bool


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
    upload = await _announced(coordinator_of(request), assignment)
    accepted = task is None or upload.accepted
    arrived = upload.length if accepted else await _offset(coordinator_of(request), assignment)
    return web.Response(
        status=204,
        headers={
            "Upload-Offset": str(arrived),
            "Upload-Length": str(upload.length),
            "Upload-Complete": "?1" if accepted else "?0",
            "Cache-Control": "no-store",
        },
    )


async def append(request: web.Request, device: DeviceRecord) -> web.StreamResponse:
    """PATCH: the bytes from an offset on; the last ones are answered when they are durable."""
    coordinator, assignment = coordinator_of(request), request.match_info["assignment"]
    start = _whole_number(request, "Upload-Offset")
    task = await coordinator.task_of(assignment, device.id)
    upload = await _announced(coordinator, assignment)
    if task is None or upload.accepted:
        return _accepted(upload.length)
    # A wrong offset is told before the body is read.
    await task.write(assignment, upload.digest, start, b"")
    arrived = await _receive(request, task, upload, start)
    if arrived < upload.length:
        return json_answer(Acknowledgement(state=UploadState.INCOMPLETE, offset=arrived))
    await task.submit(assignment, upload.digest)
    return _accepted(upload.length)


async def _receive(request: web.Request, task: RunningTask, upload: _Upload, start: int) -> int:
    """Write the body to the spool; returns the offset reached. A cut keeps what came before it."""
    pending, position = bytearray(), start
    counter = coordinator_of(request).services.metrics.bytes_in

    async def write() -> None:
        nonlocal position
        data = bytes(pending)
        pending.clear()
        position = await task.write(upload.assignment, upload.digest, position, data)
        counter.inc(len(data))

    try:
        while chunk := await next_chunk(request):
            pending += chunk
            if position + len(pending) > upload.length:
                detail = f"more than the {upload.length} bytes that were announced"
                raise TooLarge("too_large", detail)
            if len(pending) >= _WRITE_BYTES:
                await write()
    finally:
        if pending and position + len(pending) <= upload.length:
            await write()
    return position


async def _offset(coordinator: Coordinator, assignment: str) -> int:
    return await asyncio.to_thread(coordinator.services.spool.size, assignment)


async def _announced(coordinator: Coordinator, assignment: str) -> _Upload:
    row = await coordinator.services.worker.call(
        coordinator.services.database.assignment, assignment
    )
    if row is None or row.length is None or row.digest is None:
        raise NotFound("not_announced", "announce the upload first, with POST")
    return _Upload(assignment, row.digest, row.length, row.state == "accepted")


def _accepted(length: int) -> web.Response:
    answer = json_answer(Acknowledgement(state=UploadState.ACCEPTED, offset=length))
    answer.headers["Upload-Complete"] = "?1"
    return answer


def _whole_number(request: web.Request, header: str) -> int:
    text = request.headers.get(header, "")
    if not re.fullmatch(r"[0-9]{1,15}", text):
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
