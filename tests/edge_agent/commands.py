"""The `edge-agent` command as its users run it, in a process of its own."""

import os
import subprocess
import sys
from functools import cache

import pytest

from edge_agent import consent
from edge_agent.state import Identity, StateFolder
from schedules.clock import SystemClock
from tests.edge_agent.machine import Machine

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups") * (os.geteuid() == 0)
"""Before a command, so that it runs without root's rights."""

BUSY = 'network = "any"\n[schedule]\nround_deadline = "1m"\ncheck_in = "100ms"\n'
"""Of an agent that asks for work all the time."""


@cache
def readable_by_nobody() -> bool:
    """Whether such a user could run the command at all."""
    words = [*NOBODY, sys.executable, "-m", "edge_agent", "--help"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


class Command:
    """Runs `edge-agent` over a state folder and a configuration of its own."""

    def __init__(self, folder) -> None:
        self.state = StateFolder(folder / "state")
        self.config = folder / "agent.toml"
        self.machine = Machine(folder / "root")
        self._home = folder

    def configure(self, more="") -> None:
        """A configuration under which a device on a free network is eligible, and `more`."""
        self.config.write_text(
            f"""
            system_root = "{self.machine.root}"
            system_bus = ""
            [data]
            folder = "{self._home}"
            [eligibility]
            settle = "0s"
            max_busy = 100
            {more}
            """
        )

    def __call__(self, *words: str, stdin="", nobody=False) -> subprocess.CompletedProcess[str]:
        with self.start(*words, nobody=nobody) as process:
            out, err = process.communicate(stdin, timeout=30)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def start(self, *words: str, nobody=False) -> subprocess.Popen[str]:
        """Start it, as a user without any rights perhaps."""
        if nobody and not readable_by_nobody():
            pytest.skip("a user without rights may not read this checkout, or its Python")
        arguments = [*words]
        if words and not words[0].startswith("-"):
            arguments += ["--state", str(self.state.folder)]
            if self.config.exists() and "--config" not in words:
                arguments += ["--config", str(self.config)]
        return subprocess.Popen(
            [*(NOBODY if nobody else ()), sys.executable, "-m", "edge_agent", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"HOME": str(self._home), "XDG_CONFIG_HOME": "", "COLUMNS": "100"},
        )

    def joined(self, url="http://127.0.0.1:9") -> None:
        """As if it had enrolled."""
        self.state.create()
        self.state.save_identity(Identity(url=url, device="device-1", secret="s" * 24))
        consent.give(self.state.folder, url, "owner", SystemClock().now())


def complaint(result: subprocess.CompletedProcess[str]) -> str:
    """The one line of an error."""
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("edge-agent: ")
    return line
