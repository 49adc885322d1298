"""What an operator watches, for Prometheus. One registry a coordinator, so tests do not share."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from coordinator.round import Round


class Metrics:
    """Counters and gauges of one coordinator."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.check_ins = Counter(
            "lamplighter_check_ins", "Check-ins by answer.", ["answer"], registry=self.registry
        )
        self.updates = Counter(
            "lamplighter_updates",
            "Updates by outcome.",
            ["task", "outcome"],
            registry=self.registry,
        )
        self.refusals = Counter(
            "lamplighter_refusals",
            "Updates refused, by the rule that they break.",
            ["task", "code"],
            registry=self.registry,
        )
        self.rounds = Counter(
            "lamplighter_rounds",
            "Ended rounds by reason.",
            ["task", "reason"],
            registry=self.registry,
        )
        self.round_seconds = Histogram(
            "lamplighter_round_seconds",
            "From a round's first assignment to its end.",
            ["task"],
            buckets=(1, 5, 15, 60, 300, 900, 3600, 7200, 21600),
            registry=self.registry,
        )
        self.version = Gauge(
            "lamplighter_model_version",
            "Newest published version.",
            ["task"],
            registry=self.registry,
        )
        self.bytes_in = Counter(
            "lamplighter_upload_bytes", "Bytes of updates received.", registry=self.registry
        )
        self.bytes_out = Counter(
            "lamplighter_download_bytes", "Bytes of plans and models sent.", registry=self.registry
        )

    def ended(self, task: str, found: Round) -> None:
        """A round has ended in this process."""
        assert found.ending is not None
        self.rounds.labels(task, found.ending.reason).inc()
        if found.started is not None and found.ended is not None:
            self.round_seconds.labels(task).observe(found.ended - found.started)
