"""The interpreters that are measured: this one, and a device's own when its path is given."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_PROBE = "import onnxruntime, platform; print(platform.python_version(), onnxruntime.__version__)"


class RuntimeMissing(Exception):
    """An interpreter that cannot be used; one line that says why."""


@dataclass(frozen=True)
class Runtime:
    """A Python interpreter with one ONNX Runtime."""

    python: str
    onnxruntime: str
    version: str

    @property
    def name(self) -> str:
        """For tables."""
        return f"onnxruntime {self.onnxruntime}"


def here() -> Runtime:
    """This interpreter."""
    return probe(sys.executable)


def probe(python: str) -> Runtime:
    """What an interpreter holds. Raises `RuntimeMissing`."""
    try:
        done = subprocess.run(
            [python, "-c", _PROBE],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            env=environment(),
        )
    except (OSError, subprocess.SubprocessError) as error:
        text = getattr(error, "stderr", None) or str(error)
        raise RuntimeMissing(f"{python}: {text.strip().splitlines()[-1]}") from None
    version, onnxruntime = done.stdout.split()
    return Runtime(python, onnxruntime, version)


def environment() -> dict[str, str]:
    """For every process that is measured: this checkout's code, and a runtime that is silent."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": paths, "ORT_DISABLE_TELEMETRY": "1"}
