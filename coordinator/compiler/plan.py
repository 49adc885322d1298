"""What the compiler makes."""

from dataclasses import dataclass

from wire.plan import FileName, Manifest


@dataclass(frozen=True)
class CompiledPlan:
    """A plan, its files, and the model's own weights as the first checkpoint."""

    manifest: Manifest
    files: dict[FileName, bytes]
    initial: bytes
