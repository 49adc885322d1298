"""Weights chosen by names or patterns in a task file: `model.frozen`, `model.lora.weights`."""

from collections.abc import Iterable
from fnmatch import fnmatchcase

from coordinator.compiler.errors import CompileError
from coordinator.compiler.model import Model

_NAMED = 20  # weights that a message lists


def matching(model: Model, key: str, patterns: Iterable[str]) -> list[str]:
    """The weights that the patterns of `model.<key>` match, each once, pattern by pattern.

    Raises `CompileError` if one matches none.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        hit = [w for w, name in model.weights.items() if fnmatchcase(name, pattern)]
        if not hit:
            names = ", ".join(list(model.weights.values())[:_NAMED])
            raise CompileError(
                f"model.{key}: {pattern!r} matches no weight of the model; it has {names}"
            )
        found |= dict.fromkeys(hit)
    return list(found)
