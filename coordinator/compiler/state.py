"""What an optimiser's step computes: new weights, and the state that it keeps between steps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import Emitter, Graph


@dataclass(frozen=True)
class State:
    """One tensor of state, of `shape`, for the weight `weight`, or for none or several of them.

    `now` is the tensor that holds it, `next` the one that holds its next value. What reads `now`
    must run before what makes `next`: a device writes the one to the memory of the other. Without
    a `next` it stays as it is for a round. `carried` is the kind whose last value, for the same
    weight, it starts the next round with.
    """

    kind: str
    weight: str | None
    shape: tuple[int, ...]
    now: str
    next: str | None
    fill: float = 0.0
    carried: str | None = None

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


def check_in_place(graph: Graph, following: Mapping[str, str]) -> None:
    """Raise `CompileError` unless each tensor of state may be overwritten by its next value:
    whatever else reads it must run before what makes that. It is a mistake in the compiler if not.

    `following` maps the one to the other. A value that is passed on as it is harms nobody.
    """
    made = graph.producers()
    for now, after in following.items():
        last = made.get(after)
        if last is None:
            continue
        before, stack = set[int](), [last]
        while stack:
            node = stack.pop()
            if id(node) not in before:
                before.add(id(node))
                stack += [made[name] for name in node.inputs if name in made]
        late = [node.op for node in graph.nodes if now in node.inputs and id(node) not in before]
        if late:
            raise CompileError(f"the compiler let {late} read state that is overwritten: a bug")
