"""The fleet's devices: who they are, how they join and leave, when they were last seen."""

import asyncio
import logging
from collections import OrderedDict
from datetime import timedelta
from itertools import islice

import msgspec

from coordinator import credentials
from coordinator.errors import Denied, unknown_device
from coordinator.services import Services
from coordinator.store import devices as store
from coordinator.store.records import DeviceRecord
from coordinator.store.sql import StoreUnavailable
from coordinator.trying import Trying
from schedules.pacing import Hours
from wire.messages import Enroll, Enrolled, Facts

log = logging.getLogger(__name__)

_FLUSH_SECONDS = 60.0  # how often "last seen" goes to disk: nothing depends on it
_KNOWN = 50_000  # devices kept in memory, some 0.7 kB each; the others are looked up
_KINDS = 1000  # facts kept in memory: those of a fleet are few
_FRESH_SECONDS = 10.0  # for so long another process's word on a device may be missed
_PAGE = 1000


class Devices:
    """Devices in the store, the latest in memory."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._known: OrderedDict[str, tuple[DeviceRecord, float]] = OrderedDict()
        self._facts: dict[Facts, Facts] = {}
        self._seen: dict[str, tuple[Facts, float]] = {}
        self._many_seen = asyncio.Event()
        self.population = 0
        self.hours = Hours()

    @property
    def expected(self) -> int:
        """How many devices to reckon with at this time of the day."""
        return self.hours.population(self._services.store.now(), self.population)

    async def check(self, credential: str) -> DeviceRecord:
        """The device whose credential it is. Raises `Denied`."""
        name, secret = credentials.split(credential)
        device = await self.find(name)
        if device is None or not credentials.matches(secret, device.secret):
            raise unknown_device()
        return device

    async def find(self, identifier: str) -> DeviceRecord | None:
        """A device."""
        now = self._services.clock.monotonic()
        found = self._known.get(identifier)
        if found and (not self._services.store.shared or now - found[1] < _FRESH_SECONDS):
            self._known.move_to_end(identifier)
            return found[0]
        device = await self._services.store.read(store.device, identifier)
        if device is None:
            self._known.pop(identifier, None)
            return None
        device = msgspec.structs.replace(device, facts=self._alike(device.facts))
        self._know(device)
        return device

    def _alike(self, facts: Facts) -> Facts:
        """The same facts, in memory once: devices of a kind say the same of themselves."""
        if len(self._facts) >= _KINDS:
            self._facts.clear()
        return self._facts.setdefault(facts, facts)

    def _know(self, device: DeviceRecord) -> None:
        self._known[device.id] = (device, self._services.clock.monotonic())
        self._known.move_to_end(device.id)
        if len(self._known) > _KNOWN:
            self._known.popitem(last=False)

    def forget(self, identifier: str) -> None:
        """A device has left."""
        self._known.pop(identifier, None)
        self._seen.pop(identifier, None)
        self.population = max(0, self.population - 1)

    # Joining

    async def new_token(self, uses: int, lifetime: timedelta) -> str:
        """An enrolment token, good for `uses` devices; shown this once."""
        token, secret = credentials.new_id("join"), credentials.new_secret()
        await self._services.store.run(
            store.add_token,
            token,
            credentials.hashed(secret),
            uses,
            self._services.store.now() + lifetime.total_seconds(),
        )
        return f"{token}.{secret}"

    async def check_token(self, token: str) -> str:
        """The id of an enrolment token that is good now. Raises `Denied`."""
        name, secret = credentials.split(token)
        database = self._services.store
        stored = await database.read(store.token_secret, name, database.now())
        if stored is None or not credentials.matches(secret, stored):
            raise _bad_token()
        return name

    async def enroll(self, token: str, message: Enroll) -> Enrolled:
        """Add a device. Raises `Denied` when the token is not good (any more)."""
        name, now = await self.check_token(token), self._services.store.now()
        own = credentials.new_secret()
        device = DeviceRecord(
            id=credentials.new_id("device"),
            name=message.name,
            secret=credentials.hashed(own),
            labels=message.labels,
            facts=self._alike(message.facts),
            enrolled=now,
            seen=now,
        )
        if not await self._services.store.run(store.enroll, device, name):
            raise _bad_token()
        self._know(device)
        self.population += 1
        log.info("device %s (%s) enrolled", device.id, device.name)
        return Enrolled(device=device.id, secret=f"{device.id}.{own}")

    # Being seen

    def saw(self, device: str, facts: Facts) -> None:
        """A device checks in."""
        self._seen[device] = (self._alike(facts), self._services.store.now())
        if len(self._seen) >= _PAGE:
            self._many_seen.set()

    def seen_lately(self, identifier: str) -> float | None:
        """When a device last checked in here, if that is not in the store yet."""
        found = self._seen.get(identifier)
        return None if found is None else found[1]

    def last_seen(self, device: DeviceRecord) -> float:
        """When the device last checked in, in seconds since the epoch, as far as is known here."""
        return max(device.seen, self._seen[device.id][1] if device.id in self._seen else 0.0)

    async def run(self) -> None:
        """Write down now and then when devices were seen, and count them."""
        trying = Trying("devices are not counted")
        while True:
            async with trying:
                self.population = await self._services.store.read(store.population)
                await self._flush_for(_FLUSH_SECONDS)
                # The store knows of all processes.
                self.hours = await self._services.store.run(store.learn, self._services.store.now())

    async def _flush_for(self, seconds: float) -> None:
        """Flush at the end of so many seconds, and before that whenever there is much to write."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (left := until - loop.time()) > 0:
            try:
                async with asyncio.timeout(left):
                    await self._many_seen.wait()
            except TimeoutError:
                pass
            self._many_seen.clear()
            await self.flush()

    async def flush(self) -> None:
        """Write down when devices were last seen."""
        seen, self._seen = self._seen, {}
        for device, (facts, now) in seen.items():
            if found := self._known.get(device):
                fresh = msgspec.structs.replace(found[0], facts=facts, seen=now)
                self._known[device] = (fresh, found[1])
        try:
            rest = iter(seen.items())
            while page := dict(islice(rest, _PAGE)):
                await self._services.store.run(store.saw, page)
        except StoreUnavailable as error:
            log.warning("when devices were last seen is not written: %s", error)


def _bad_token() -> Denied:
    return Denied("bad_token", "the enrolment token is wrong, used up or expired")
