"""A process that takes training steps when told: `python -m benchmarks.stepper KIND FOLDER BATCH`.

KIND is `plan` (the agent's own `Trainer`, on whatever ONNX Runtime this interpreter has), `api`
(onnxruntime-training's Module/Optimizer) or `torch`. It prints its first losses, then reads a
number of steps a line and prints the seconds they took: by the clock on the wall, and of the
processor.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import numpy as np

from edge_agent.examples import Examples
from edge_agent.session import Trainer
from wire import checkpoint
from wire.checkpoint import Weights
from wire.plan import Manifest, parse_manifest

FIRST_LOSSES = 20
_BATCHES = 8


def main() -> None:
    """Serve the lines of stdin."""
    kind, folder, batch = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    step = start(kind, folder, batch)
    print(json.dumps([step() for _ in range(FIRST_LOSSES)]), flush=True)
    for line in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            step()
        times = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps(times), flush=True)


def start(kind: str, folder: Path, size: int) -> Callable[[], float]:
    """What takes one step at each call, over a few batches of `size` in turn, and gives its loss.

    Blocking: opens the sessions."""
    return {"plan": _plan, "api": _api, "torch": _torch}[kind](folder, size)


def _plan(folder: Path, size: int) -> Callable[[], float]:
    manifest, weights = _read(folder)
    trainer = Trainer(manifest, folder, weights, threads=1)
    batches = cycle(list(_batches(manifest, size)))
    return lambda: trainer.step(next(batches))


def _api(folder: Path, size: int) -> Callable[[], float]:
    from benchmarks.training_api import ApiTrainer

    # The same batches as the plan's: its manifest lies beside the artifacts.
    plan = folder.with_name(folder.name.replace("artifacts-", "plan-"))
    manifest = parse_manifest((plan / "manifest.json").read_bytes())
    trainer = ApiTrainer(folder, manifest.learning_rate)
    batches = cycle([batch.arrays for batch in _batches(manifest, size)])
    return lambda: trainer.step(next(batches))


def _torch(folder: Path, size: int) -> Callable[[], float]:
    from benchmarks.torch_models import TorchTrainer

    manifest, weights = _read(folder)
    trainer = TorchTrainer(folder.name.removeprefix("plan-"), weights)
    batches = cycle([batch.arrays for batch in _batches(manifest, size)])
    return lambda: trainer.step(next(batches))


def _read(folder: Path) -> tuple[Manifest, Weights]:
    manifest = parse_manifest((folder / "manifest.json").read_bytes())
    data = (folder / "checkpoint.safetensors").read_bytes()
    return manifest, checkpoint.read(data, manifest.parameters)


def _batches(manifest: Manifest, size: int) -> Iterator[Examples]:
    rng = np.random.default_rng(7)
    for _ in range(_BATCHES):
        yield Examples(
            {
                i.name: rng.integers(0, i.classes, (size, *i.shape), np.dtype(i.dtype))
                if i.classes
                else rng.random((size, *i.shape), np.float32)
                for i in manifest.inputs
            }
        )


if __name__ == "__main__":
    main()
