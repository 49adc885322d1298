"""What the compiler makes."""

from dataclasses import dataclass

from wire.plan import FileName, Manifest


@dataclass(frozen=True)
class CompiledPlan:
    """A plan, its files, and the model's own weights as the first checkpoint.

    `warnings` are what its author should look at twice; a plan read from a folder has none.
    """

    manifest: Manifest
    files: dict[FileName, bytes]
    initial: bytes
    warnings: tuple[str, ...] = ()
