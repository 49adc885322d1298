"""onnxruntime-training's own Module/Optimizer API, the baseline of the training steps.

`python -m benchmarks.training_api FOLDER MODEL OPTIMIZER` writes its files of a model: in a process
of its own, as our compiler tells the gradient builder of other gradients for some operators, and
those it would take.

`import onnxruntime.training` needs torch, for parts that this API does not use. So the package's
own first file is passed over: `api` and `artifacts` below are its code, untouched.
"""

import importlib
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from benchmarks.models import save
from benchmarks.plans import MODELS

_PACKAGE = "onnxruntime.training"


def _package() -> tuple[Any, Any]:
    """(`api`, `artifacts`). Raises `ImportError` where there is no training build."""
    if _PACKAGE not in sys.modules:
        folder = Path(ort.__file__).parent / "training"
        if not (folder / "api").is_dir():
            raise ImportError(f"onnxruntime {ort.__version__} here is not the training build")
        package = types.ModuleType(_PACKAGE)
        package.__path__ = [str(folder)]
        sys.modules[_PACKAGE] = package
    return (
        importlib.import_module(f"{_PACKAGE}.api"),
        importlib.import_module(f"{_PACKAGE}.artifacts"),
    )


def artifacts_of(folder: Path, model: str, optimizer: str = "sgd") -> Path:
    """Where the API's files of a model are."""
    return folder / (
        f"artifacts-{model}" if optimizer == "sgd" else f"artifacts-{model}-{optimizer}"
    )


def write_artifacts(folder: Path, model: str, optimizer: str = "sgd") -> Path:
    """The API's training artifacts of a model: cross-entropy, every weight trained."""
    _, artifacts = _package()
    made = artifacts_of(folder, model, optimizer)
    made.mkdir(exist_ok=True)
    graph = _complete(MODELS[model]())
    with _quiet():
        artifacts.generate_artifacts(
            graph,
            requires_grad=[weight.name for weight in graph.graph.initializer],
            loss=artifacts.LossType.CrossEntropyLoss,
            optimizer=_block(optimizer),
            artifact_directory=str(made),
        )
    file = made / "optimizer_model.onnx"
    written = onnx.load(file)
    written.ir_version = min(written.ir_version, 10)  # the newest that this build reads
    save(written, file)
    return made


def _complete(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model as the API can train it: layer norms with the outputs that are optional, but
    that its gradient builder reads."""
    for node in model.graph.node:
        if node.op_type == "LayerNormalization":
            node.output.extend(f"{node.name}.{what}" for what in ("mean", "inverse"))
    return model


def _block(optimizer: str) -> Any:
    blocks = importlib.import_module(f"{_PACKAGE}.onnxblock.optim")
    # The API adds epsilon before it corrects the second moment: with a usual one, first steps from
    # tiny gradients differ.
    return blocks.AdamW(eps=1e-12, weight_decay=0.01) if optimizer == "adamw" else blocks.SGD()


@contextmanager
def _quiet() -> Iterator[None]:
    """Standard error closed for a while: the gradient builder tells of every rewrite of the graph,
    whatever severity it is told to log from."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class ApiTrainer:
    """A model under the API; `step` is one batch, forward, backward and update, as documented."""

    def __init__(self, folder: Path, rate: float) -> None:
        api, _ = _package()
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        state = api.CheckpointState.load_checkpoint(str(folder / "checkpoint"))
        self._module = api.Module(
            str(folder / "training_model.onnx"), state, device="cpu", session_options=options
        )
        self._optimizer = api.Optimizer(str(folder / "optimizer_model.onnx"), self._module)
        self._optimizer.set_learning_rate(rate)
        self._module.train()

    def step(self, batch: dict[str, Any]) -> float:
        """One optimiser step; returns the batch's mean loss."""
        loss = self._module(batch["x"], batch["label"])
        self._optimizer.step()
        self._module.lazy_reset_grad()
        return float(loss)


if __name__ == "__main__":
    write_artifacts(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
