"""`python -m benchmarks.simulated PLAN DATA ROUNDS WORKERS`: our own simulation, for
`benchmarks.simulators`; it prints what `benchmarks.others` asks for."""

import json
import sys
import time
from pathlib import Path

import numpy as np

from coordinator import taskfile
from coordinator.compiler.folder import read_plan_dir
from edge_agent.evaluation import evaluate
from edge_agent.examples import Examples
from fleet.simulation import Devices, Version, simulate

_TASK = """
name = "2nn"
model = {{ file = "2nn.onnx" }}
loss = {{ kind = "cross_entropy" }}
optimizer = {{ kind = "sgd", learning_rate = 0.1 }}
training = {{ epochs = 1, batch = 10, metrics = ["loss", "accuracy"] }}
round = {{ goal = 10, minimum = 10, over_selection = 1, over_selection_limit = 1, \
rounds = {rounds}, deadline = "1h" }}
schedule = {{ round_deadline = "1h", check_in = "1m" }}
"""


def main() -> None:
    """Run as the command line says."""
    plan, rounds, workers = Path(sys.argv[1]), int(sys.argv[3]), int(sys.argv[4])
    with np.load(sys.argv[2]) as found:
        data = {name: found[name] for name in found.files}
    devices = Devices(
        pool=Examples({"x": data["x"], "label": data["label"]}), shares=list(data["shares"])
    )
    result = simulate(
        taskfile.parse(_TASK.format(rounds=rounds)),
        plan,
        devices,
        seed=1,
        evaluate_every=0,
        workers=workers,
        on_version=_tell,
    )
    test = Examples({"x": data["test_x"], "label": data["test_label"]})
    manifest = read_plan_dir(plan).manifest
    accuracy = evaluate(manifest, plan, result.weights, test, threads=1)["accuracy"]
    print(json.dumps({"accuracy": accuracy}), flush=True)


def _tell(version: Version) -> None:
    if version.number:
        print(json.dumps({"round": version.round, "at": time.monotonic()}), flush=True)


if __name__ == "__main__":
    main()
