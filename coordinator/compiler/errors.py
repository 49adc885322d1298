"""What goes wrong when a plan is compiled.

CompileError(ValueError)     the model, or what the task asks of it, cannot be compiled
"""


class CompileError(ValueError):
    """Something the person who wrote the task can put right; the message says what and how."""
