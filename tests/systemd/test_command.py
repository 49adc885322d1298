"""`edge-agent` on a machine where it is, or is to be, a service: what its owner is told."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge_agent import consent
from edge_agent.state import Identity, StateFolder
from schedules.clock import SystemClock
from tests.coordinator import processes

URL = "http://127.0.0.1:9"


def edge_agent(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edge_agent", *map(str, words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def running(state: Path) -> Iterator[None]:
    """An agent runs, and has got as far as to tell its status."""
    with subprocess.Popen(
        [sys.executable, "-m", "edge_agent", "run", "--state", state], stderr=subprocess.DEVNULL
    ) as agent:
        try:
            limit = time.monotonic() + 30
            while not (state / "agent.sock").exists():
                assert agent.poll() is None
                assert time.monotonic() < limit
                time.sleep(0.05)
            yield
        finally:
            agent.terminate()


def test_who_joins_and_then_asks_is_told_what_the_agent_does(tmp_path: Path):
    """As in the README: the next command after joining does not say `not_enrolled`."""
    state = tmp_path / "agent"
    with processes.served_process(tmp_path / "coordinator") as (_, endpoint), running(state):
        assert "not_enrolled" in edge_agent("status", "--state", state).stdout
        token = processes.run("token", "--state", tmp_path / "coordinator").stdout.strip()
        joined = edge_agent("enroll", endpoint.url, token, "--consent", "--state", state)
        assert (joined.returncode, joined.stderr) == (0, "")
        told = edge_agent("status", "--state", state).stdout
        assert told
        assert "not" not in told.splitlines()[0]  # neither "not_enrolled" nor "not running"


def test_a_withdrawn_consent_is_told_also_by_an_agent_at_rest(tmp_path: Path):
    state = StateFolder(tmp_path / "state")
    state.create()
    state.save_identity(Identity(url=URL, device="device-1", secret="s" * 24))
    assert "no_consent: the owner" in edge_agent("status", "--state", state.folder).stdout
    consent.give(state.folder, URL, "owner", SystemClock().now())
    assert "no_consent" not in edge_agent("status", "--state", state.folder).stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_another_user_than_the_services_is_told_to_say_sudo(tmp_path: Path):
    program = (
        "import argparse, os, sys; from pathlib import Path; import systemd.machine;"
        "from edge_agent.cli.common import state_of;"
        "os.setgroups([]); os.setgid(1234); os.setuid(1234);"
        "state_of(argparse.Namespace(state=Path(sys.argv[1])))"
    )
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    os.chown(tmp_path, 4321, 4321)
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert "belongs to another user: ask as that one, or as root (sudo)" in done.stderr
