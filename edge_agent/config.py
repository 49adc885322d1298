"""The device's configuration: one TOML file, every key with a safe default.

The classes below are the reference of every key. Unknown keys and bad values are errors that name
the key, the value and what is allowed.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edge_agent.errors import ConfigError
from schedules.duration import Duration
from schedules.schedule import READY_MADE, Schedule, ready_made
from wire.errors import WireError
from wire.messages import Identifier
from wire.strict import decode_toml

Percent = Annotated[float, Meta(ge=0, le=100)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the configuration."""


class Data(Section, frozen=True, kw_only=True):
    """Where the examples live, `.npz` and `.csv` files; `tasks` names a folder for one task alone.

    `hold_out` is the part kept out of training, to evaluate models on. `columns` says which CSV
    columns make up an input; without it they are `NAME`, or `NAME.0`, `NAME.1`, ...
    """

    folder: str | None = None
    tasks: dict[Identifier, str] = {}
    hold_out: Annotated[float, Meta(ge=0, le=0.9)] = 0.2
    columns: dict[str, tuple[str, ...]] = {}

    def folder_of(self, task: str) -> Path | None:
        """The folder with a task's examples; `None` when the device has none for it."""
        found = self.tasks.get(task, self.folder)
        return Path(found) if found else None


class Eligibility(Section, frozen=True, kw_only=True):
    """When the device may work. The defaults suit a machine that has another job.

    `power`: `mains`, or `any`. `min_battery`: percent that a battery must hold, also on mains.
    `max_busy`: percent of all cores that other programs may use. `network`: `unmetered`, or `any`.
    `unknown_network`: what a network of unknown kind counts as.
    """

    power: Literal["mains", "any"] = "mains"
    min_battery: Percent = 50.0
    max_busy: Percent = 30.0
    network: Literal["unmetered", "any"] = "unmetered"
    unknown_network: Literal["metered", "unmetered"] = "metered"


class Training(Section, frozen=True, kw_only=True):
    """How much of the device training may take.

    `grace` is how long a running batch may take to end before its process is killed.
    """

    threads: Annotated[int, Meta(ge=1, le=256)] = 1
    grace: Duration = Duration(2.0)
    time_limit: Duration = Duration(4 * 3600.0)


class Config(Section, frozen=True, kw_only=True):
    """The whole file. `poll` is how often the signals are read while there is work to do."""

    data: Data = Data()
    eligibility: Eligibility = Eligibility()
    training: Training = Training()
    schedule: str | Schedule = "continuous"
    poll: Duration = Duration(30.0)
    system_root: str = "/"

    @property
    def timing(self) -> Schedule:
        """The owner's schedule, ready-made or written out."""
        return ready_made(self.schedule) if isinstance(self.schedule, str) else self.schedule


def parse(text: str, source: str = "configuration") -> Config:
    """Read a configuration's text. Raises `ConfigError`."""
    try:
        config = decode_toml(text, Config, {Duration: Duration.parse})
    except WireError as error:
        raise ConfigError(f"{source}: {error.detail}") from None
    if isinstance(config.schedule, str) and config.schedule not in READY_MADE:
        raise ConfigError(
            f"{source}: schedule = {config.schedule!r}: expected one of {', '.join(READY_MADE)}, "
            "or a [schedule] table"
        )
    for key, value in (("poll", config.poll), ("training.time_limit", config.training.time_limit)):
        if value < 0.05:
            raise ConfigError(f"{source}: {key} = {value}: at least 50 ms")
    return config


def load(path: Path, optional: bool = False) -> Config:
    """Read the configuration. A file that is not there means the defaults when it is `optional`.
    Raises `ConfigError`."""
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        if optional and isinstance(error, FileNotFoundError):
            return Config()
        raise ConfigError(f"{path}: cannot be read: {error}") from None
