"""An upload's steps, one by one, as no agent of ours takes them."""

import base64
from collections.abc import AsyncIterator

from edge_agent.transport import Transport
from wire.digest import hex_of
from wire.messages import Acknowledgement


class Steps(Transport):
    """The agent's transport, an upload's steps one by one."""

    async def announce(self, assignment: str, length: int, digest: str) -> int | None:
        headers = _announcement(length, digest)
        async with self._request("POST", _path(assignment), headers=headers) as answer:
            done = answer.headers.get("Upload-Complete") == "?1"
            return None if done else int(answer.headers["Upload-Offset"])

    async def send(
        self, assignment: str, data: bytes | AsyncIterator[bytes], length: int, digest: str
    ) -> Acknowledgement:
        headers = _announcement(length, digest) | {"Upload-Complete": "?1"}
        body = _pieces(data) if isinstance(data, bytes) else data
        async with self._request("POST", _path(assignment), body, headers) as answer:
            return await self._decode(answer, Acknowledgement)

    async def held(self, assignment: str) -> int:
        async with self._request("HEAD", _path(assignment)) as answer:
            return int(answer.headers["Upload-Offset"])

    async def append(
        self, assignment: str, offset: int, data: bytes | AsyncIterator[bytes]
    ) -> Acknowledgement:
        headers = {"Upload-Offset": str(offset), "Content-Type": "application/partial-upload"}
        body = _pieces(data) if isinstance(data, bytes) else data
        async with self._request("PATCH", _path(assignment), body, headers) as answer:
            return await self._decode(answer, Acknowledgement)


def _announcement(length: int, digest: str) -> dict[str, str]:
    sha256 = base64.b64encode(bytes.fromhex(hex_of(digest))).decode()
    return {"Upload-Length": str(length), "Repr-Digest": f"sha-256=:{sha256}:"}


def _path(assignment: str) -> str:
    return f"/v1/assignments/{assignment}/update"


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1 << 16):
        yield data[start : start + (1 << 16)]
