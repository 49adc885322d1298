"""Where what cannot be foreseen becomes one `CompileError`.

A model file may be damaged in ways that the ONNX package, NumPy or the runtime's builder answer
with any exception at all. The person who brought the file gets a sentence, not our stack; the
exception itself is its cause, for whoever compiles from Python.
"""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from coordinator.compiler.errors import CompileError, in_short

P = ParamSpec("P")
Result = TypeVar("Result")


def one_reading_error(load: Callable[[Path], Result]) -> Callable[[Path], Result]:
    """What fails in reading a file is the file's fault."""

    @wraps(load)
    def guarded(path: Path) -> Result:
        try:
            return load(path)
        except CompileError:
            raise
        except Exception as error:
            raise CompileError(
                f"{path}: not an ONNX model that can be read ({_said(error)}); export it again"
            ) from error

    return guarded


def one_error(compiles: Callable[P, Result]) -> Callable[P, Result]:
    """What fails in compiling may be the model's fault or ours."""

    @wraps(compiles)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> Result:
        try:
            return compiles(*args, **kwargs)
        except CompileError:
            raise
        except Exception as error:
            raise CompileError(
                f"the compiler cannot handle this model ({_said(error)}). If onnx.checker."
                "check_model(FILE, full_check=True) finds nothing wrong with it, please report it"
            ) from error

    return guarded


def _said(error: Exception) -> str:
    """An exception's kind, and what it says."""
    kind, text = type(error).__name__, in_short(error)
    return kind if text == kind else f"{kind}: {text}"
