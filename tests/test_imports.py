"""Who may import whom, and what an idle agent never loads."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LIGHT = ["wire.messages", "wire.plan", "wire.strict", "schedules.schedule", "edge_agent.cli"]
"""What an idle agent imports of ours: nothing of it may load what is heavy."""
HEAVY = {"numpy", "onnxruntime"}


def test_the_packages_import_only_what_the_house_allows():
    # In a process of its own: the linter sets up logging for all of the process it runs in.
    program = "import sys, importlinter.cli as c; sys.exit(c.lint_imports(no_cache=True))"
    linted = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert linted.returncode == 0, linted.stdout


@pytest.mark.parametrize("module", LIGHT)
def test_what_an_idle_agent_imports_is_light(module):
    program = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    loaded = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    found = set(json.loads(loaded.stdout))
    assert module in found
    assert not found & HEAVY
