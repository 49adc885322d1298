"""What goes wrong when a plan is compiled.

CompileError(ValueError)     the model, or what the task asks of it, cannot be compiled
"""


class CompileError(ValueError):
    """Something the person who wrote the task can put right; the message says what and how."""


def in_short(error: Exception) -> str:
    """Another's error in one line, for a message of ours: what it says, or else its kind."""
    text = " ".join(str(error).split())
    return text[:300] if text else type(error).__name__
