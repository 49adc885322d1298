"""Operators that only rearrange. Their gradients are standard operators."""

from coordinator.compiler.operators.registry import operator

operator("Flatten", view=True)
operator("Identity", view=True)
operator("Reshape", view=True)
operator("Squeeze", view=True)
operator("Transpose", view=True)
operator("Unsqueeze", view=True)
