"""What devices say of a task's models, as far as this process has looked."""

from collections.abc import Mapping
from typing import NamedTuple

from coordinator.figures import EvaluationsView, MetricView, VersionView, metric_views
from coordinator.store import evaluations as stored
from coordinator.store.records import MetricRecord
from coordinator.store.sql import Store
from coordinator.task import Task
from schedules.clock import Clock

_MANY = 10_000  # devices: what fewer say takes milliseconds to sum
_SECONDS_EACH = 1e-3  # of a device: so many seconds what many said is as good as new
_PATIENCE = 5.0  # seconds, after which what is found is told, and no more is looked for


class _Looked(NamedTuple):
    found: list[MetricRecord]
    until: float


class Evaluations:
    """Looks at what devices say, and remembers what takes long to sum: a million devices' word on a
    version is looked at every 17 minutes, whoever asks."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._looked: dict[tuple[str, int], _Looked] = {}

    async def of(self, task: Task, version: int) -> list[MetricView]:
        """One version of which the devices' own words are kept."""
        key, now = (task.name, version), self._clock.monotonic()
        if (known := self._looked.get(key)) is not None and now < known.until:
            return metric_views(known.found, task.manifest.metrics)
        found = await self._store.survey(stored.look, task.name, version)
        devices = max((record.devices for record in found), default=0)
        if devices >= _MANY:
            self._forget(now)
            self._looked[key] = _Looked(found, now + devices * _SECONDS_EACH)
        return metric_views(found, task.manifest.metrics)

    async def last(self, task: Task, versions: int, before: int | None = None) -> EvaluationsView:
        """The last so many versions before one (of all, unless it is said), newest first."""
        newest = task.model.version if before is None else min(before - 1, task.model.version)
        first = max(0, newest - versions + 1)
        old = await self._old(task, first)
        oldest = await self._store.read(stored.oldest, task.name)
        late, found = self._clock.monotonic() + _PATIENCE, list[VersionView]()
        for version in range(newest, first - 1, -1):
            metrics = old.get(version, [])
            if not metrics and oldest is not None and version >= oldest:
                metrics = await self.of(task, version)
            if metrics:
                found.append(VersionView(version=version, metrics=metrics))
            if self._clock.monotonic() > late:
                return EvaluationsView(versions=found, before=version, left=version - first)
        return EvaluationsView(versions=found, before=first)

    async def _old(self, task: Task, first: int) -> Mapping[int, list[MetricView]]:
        """What was kept of versions whose devices' words are not, from `first` on."""
        found: dict[int, list[MetricRecord]] = {}
        for record in await self._store.read(stored.kept, task.name, first):
            found.setdefault(record.version, []).append(record)
        return {v: metric_views(records, task.manifest.metrics) for v, records in found.items()}

    def _forget(self, now: float) -> None:
        for key in [key for key, looked in self._looked.items() if looked.until <= now]:
            del self._looked[key]
