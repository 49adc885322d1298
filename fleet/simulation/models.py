"""A task's models: the newest one, and in files those that a device may still train from."""

from pathlib import Path

from coordinator.aggregation import Next
from wire import checkpoint
from wire.checkpoint import Weights
from wire.digest import digest_of
from wire.files import naming
from wire.plan import Parameter


class Models:
    """In `folder`. The first one is `initial`, the bytes of a checkpoint of these tensors."""

    def __init__(self, folder: Path, initial: bytes, tensors: tuple[Parameter, ...]) -> None:
        self.folder = folder
        self.newest = 0
        self.state: bytes | None = None
        """The server optimiser's."""
        self._tensors = tensors
        self._digests: dict[int, str] = {}
        self._put(0, initial)

    def publish(self, version: int, made: Next) -> None:
        """The next one. Raises `OSError`."""
        self._put(version, checkpoint.write(made.weights))
        self.state = made.state

    def _put(self, version: int, data: bytes) -> None:
        with naming(path := self.path(version)):
            path.write_bytes(data)
        self.newest, self.size = version, len(data)
        self.weights: Weights = checkpoint.read(data, self._tensors)
        self._digests[version] = digest_of(data)

    def path(self, version: int) -> Path:
        """The file of one."""
        return self.folder / f"{version}.safetensors"

    def digest(self, version: int) -> str:
        """Of one that is there."""
        return self._digests[version]

    def forget(self, before: int, needed: set[int]) -> None:
        """Those before a version are of no use, but for some that are `needed`."""
        for version in [v for v in self._digests if v < before and v not in needed]:
            del self._digests[version]
            self.path(version).unlink(missing_ok=True)
