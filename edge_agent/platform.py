"""What this device is and can run, as it tells its coordinator."""

import platform
from importlib import metadata

import psutil

from wire.messages import Facts


def facts() -> Facts:
    """What this device is and can run."""
    return Facts(
        agent=metadata.version("lamplighter"),
        machine=platform.machine(),
        system=f"{platform.system()} {platform.release()}"[:100],
        python=platform.python_version(),
        runtime=runtime_version(),
        cores=psutil.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
    )


def runtime_version() -> str:
    """The installed ONNX Runtime, without importing it; `none` when there is none."""
    for name in ("onnxruntime", "onnxruntime-training-cpu"):
        try:
            return f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue
    return "none"
