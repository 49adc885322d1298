"""ONNX Runtime is told to report nothing to its maker before anything of ours loads it."""

import os
import subprocess
import sys

import msgspec
import pytest

from tests.edge_agent.plans import FLOWERS, job_of

SPY = """
import os, sys
class Spy:
    def find_spec(self, name, path=None, target=None):
        if name == "onnxruntime":
            said = os.environ.get("ORT_DISABLE_TELEMETRY")
            print("ORT_DISABLE_TELEMETRY is", said, file=sys.stderr)
sys.meta_path.insert(0, Spy())
"""
SAID = "ORT_DISABLE_TELEMETRY is 1"


def run(program: str, *words: str, stdin: bytes = b"", **environment: str) -> str:
    """What a program says on stderr, run after the spy in an environment without the variable."""
    clean = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    done = subprocess.run(
        [sys.executable, "-c", SPY + program, *words],
        input=stdin,
        capture_output=True,
        check=True,
        env=clean | environment,
        timeout=60,
    )
    return done.stderr.decode()


@pytest.mark.parametrize(
    "program",
    [
        "import edge_agent.agent, onnxruntime",
        "import edge_agent.cli, onnxruntime",
        "import edge_agent.session",
        "import coordinator.service, onnxruntime",
        "import coordinator.cli, onnxruntime",
    ],
)
def test_it_is_said_before_the_runtime_is_loaded(program):
    assert run(program).count(SAID) == 1


def test_the_compiler_says_it_too():
    pytest.importorskip("onnx")
    assert run("import coordinator.compiler.compile, onnxruntime").count(SAID) == 1


def test_the_training_child_says_it_before_it_trains(tmp_path):
    program = "import runpy; runpy.run_module('edge_agent.worker', run_name='__main__')"
    job = msgspec.json.encode(job_of(FLOWERS, tmp_path))
    assert run(program, str(os.getpid()), stdin=job).count(SAID) == 1
    assert (tmp_path / "a-1.update").exists()


def test_an_owner_who_wants_to_report_may():
    assert "ORT_DISABLE_TELEMETRY is 0" in run(
        "import edge_agent.session", ORT_DISABLE_TELEMETRY="0"
    )
