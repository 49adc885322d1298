"""What a simulation leaves behind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from coordinator.spread import Gain, Spread
from fleet.simulation.tables import Cell
from wire.checkpoint import Weights


class Learnt(NamedTuple):
    """The plan's metrics of a device on the examples that it trains on: of a round's model, and of
    what its training made of it."""

    before: Mapping[str, float]
    after: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of the model, and what led to it. 0 is the initial model.

    `round` is that from which it came, `seconds` the virtual time at which it was published and
    `reason` why that round closed. `test` are the plan's metrics over the test set, `devices` their
    spread over the devices' held-out examples; both are empty where nothing was evaluated. `losses`
    has, by device, the mean loss of the training of its update that counts: of the last one, where
    late updates count and a device has two. `watched` is what the watched ones of those devices
    learnt.

    Since the version before: `asked` devices got an assignment, `updates` counted, `late` ones came
    when they could not count any more, `dropped` assignments came to nothing, and `failed_rounds`
    rounds gave no model. `upload` and `download` are bytes of the whole fleet, from the beginning
    on: of updates that arrived in time, and of the plan and models that devices fetched to train.
    """

    number: int
    round: int = 0
    seconds: float = 0.0
    test: Mapping[str, float] = field(default_factory=dict)
    devices: Mapping[str, Spread] = field(default_factory=dict)
    updates: int = 0
    late: int = 0
    dropped: int = 0
    asked: int = 0
    upload: int = 0
    download: int = 0
    losses: Mapping[int, float] = field(default_factory=dict)
    watched: Mapping[int, Learnt] = field(default_factory=dict)
    reason: str = ""
    failed_rounds: int = 0

    def to_row(self) -> dict[str, Cell]:
        """Flat: `test.accuracy`, `devices.accuracy.mean`; of the losses, their mean `loss`."""
        row: dict[str, Cell] = {"version": self.number, "round": self.round}
        row["seconds"] = self.seconds
        row |= {f"test.{name}": value for name, value in self.test.items()}
        for name, found in self.devices.items():
            row[f"devices.{name}.mean"] = found.mean
            row[f"devices.{name}.deviation"] = found.deviation
            row[f"devices.{name}.worst_decile"] = found.worst_decile
        if self.losses:
            row["loss"] = sum(self.losses.values()) / len(self.losses)
        for name in ("asked", "updates", "late", "dropped", "failed_rounds", "upload", "download"):
            row[name] = getattr(self, name)
        return row | {"reason": self.reason}


class Personal(Gain, frozen=True, kw_only=True):
    """What devices gain by a version of their own over the published one, each on its held-out
    examples, in the unit of the plan's first metric. `per_device` has each one's, by its number:
    of those that have examples of both kinds and whose tuning does not diverge. All else is over
    them.
    """

    per_device: Mapping[int, float]


@dataclass(frozen=True, kw_only=True)
class Result:
    """A simulation. `weights` are those of the last version. `complete`: all rounds were made, or
    what was asked for was reached; else the fleet could not go on. `seconds` is virtual time."""

    versions: tuple[Version, ...]
    weights: Weights
    seed: int
    complete: bool
    seconds: float
    personal: Personal | None = None

    def to_rows(self) -> list[dict[str, Cell]]:
        """One flat row a version, all with the seed; a column is in the rows that have it."""
        return rows_of(self.versions, self.seed)


def rows_of(versions: Sequence[Version], seed: int) -> list[dict[str, Cell]]:
    """As `Result.to_rows`, of what was made before a simulation was stopped."""
    return [{"seed": seed, **version.to_row()} for version in versions]
