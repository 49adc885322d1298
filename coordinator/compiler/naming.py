"""Public names: what tensors are called in the manifest, checkpoints and the plan's graphs."""

from coordinator.compiler.errors import CompileError
from wire.plan import Input

_RESERVED = ("loss", "learning_rate", "__metadata__")
_PREFIXES = ("next/", "metric/")
_LONGEST = 180  # leaves room for what optimisers put in front of a weight's name


def is_reserved(name: str, prefixes: tuple[str, ...] = ()) -> bool:
    """Whether the plan format, or safetensors, has its own use for the name, or this plan for its
    prefix."""
    begins = name.startswith(_PREFIXES + prefixes)
    return not name or name in _RESERVED or begins or len(name) > _LONGEST


def check_input(name: str, prefixes: tuple[str, ...] = ()) -> None:
    """Raise `CompileError` if an example input cannot keep its name."""
    if is_reserved(name, prefixes):
        raise CompileError(
            f"input {name!r} has a name that plans use themselves, or none, or one of over "
            f"{_LONGEST} characters; rename it in the model"
        )


class Names:
    """Hands out public names, each once. `prefixes` are those that this plan uses itself."""

    def __init__(self, inputs: list[Input], prefixes: tuple[str, ...] = ()) -> None:
        for entry in inputs:
            check_input(entry.name, prefixes)
        self._taken = {i.name for i in inputs}
        self._prefixes = prefixes

    def take(self, wanted: str) -> str:
        """`wanted`, or something like it if it is reserved or taken."""
        reserved = is_reserved(wanted, self._prefixes)
        stem = name = f"weight/{wanted}"[:_LONGEST] if reserved else wanted
        number = 1
        while name in self._taken:
            number += 1
            name = f"{stem[: _LONGEST - 8]}_{number}"
        self._taken.add(name)
        return name
