"""The experiment file of `lamplighter simulate`. TOML, written by a person.

These classes are the reference of every key; `docs/simulate.md` explains them. Unknown keys and bad
values are errors that name the file, the key, the value and what is allowed.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from coordinator.compiler.options.section import Fraction, Section
from fleet.virtual.behaviour import MOST_SPREAD
from schedules.duration import Duration
from wire.errors import WireError
from wire.strict import Hooks, decode_toml

Text = Annotated[str, Meta(min_length=1, pattern=r"^[^\x00]*$")]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Chance = Annotated[float, Meta(ge=0, le=1)]
Test = Text | Annotated[float, Meta(gt=0, lt=1)]

_LIMIT = 1 << 20  # characters
_LARGEST = 1e300  # neither infinity nor NaN is a goal
_HOOKS: Hooks = {Duration: Duration.parse}
_SUMS = 1e-9  # shares that are written as decimals may add up to a little more than 1


class ExperimentError(ValueError):
    """An experiment that cannot be done; the message names the key and what is allowed."""


# Where the examples are


class Digits(Section, frozen=True, kw_only=True, tag_field="source", tag="digits"):
    """scikit-learn's handwritten digits: 1,437 for the devices, 360 to test."""


class Idx(Section, frozen=True, kw_only=True, tag_field="source", tag="idx"):
    """The four files of MNIST, or what is published like it: 60,000 and 10,000 pictures."""

    folder: Text


class Files(Section, frozen=True, kw_only=True, tag_field="source", tag="files"):
    """Files of examples, read as devices read them: .npz, .csv, .parquet, .sqlite.

    Either one `folder` with a subfolder for each device, or one `file` (or a folder of them: what
    all devices have), which the experiment splits. `columns` as in a device's configuration.
    `test`: a file or folder, or the fraction of a single `file` that is kept for tests.
    """

    folder: Text | None = None
    file: Text | None = None
    test: Test | None = None
    columns: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.folder is None) == (self.file is None):
            what = "folder (with a subfolder for each device) or file (to be split)"
            raise ValueError(f"source = 'files': expected one of {what}")
        if self.folder is not None and isinstance(self.test, float):
            raise ValueError(f"test = {self.test}: with a folder, expected a file or a folder")


class Script(Section, frozen=True, kw_only=True, tag_field="source", tag="script"):
    """A function of a Python file, given `folder` if there is one. It returns the examples, arrays
    by the names of the plan's inputs, or a list of such, one for each device; or a pair of that and
    the examples to test with. Only your own: its code runs."""

    script: Text
    function: Text = "load"
    folder: Text | None = None
    test: Annotated[float, Meta(gt=0, lt=1)] | None = None


Data = Digits | Idx | Files | Script


# Who has which


class Alike(Section, frozen=True, kw_only=True, tag_field="kind", tag="alike"):
    """Shuffled, and as many for each device."""


class Shards(Section, frozen=True, kw_only=True, tag_field="kind", tag="shards"):
    """Sorted by label and cut; `each` pieces a device."""

    each: Annotated[int, Meta(ge=1, le=1000)] = 2
    label: Text | None = None


class Dirichlet(Section, frozen=True, kw_only=True, tag_field="kind", tag="dirichlet"):
    """Each label by a Dirichlet draw over the devices: a low `concentration` is more skewed."""

    concentration: Annotated[float, Meta(gt=0, le=1e6)] = 0.5
    label: Text | None = None


class Majority(Section, frozen=True, kw_only=True, tag_field="kind", tag="majority"):
    """`share` of a device's examples have one label."""

    share: Annotated[float, Meta(gt=0, le=1)] = 0.9
    label: Text | None = None


class Groups(Section, frozen=True, kw_only=True, tag_field="kind", tag="groups"):
    """Whole groups, such as engines: those whose examples have one number in `column`."""

    column: Text


Split = Alike | Shards | Dirichlet | Majority | Groups


# How devices behave

READY_MADE = Literal["honest", "slow", "silent", "flapping", "late", "duplicate", "lying", "skewed"]


class Behaving(Section, frozen=True, kw_only=True):
    """`share` of the devices behave so: `like` a ready-made one, but for what else is said here.
    The keys are those of `fleet.virtual.Behaviour`."""

    share: Annotated[float, Meta(gt=0, le=1)]
    like: READY_MADE = "honest"
    training: Duration | None = None
    spread: Annotated[float, Meta(ge=0, le=MOST_SPREAD)] | None = None
    network: Duration | None = None
    vanishes: Chance | None = None
    away: Duration | None = None
    up: Duration | None = None
    down: Duration | None = None
    gives_up: Chance | None = None
    late_by: Duration | None = None
    repeats: Annotated[int, Meta(ge=0, le=100)] | None = None
    lies: Chance | None = None
    drift: Fraction | None = None
    offset: Duration | None = None

    def __post_init__(self) -> None:
        for key in ("training", "network", "away", "up"):
            if getattr(self, key) == 0:
                raise ValueError(f"{key} = '0s': expected more than none")


class Stop(Section, frozen=True, kw_only=True):
    """The simulation ends with the first version whose `metric` is `at` or better: over the test
    set, or the mean over the devices' held-out examples."""

    metric: Text
    at: Annotated[float, Meta(ge=-_LARGEST, le=_LARGEST)]
    over: Literal["test", "devices"] = "test"


class Experiment(Section, frozen=True, kw_only=True):
    """The whole file. Paths are seen from it."""

    task: Text
    plan: Text | None = None
    data: Data
    split: Split | None = None
    devices: Count | None = None
    held_out: Fraction = 0.1
    behaviours: Annotated[tuple[Behaving, ...], Meta(max_length=100)] = ()
    seed: Annotated[int, Meta(ge=0, le=(1 << 53) - 1)] = 1
    rounds: Count | None = None
    evaluate_every: Annotated[int, Meta(ge=0)] = 1
    stop: Stop | None = None
    output: Text | None = None

    def __post_init__(self) -> None:
        total = sum(behaving.share for behaving in self.behaviours)
        if total > 1 + _SUMS:
            raise ValueError(f"behaviours = shares of {total:g}: expected 1 at most, in all")
        if isinstance(self.data, Files) and self.data.folder is not None:
            if self.split is not None:
                raise ValueError("split = ...: data.folder has each device's own examples")
        elif self.devices is None and not isinstance(self.data, Script):
            raise ValueError("devices = none: expected how many devices the examples are dealt to")


def parse(text: str, source: str = "experiment") -> Experiment:
    """Read an experiment file's text. Raises `ExperimentError`."""
    if len(text) > _LIMIT:
        raise ExperimentError(f"{source}: over {_LIMIT} characters")
    try:
        return decode_toml(text, Experiment, _HOOKS)
    except WireError as error:
        raise ExperimentError(f"{source}: {error.detail}") from None


def load(path: Path) -> Experiment:
    """Read an experiment file from disk. Raises `ExperimentError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ExperimentError(f"{path}: cannot be read: {error}") from None
    return parse(text, str(path))
