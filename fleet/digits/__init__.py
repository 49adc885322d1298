"""The demo's task: handwritten digits, a small network, a skewed share on each device.

`digits.onnx` is the model, `digits.toml` the task, `plan/` the plan compiled from them, for
machines where the training build of ONNX Runtime has no wheel. `python -m fleet.digits.make`
makes all but the task file anew.
"""

from pathlib import Path

FOLDER = Path(__file__).parent
TASK = FOLDER / "digits.toml"
PLAN = FOLDER / "plan"
