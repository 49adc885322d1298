"""The examples that live on the device: read, held out, shown, kept within limits, deleted.

They are files in a task's folder, a module a format (`formats.py`). Nothing here runs in the
agent's process: the training child reads and trims, one-shot commands show, create and delete.
So that the agent's modules may name `retention.Retention` at no cost, numpy comes only with
what is asked for here.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_agent.examples.loading import Examples, load

__all__ = ["Examples", "load"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from edge_agent.examples import loading

    return getattr(loading, name)
