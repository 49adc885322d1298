"""A machine made of files: a root with what a test puts there, and nothing else."""

from pathlib import Path
from typing import Any

from edge_agent.config import parse
from edge_agent.config.schema import Config
from edge_agent.signals.system import System


class Tree:
    """Starts as a machine that tells nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root / "root"
        self.root.mkdir()
        state = root / "state"
        state.mkdir()
        self.system = System(self.root, state)

    def put(self, path: str, content: object) -> None:
        """A file of `sys` or `proc`."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")

    def put_all(self, folder: str, **files: object) -> None:
        """Files of one folder, `name="cpu-thermal", temp=48000`."""
        for name, content in files.items():
            self.put(f"{folder}/{name}", content)


def eligibility(**keys: Any) -> Config:
    """A configuration with these keys in `[eligibility]`."""
    lines = [f"{k} = {v if isinstance(v, int | float) else repr(v)}" for k, v in keys.items()]
    return parse("\n".join(["[eligibility]", *lines]))
