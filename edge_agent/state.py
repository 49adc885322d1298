"""What a device remembers: a small folder, written rarely and atomically, its owner's alone.

identity.json   who it is, and to whom it reports
history.json    its last rounds and the bytes they cost
outbox/         updates that were not acknowledged yet
checkpoints/    trainings that were stopped, to go on with
residuals/      what was learnt and not sent yet, by task: the next update brings it; and what a
                plan carries from one round to the next
cache/          plans that it fetched, by digest
models/         the models of local programs, by task: their group may read these
agent.lock      held while an agent runs
agent.sock      asks the running agent for its status

The models that it fetches to train from are kept in a folder in memory where there is one
(`RUNTIME_DIRECTORY` of the service): each round brings another, and an SD card wears out.
"""

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from edge_agent.budget import Spent
from edge_agent.carried_files import CarriedFiles
from edge_agent.errors import NotEnrolled, StateError
from edge_agent.residual_files import ResidualFiles
from edge_agent.shelf import FOLDER_MODE, make_folder, mend
from wire.files import write_durably
from wire.messages import Evaluation

log = logging.getLogger(__name__)

_HISTORY = 20


class Identity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The device's credential at its coordinator. `ca` is a certificate authority, PEM text."""

    url: str
    device: str
    secret: str
    ca: str | None = None
    insecure_http: bool = False


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """One assignment and what became of it: `accepted`, `waiting` in the outbox, or why not.
    `ended` is ISO 8601."""

    assignment: str = ""
    task: str
    round: int = 0
    outcome: str = "waiting"
    detail: str = ""
    examples: int = 0
    loss: float | None = None
    seconds: float = 0.0
    bytes_up: int = 0
    ended: str = ""


class History(msgspec.Struct, kw_only=True):
    """The device's memory of its work. `evaluated`: newest version evaluated, by task; `failed`:
    trainings that failed in a row; `spent`: what today and this month cost; `device`: who did all
    this."""

    served: list[Served] = []
    bytes_up: int = 0
    bytes_down: int = 0
    evaluated: dict[str, int] = {}
    evaluations: list[Evaluation] = []
    failed: int = 0
    spent: Spent = Spent()
    device: str = ""

    def add(self, served: Served) -> None:
        """Remember one more assignment, forget the oldest."""
        self.served = [*self.served, served][-_HISTORY:]

    def settle(
        self, assignment: str, outcome: str, detail: str, bytes_up: int, ended: str
    ) -> Served:
        """What became of an update that waited; returns it as it is remembered."""
        unknown = Served(assignment=assignment, task=assignment)
        found = next((s for s in self.served if s.assignment == assignment), unknown)
        self.served = [s for s in self.served if s is not found]
        settled = msgspec.structs.replace(
            found, outcome=outcome, detail=detail, bytes_up=bytes_up, ended=ended
        )
        self.add(settled)
        return settled


class StateFolder:
    """The folder. Blocking: call it off the event loop, but for `path`s.

    `volatile` is a folder in memory, ours alone, for what can be fetched again.
    """

    def __init__(self, folder: Path, volatile: Path | None = None) -> None:
        self.folder = folder
        self.outbox = folder / "outbox"
        self.checkpoints = folder / "checkpoints"
        self.residuals = folder / "residuals"
        self.cached_plans = folder / "cache" / "plans"
        self.cached_models = folder / "cache" / "models"
        self.volatile_models = volatile / "models" if volatile else self.cached_models
        self.models = folder / "models"
        self.socket = folder / "agent.sock"

    def create(self) -> None:
        """Make what is missing. Raises `StateError`."""
        try:
            cache = self.folder / "cache"
            cached = (cache, self.cached_plans, self.cached_models)
            for folder in (self.folder, *self._trained, *cached):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            make_folder(self.models)
        except OSError as error:
            raise StateError(f"the state folder cannot be made: {error}") from None
        with suppress(OSError):  # models are kept on the disk then
            self.volatile_models.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def _trained(self) -> tuple[Path, ...]:
        """The folders of what was trained for this fleet."""
        return self.outbox, self.checkpoints, self.residuals

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one running agent. Raises `StateError` when another holds it."""
        try:
            descriptor = os.open(self.folder / "agent.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StateError(f"the state folder cannot be used: {error}") from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StateError(f"another agent runs over {self.folder}") from None
            for folder in self._trained:
                for unfinished in folder.glob(".*.new"):
                    unfinished.unlink(missing_ok=True)  # a child was killed while it wrote
            yield
        finally:
            os.close(descriptor)

    def forget_volatile(self) -> None:
        """The models in memory go."""
        if self.volatile_models != self.cached_models:
            shutil.rmtree(self.volatile_models, ignore_errors=True)

    def forget_fleet(self) -> None:
        """What was trained for, and remembered of, another fleet is none of the next one's. Raises
        `StateError`."""
        try:
            for folder in self._trained:
                with suppress(FileNotFoundError):
                    shutil.rmtree(folder)
                folder.mkdir(mode=0o700)
            (self.folder / "history.json").unlink(missing_ok=True)
        except OSError as error:
            raise StateError(f"what is left of another fleet cannot be removed: {error}") from None

    def tidy(self) -> None:
        """As the agent starts: what an earlier version kept elsewhere goes, and what a kill left
        half done among the models of local programs is put right."""
        _forget_old_cache(self.folder)
        mend(self.models)

    def identity(self) -> Identity:
        """Who this device is. Raises `StateError`, `NotEnrolled` when it has not joined."""
        try:
            data = (self.folder / "identity.json").read_bytes()
        except FileNotFoundError:
            raise NotEnrolled(
                f"this device has not joined a fleet (no identity in {self.folder}): run "
                "'edge-agent enroll URL TOKEN'"
            ) from None
        except OSError as error:
            raise StateError(f"the identity cannot be read: {error}") from None
        try:
            return msgspec.json.decode(data, type=Identity)
        except msgspec.DecodeError as error:
            raise StateError(
                f"{self.folder}/identity.json is damaged ({error}): enrol again, with "
                "'edge-agent enroll URL TOKEN --again'"
            ) from None

    def save_identity(self, identity: Identity) -> None:
        """Become this device."""
        self._save("identity.json", identity)

    def history(self) -> History:
        """What was done before; empty when there is none or it cannot be read."""
        try:
            return msgspec.json.decode((self.folder / "history.json").read_bytes(), type=History)
        except FileNotFoundError:
            return History()
        except (OSError, msgspec.DecodeError, RecursionError) as error:
            log.warning("what this device remembers of its work is lost: %s", error)
            return History()

    def history_of(self, device: str) -> History:
        """What was done as this device. What is left of another fleet's goes, but for what the
        budgets were spent on. Raises `StateError`."""
        history = self.history()
        if history.device not in ("", device):
            self.forget_fleet()
            history = History(spent=history.spent)
        history.device = device
        return history

    def save_history(self, history: History) -> None:
        """Remember."""
        self._save("history.json", history)

    def update_path(self, assignment: str) -> Path:
        """Where an assignment's update waits for its acknowledgement."""
        return self.outbox / f"{assignment}.update"

    def update(self, assignment: str) -> bytes:
        """An update that waits. Raises `StateError`."""
        try:
            return self.update_path(assignment).read_bytes()
        except OSError as error:
            raise StateError(f"an update in the outbox cannot be read: {error}") from None

    def forget_update(self, assignment: str, late: str = "", accepted: bool = True) -> None:
        """An update waits no more: it was `accepted` or not. It came too late for the task `late`,
        if that is said: what it says may be sent once more. Raises `StateError`."""
        files = ResidualFiles(self.residuals, self.outbox)
        try:
            # Only now: until then, that it waits shows that its residual is true.
            files.written(assignment)
            CarriedFiles(self.residuals).settle(assignment, accepted and not late)
            if late:
                files.came_late(late, assignment)
            self.update_path(assignment).unlink(missing_ok=True)
        except OSError as error:
            raise StateError(f"an update cannot be removed from the outbox: {error}") from None

    def checkpoint_path(self, assignment: str) -> Path:
        """Where an assignment's training waits to go on."""
        return self.checkpoints / f"{assignment}.checkpoint"

    def forget_checkpoints(self, but: str | None) -> None:
        """No training waits, but for that of one assignment. Raises `StateError`."""
        try:
            for path in self.checkpoints.glob("*.checkpoint"):
                if path.stem != but:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise StateError(f"an old training cannot be removed: {error}") from None

    def waiting(self) -> list[str]:
        """Assignments whose updates wait in the outbox, oldest first; what is no file is none."""
        found = [path for path in self.outbox.glob("*.update") if path.is_file()]
        return [path.stem for path in sorted(found, key=_age)]

    def _save(self, name: str, value: msgspec.Struct) -> None:
        try:
            write_durably(self.folder / name, msgspec.json.encode(value))
        except OSError as error:
            raise StateError(f"{self.folder / name} cannot be written: {error}") from None


def _forget_old_cache(folder: Path) -> None:
    """An earlier version of the agent kept what it fetched in `plans/` and `models/`."""
    shutil.rmtree(folder / "plans", ignore_errors=True)
    for model in (folder / "models").glob("*.safetensors"):
        model.unlink(missing_ok=True)
        model.parent.chmod(FOLDER_MODE)


def _age(path: Path) -> float:
    """When a file was last written; one that has just gone counts as old."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
