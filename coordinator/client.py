"""The admin API's client: what the command line, the demo and scripts use."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import aiohttp
import msgspec

from coordinator.figures import EvaluationsView
from coordinator.server import ENDPOINT_FILE, Endpoint
from coordinator.start import ADMIN_FILE
from coordinator.views import (
    DevicePage,
    DeviceView,
    NewTask,
    NewToken,
    RoundSummary,
    RoundView,
    TaskDetail,
    TaskView,
    Token,
)
from wire.digest import digest_of, verify
from wire.messages import Left, Problem, Published

T = TypeVar("T")
PAGE = 1000
_CONTROL = aiohttp.ClientTimeout(total=30, connect=10)
_IDLE_SECONDS = 60.0  # a blob may take as long as it takes, but must go on
_BLOB = aiohttp.ClientTimeout(total=None, connect=10, sock_read=_IDLE_SECONDS)
_PIECE = 64 << 10
_INPUT = (400, 404, 409, 413, 422)


class ClientError(Exception):
    """The coordinator does not answer, or says no; one line for a person."""


class InputError(ClientError):
    """What was asked for cannot be: another word from the person who asks is needed."""


class AdminClient:
    """`async with AdminClient(...)`: one method a route. Raises `ClientError`."""

    def __init__(self, url: str, token: str, ca: str | None = None, any_name: bool = False) -> None:
        """`ca` is a certificate authority, PEM text. `any_name` trusts its holder by any name."""
        self.url = url.rstrip("/")
        self._token = token
        self._ca = ca
        self._any_name = any_name

    @classmethod
    def of_state(cls, state: Path) -> "AdminClient":
        """The client of the coordinator that runs on this machine over the folder `state`.

        The folder is its owner's alone, so the certificate in it is trusted as it is.
        """
        try:
            endpoint = msgspec.json.decode((state / ENDPOINT_FILE).read_bytes(), type=Endpoint)
            token = (state / ADMIN_FILE).read_text().strip()
        except FileNotFoundError:
            raise ClientError(
                f"no coordinator runs over {state}: start one with 'coordinator serve', or name "
                "another with --url and --token-file"
            ) from None
        except (OSError, msgspec.DecodeError) as error:
            raise ClientError(f"{error}: ask as the coordinator's own user, or with sudo") from None
        return cls(endpoint.url, token, endpoint.certificate, any_name=True)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls()),
            headers={"Authorization": f"Bearer {self._token}"},
            timeout=_CONTROL,
        )
        return self

    def _tls(self) -> ssl.SSLContext | bool:
        if self._ca is None:
            return True
        try:
            context = ssl.create_default_context(cadata=self._ca)
        except ssl.SSLError as error:
            raise ClientError(f"the certificate cannot be used: {error}") from None
        if self._any_name:
            context.check_hostname = False
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def tasks(self) -> list[TaskView]:
        """Every task at a glance."""
        return await self._ask(list[TaskView], "GET", "tasks")

    async def task(self, name: str) -> TaskDetail:
        """One task with its last rounds."""
        return await self._ask(TaskDetail, "GET", f"tasks/{_part(name)}")

    async def evaluations(
        self, name: str, last: int = 20, before: int | None = None
    ) -> EvaluationsView:
        """What devices say of the last versions, at most 1000, before this one; the newest first.
        Of a large fleet some may be `left`: ask for so many `before`, as the view says."""
        path = f"tasks/{_part(name)}/evaluations?last={last}"
        more = "" if before is None else f"&before={before}"
        return await self._ask(EvaluationsView, "GET", path + more)

    async def rounds(self, name: str, last: int = 20) -> list[RoundSummary]:
        """The last rounds of a task, oldest first."""
        return await self._ask(list[RoundSummary], "GET", f"tasks/{_part(name)}/rounds?last={last}")

    async def round(self, name: str, number: int, after: str = "", limit: int = PAGE) -> RoundView:
        """One round and up to `limit` of those in it, at most 5000; `after` is the last view's."""
        path = f"tasks/{_part(name)}/rounds/{number}?limit={limit}"
        return await self._ask(RoundView, "GET", path + (f"&after={after}" if after else ""))

    async def model(self, name: str, version: int) -> Published:
        """A published model of a task."""
        return await self._ask(Published, "GET", f"tasks/{_part(name)}/models/{version}")

    async def stop(self, name: str) -> TaskView:
        """Stop a task."""
        return await self._ask(TaskView, "POST", f"tasks/{_part(name)}/stop")

    async def devices(self) -> list[DeviceView]:
        """Every enrolled device."""
        page = await self.device_page()
        found = page.devices
        while page.after:
            page = await self.device_page(page.after)
            found += page.devices
        return found

    async def device_page(
        self, after: str = "", limit: int = PAGE, resting: bool = False
    ) -> DevicePage:
        """Up to `limit` devices, at most 5000; `after` is the last page's. With `resting` those of
        them that rest now, since they keep failing."""
        path = f"devices?limit={limit}&resting={int(resting)}"
        return await self._ask(DevicePage, "GET", path + (f"&after={after}" if after else ""))

    async def remove(self, device: str) -> Left:
        """Remove a device from the fleet, as if it had left by itself."""
        return await self._ask(Left, "DELETE", f"devices/{_part(device, 'device')}")

    async def token(self, uses: int, lifetime: float) -> str:
        """A new enrolment token."""
        made = await self._ask(
            Token, "POST", "tokens", msgspec.json.encode(NewToken(uses=uses, lifetime=lifetime))
        )
        return made.token

    async def create(self, definition: str, manifest: bytes, blobs: list[bytes]) -> TaskView:
        """Store a plan's manifest, its files and the first model (the last); start the task."""
        for data in (manifest, *blobs):
            await self._send("PUT", f"blobs/{digest_of(data)}", data)
        new = NewTask(definition=definition, plan=digest_of(manifest), model=digest_of(blobs[-1]))
        return await self._ask(TaskView, "POST", "tasks", msgspec.json.encode(new))

    async def blob(self, digest: str) -> bytes:
        """A plan's file or a model, its digest checked."""
        data = await self._send("GET", f"blobs/{digest}")
        verify(data, digest)
        return data

    async def metrics(self) -> str:
        """The coordinator's metrics, as Prometheus reads them."""
        return (await self._send("GET", "/metrics")).decode()

    async def _ask(self, kind: type[T], method: str, path: str, data: bytes | None = None) -> T:
        answer = await self._send(method, path, data)
        try:
            return msgspec.json.decode(answer, type=kind)
        except msgspec.DecodeError as error:
            raise ClientError(f"{self.url} does not speak this protocol: {error}") from None

    async def _send(self, method: str, path: str, data: bytes | None = None) -> bytes:
        target = self.url + (path if path.startswith("/") else f"/v1/admin/{path}")
        # Identity: the client library may not know zstd, and the way here is short.
        headers = {"Accept-Encoding": "identity"}
        if data is not None:
            headers["Content-Length"] = str(len(data))
        blob = path.startswith("blobs/")
        try:
            async with (
                asyncio.timeout(_IDLE_SECONDS if blob else None) as patience,
                self._session.request(
                    method,
                    target,
                    data=None if data is None else _pieces(data, patience),
                    headers=headers,
                    timeout=_BLOB if blob else _CONTROL,
                ) as answer,
            ):
                patience.reschedule(None)  # the answer's bytes have a bound of their own
                content = await answer.read()
        except TimeoutError:
            raise ClientError(f"{self.url} does not answer in time") from None
        except (aiohttp.ClientError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise ClientError(f"{self.url} does not answer: {reason}") from None
        if answer.status >= 400:
            kind = InputError if answer.status in _INPUT else ClientError
            raise kind(_explain(content, answer.status))
        return content


async def _pieces(data: bytes, patience: asyncio.Timeout) -> AsyncIterator[bytes]:
    """A body in pieces; whoever waits for them has new patience with each."""
    loop = asyncio.get_running_loop()
    for start in range(0, len(data), _PIECE):
        if patience.when() is not None:
            patience.reschedule(loop.time() + _IDLE_SECONDS)
        yield data[start : start + _PIECE]


def _explain(content: bytes, status: int) -> str:
    try:
        return msgspec.json.decode(content, type=Problem).detail
    except msgspec.DecodeError:
        return f"the coordinator answered with status {status}"


def _part(name: str, of: str = "task") -> str:
    """A name as one part of an address. Raises `InputError` when it can be nobody's."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name):
        raise InputError(f"{name!r} is no {of}'s name: lower case letters, digits and hyphens")
    return name
