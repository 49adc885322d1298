"""What an operator watches, for Prometheus. One registry a coordinator, so tests do not share.

Where several processes serve together (`PROMETHEUS_MULTIPROC_DIR` is set before this is imported),
each writes its numbers to a file of its own in that folder, and `text` reads them all: counters and
histograms are summed, also those of processes that are no more; a gauge says how it is combined.
"""

import math
import os
from collections.abc import Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from coordinator.figures import MetricView
from coordinator.round import Phase, Round

METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"

_ROUND_SECONDS = (1, 5, 15, 60, 300, 900, 3600, 7200, 21600, 86400)
_LATENESS = (
    *(-21600, -3600, -900, -300, -60, -15, -5, -1, 0),
    *(1, 5, 15, 60, 300, 900, 3600, 21600, 86400),
)
_STORE_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_PHASES = (Phase.SELECTING, Phase.REPORTING, Phase.CLOSING)


class Metrics:
    """Counters, histograms and gauges of one coordinator."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._several = METRICS_FOLDER in os.environ
        if not self._several:
            ProcessCollector(registry=self.registry)
        self._count_what_arrives()
        self._watch_rounds()
        self._watch_the_process()

    def _count_what_arrives(self) -> None:
        self.check_ins = self._counter("check_ins", "Check-ins by answer.", "answer")
        self.updates = self._counter("updates", "Updates by outcome.", "task", "outcome")
        self.nothing_new = self._counter(
            "updates_nothing_new", "Accepted updates that say there is nothing new.", "task"
        )
        self.refusals = self._counter(
            "refusals", "Updates refused, by the rule that they break.", "task", "code"
        )
        self.lateness = self._histogram(
            "lateness_seconds",
            "When updates came: seconds after the deadline, or after the end of a round that was"
            " over before; those in time are negative.",
            _LATENESS,
            "task",
        )
        self.bytes_in = self._counter("upload_bytes", "Bytes of updates received.")
        self.bytes_out = self._counter("download_bytes", "Bytes of plans and models sent.")
        self.patch_bytes = self._counter(
            "download_patch_bytes", "Of these, bytes of models sent as patches."
        )
        self.patch_saved = self._counter(
            "download_patch_saved_bytes", "Bytes that patches were smaller than zstd frames."
        )

    def _watch_rounds(self) -> None:
        self.rounds = self._counter("rounds", "Ended rounds by reason.", "task", "reason")
        self.round_seconds = self._histogram(
            "round_seconds",
            "From a round's first assignment to its end.",
            _ROUND_SECONDS,
            "task",
            "reason",
        )
        self.version = self._newest("model_version", "Newest published version.", "task")
        self.round_number = self._newest("round_number", "The newest round.", "task")
        self.round_phase = self._newest(
            "round_phase", "1 for the phase that the open round is in.", "task", "phase"
        )
        self.round_places = self._newest("round_places", "Devices that it asks.", "task")
        self.round_goal = self._newest("round_goal", "Updates at which it closes.", "task")
        self.round_working = self._newest("round_working", "Devices at work.", "task")
        self.round_arrived = self._newest("round_arrived", "Updates that count in it.", "task")
        self.round_left = self._newest(
            "round_deadline_seconds", "Seconds to its deadline; from its start on.", "task"
        )
        self.devices = self._newest("devices", "Enrolled devices.")
        self.evaluated = self._newest(
            "evaluation_version", "Newest version that devices have evaluated.", "task"
        )
        self.evaluation = self._newest(
            "evaluation", "That version's metric: mean over devices' examples.", "task", "metric"
        )
        self.evaluation_deviation = self._newest(
            "evaluation_deviation", "Its standard deviation over devices.", "task", "metric"
        )
        self.evaluation_worst_decile = self._newest(
            "evaluation_worst_decile", "Mean over the worst tenth of devices.", "task", "metric"
        )
        self.evaluation_devices = self._newest(
            "evaluation_devices", "Devices that have evaluated it.", "task", "metric"
        )
        self.personal_devices = self._newest(
            "personal_devices", "Of these, devices with a personal version.", "task", "metric"
        )
        self.personal_gaining = self._newest(
            "personal_gaining", "Of these, devices that do better with it.", "task", "metric"
        )
        self.personal_gain = self._newest(
            "personal_gain",
            "The median of what they gain, above 0 if better; NaN without any.",
            "task",
            "metric",
        )

    def _watch_the_process(self) -> None:
        self.connections = self._sum("connections", "Open connections.")
        self.cut_off = self._counter(
            "connections_refused", "Connections that were closed, by reason.", "reason"
        )
        self.uploading = self._sum("uploads_under_way", "Uploads whose bytes are awaited.")
        self.intake_waiting = self._sum(
            "intake_waiting", "Complete updates that wait to be checked.", "task"
        )
        self.store_waiting = self._sum(
            "store_waiting", "Transactions that wait for the store, or are in it.", "kind"
        )
        self.store_seconds = self._histogram(
            "store_seconds",
            "Time of a transaction: `write` with its wait for the disk, `read`, `survey`.",
            _STORE_SECONDS,
            "kind",
        )

    # What happens

    def arrived(self, task: str, outcome: str, lateness: float, updates: int = 1) -> None:
        """Updates are `accepted`, or came too `late`: so many seconds after their deadline."""
        self.updates.labels(task, outcome).inc(updates)
        observed = self.lateness.labels(task)
        for _ in range(updates):
            observed.observe(lateness)

    def ended(self, task: str, found: Round) -> None:
        """A round has ended in this process."""
        assert found.ending is not None
        reason = str(found.ending.reason)
        self.rounds.labels(task, reason).inc()
        if found.started is not None and found.ended is not None:
            self.round_seconds.labels(task, reason).observe(found.ended - found.started)

    def stands(self, task: str, found: Round, now: float, running: bool) -> None:
        """How a task's newest round stands; all zeros when the task does not run any more."""
        phase = found.phase if running else None
        for each in _PHASES:
            self.round_phase.labels(task, str(each)).set(each is phase)
        self.round_number.labels(task).set(found.number)
        self.round_places.labels(task).set(found.places if running else 0)
        self.round_goal.labels(task).set(found.policy.goal if running else 0)
        self.round_working.labels(task).set(found.working if running else 0)
        self.round_arrived.labels(task).set(found.arrived if running else 0)
        left = found.remaining(now) if running and found.started is not None else 0.0
        self.round_left.labels(task).set(left)

    def evaluates(self, task: str, version: int, found: Sequence[MetricView]) -> None:
        """What devices say of the newest version that some have evaluated."""
        self.evaluated.labels(task).set(version)
        for metric in found:
            labels, own = (task, metric.name), metric.personal
            self.evaluation.labels(*labels).set(metric.mean)
            self.evaluation_deviation.labels(*labels).set(metric.deviation)
            self.evaluation_worst_decile.labels(*labels).set(metric.worst_decile)
            self.evaluation_devices.labels(*labels).set(metric.devices)
            self.personal_devices.labels(*labels).set(own.devices if own else 0)
            self.personal_gaining.labels(*labels).set(own.gaining if own else 0)
            self.personal_gain.labels(*labels).set(own.median if own else math.nan)

    # For Prometheus

    def text(self) -> bytes:
        """Blocking: all of it, of every process that serves with this one."""
        if not self._several:
            return generate_latest(self.registry)
        every = CollectorRegistry()
        MultiProcessCollector(every)  # type: ignore[no-untyped-call]
        return generate_latest(every)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"lamplighter_{name}", text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(
            f"lamplighter_{name}", text, labels, buckets=buckets, registry=self.registry
        )

    def _newest(self, name: str, text: str, *labels: str) -> Gauge:
        """A gauge of what all processes share: whoever looked last is right."""
        return Gauge(
            f"lamplighter_{name}",
            text,
            labels,
            registry=self.registry,
            multiprocess_mode="livemostrecent",
        )

    def _sum(self, name: str, text: str, *labels: str) -> Gauge:
        """A gauge of which each process has its own part."""
        return Gauge(
            f"lamplighter_{name}",
            text,
            labels,
            registry=self.registry,
            multiprocess_mode="livesum",
        )
