"""Where what cannot be foreseen becomes one `CompileError`.

A model file may be damaged in ways that the ONNX package, NumPy or the runtime's builder answer
with any exception at all. The person who brought the file gets a sentence, not our stack; the
exception itself is its cause, for whoever calls `compile_task` from Python.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coordinator.compiler.errors import CompileError

_LONGEST = 300  # characters of another's error message


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What fails inside is the file's fault."""
    try:
        yield
    except CompileError:
        raise
    except Exception as error:
        raise CompileError(
            f"{path}: not an ONNX model that can be read: {_said(error)}; export it again"
        ) from error


@contextmanager
def compiling(path: Path) -> Iterator[None]:
    """What fails inside may be the model's fault or ours."""
    try:
        yield
    except CompileError:
        raise
    except Exception as error:
        raise CompileError(
            f"{path}: the compiler cannot handle this model ({_said(error)}). If "
            "onnx.checker.check_model(path, full_check=True) finds nothing wrong with it, please "
            "report it"
        ) from error


def _said(error: Exception) -> str:
    """An exception's kind and its first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:_LONGEST]}" if lines else type(error).__name__
