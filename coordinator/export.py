"""A published model as one ONNX file that any ONNX Runtime opens."""

import tempfile
from pathlib import Path

from wire.plan import CHECKPOINT_NAME, FROZEN_NAME


def complete_model(model: bytes, checkpoint: bytes, frozen: bytes | None) -> bytes:
    """The plan's `model.onnx` with a checkpoint's weights, and the frozen ones, inside it."""
    import onnx

    loaded = onnx.load_model_from_string(model)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / CHECKPOINT_NAME).write_bytes(checkpoint)
        if frozen is not None:
            (Path(folder) / FROZEN_NAME).write_bytes(frozen)
        onnx.external_data_helper.load_external_data_for_model(loaded, folder)
    onnx.checker.check_model(loaded)
    complete: bytes = loaded.SerializeToString()
    return complete
