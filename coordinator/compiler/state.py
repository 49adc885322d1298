"""What an optimiser's step computes: new weights, and the state that it keeps between steps."""

from dataclasses import dataclass, field
from typing import Self

from coordinator.compiler.graph import Emitter


@dataclass(frozen=True)
class State:
    """One tensor of state, of `shape`, for the weight `weight`, or for none or several of them.

    `now` is the tensor that holds it, `next` the one that holds its next value. Nothing but what
    makes `next` may read `now`: a device writes the one to the memory of the other.
    """

    kind: str
    weight: str | None
    shape: tuple[int, ...]
    now: str
    next: str
    fill: float = 0.0

    @classmethod
    def like(
        cls, emit: Emitter, tensor: str, kind: str, now: str, following: str, fill: float = 0.0
    ) -> Self:
        """State of a tensor's shape, which must be known."""
        return cls(kind, tensor, emit.graph.fixed(tensor, slice(None)), now, following, fill)


@dataclass
class Step:
    """What one step computes: each weight's new value, and the state it keeps."""

    weights: dict[str, str] = field(default_factory=dict)
    state: list[State] = field(default_factory=list)
