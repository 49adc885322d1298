"""`coordinator` as real processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from coordinator.server import ENDPOINT_FILE, Endpoint

COMMAND = [sys.executable, "-m", "coordinator"]
_ENVIRONMENT = os.environ | {"NO_COLOR": "1", "COLUMNS": "200"}
_START_SECONDS = 30.0


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=_ENVIRONMENT | environment,
    )


def one_line(done: subprocess.CompletedProcess[str], status: int) -> str:
    """The one line that a command which failed says, and nothing else."""
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("error: ").rstrip("\n")


@contextmanager
def served_process(
    state: Path, *options: object, command: Sequence[str] = COMMAND, **environment: str
) -> Iterator[tuple[subprocess.Popen[bytes], Endpoint]]:
    """`coordinator serve` over `state` on a free port. Killed on the way out if it still runs.
    `command` is another way to start a coordinator."""
    log = state.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "serve", "--state", str(state), "--port", "0", *map(str, options)],
            stderr=output,
            env=_ENVIRONMENT | environment,
        )
        try:
            yield process, _endpoint(process, state, log)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def stop(process: subprocess.Popen[bytes], how: signal.Signals) -> float:
    """Stop a server; returns the seconds that it took."""
    start = time.monotonic()
    process.send_signal(how)
    process.wait(timeout=20)
    return time.monotonic() - start


def _endpoint(process: subprocess.Popen[bytes], state: Path, log: Path) -> Endpoint:
    limit = time.monotonic() + _START_SECONDS
    while time.monotonic() < limit:
        assert process.poll() is None, log.read_text()
        if (state / ENDPOINT_FILE).exists():
            return msgspec.json.decode((state / ENDPOINT_FILE).read_bytes(), type=Endpoint)
        time.sleep(0.02)
    raise AssertionError("the server does not start")
