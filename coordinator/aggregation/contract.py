"""What goes in and out of an aggregation, and what every strategy can do."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

from coordinator.aggregation.recipe import Contribution
from coordinator.aggregation.sums import Sum
from wire.checkpoint import Weights


class Next(NamedTuple):
    """A closed round: the next model, the server's own state for the round after it (`None` for
    strategies without), and what went into it."""

    weights: Weights
    state: bytes | None
    updates: int
    examples: int


class Aggregator(Protocol):
    """A strategy, over the parameters of one task. Blocking; callable from any thread.

    One that `streams` is used through `empty`, `read` and `close`, in the memory of one model;
    one that does not through `close_all`, which needs every update of the round.
    """

    streams: bool

    def check(self, update: Contribution) -> None:
        """Raise `WireError` for an update that must not count: too_far, not_finite.

        Cheap, and the same verdict on every machine.
        """

    def empty(self) -> Sum:
        """A sum of nothing. Raises `TypeError` unless the strategy streams."""

    def read(self, data: bytes) -> Sum:
        """The sum that `Sum.to_bytes` wrote, for this task. Raises `WireError`; `TypeError` unless
        the strategy streams."""

    def close(self, base: Weights, state: bytes | None, total: Sum) -> Next:
        """The next model: `base` and what `total` says. `state` is what the last `Next` held.

        Raises `WireError`: too_few without updates, not_finite when the result leaves float32,
        others when `state` is not this strategy's. `TypeError` unless the strategy streams.
        """

    def close_all(
        self,
        base: Weights,
        state: bytes | None,
        updates: Iterable[tuple[str, Contribution]],
        scratch: Path,
    ) -> Next:
        """The next model from all updates of a round, by assignment; read once, one at a time.

        The result does not depend on their order. The folder `scratch` takes a temporary file
        without a name, as large as `needs` says. Raises `WireError` as `close` does, and `OSError`
        when the disk is full.
        """

    def needs(self, updates: int) -> str | None:
        """What a round of so many updates costs beyond memory of the model's size, if anything."""
