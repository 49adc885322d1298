"""Whether a model computes each example by itself, whatever else is in the batch.

Devices choose their own batches, and their updates are averaged: a model that mixes the examples of
a batch (a softmax over it, a reshape that moves it) would train into nonsense. No rule about
operators tells that for sure, so the model is run: on a batch of random examples together, and on
each of them alone. The outputs must be the same.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from coordinator.compiler import convert, runtime
from coordinator.compiler.errors import CompileError, in_short
from coordinator.compiler.graph import Array, Graph, TensorType

EXAMPLES = 3
_SEED = 5
_TOLERANCE = 1e-3
"""Of the largest output: kernels may add in another order for another batch."""


def check(
    graph: Graph, inputs: Iterable[str], weights: Mapping[str, Array], outputs: Mapping[str, str]
) -> None:
    """Raise `CompileError` if the outputs (their labels, by tensor) depend on other examples.

    Integers are drawn from 0 and 1, so that they are indices of any table.
    """
    whole = Graph(graph.nodes, {**graph.constants, **weights})
    signature = convert.Signature(
        {name: graph.types[name] for name in inputs},
        {name: TensorType(graph.types[name].dtype, None) for name in outputs},
    )
    examples = {name: _random(known, i) for i, (name, known) in enumerate(signature.inputs.items())}
    try:
        session = runtime.session(convert.bytes_of(convert.model_of(whole, signature)))
        alone = [
            session.run(None, {n: x[i : i + 1] for n, x in examples.items()})
            for i in range(EXAMPLES)
        ]
    except Exception as error:  # noqa: BLE001  (ONNX Runtime raises several kinds)
        raise CompileError(f"the model does not run: {in_short(error)}") from None
    try:
        together = session.run(None, examples)
    except Exception as error:  # noqa: BLE001
        raise CompileError(
            f"the model runs on one example, but not on {EXAMPLES} together "
            f"({in_short(error)}); export it with a batch axis that varies"
        ) from None
    for i, label in enumerate(outputs.values()):
        _compare(label, together[i], [values[i] for values in alone])


def _random(known: TensorType, number: int) -> Array:
    rng = np.random.default_rng([_SEED, number])
    shape = (EXAMPLES, *(int(n) for n in (known.shape or ())[1:]))
    if known.dtype.kind == "f":
        return rng.normal(size=shape).astype(known.dtype)
    return rng.integers(0, 2, shape).astype(known.dtype)


def _compare(label: str, together: Array, alone: list[Array]) -> None:
    joined = np.concatenate(alone) if alone[0].ndim else np.asarray(alone)
    if not np.isfinite(joined).all():
        return  # it says nothing; the dry run does
    same = joined.shape == together.shape and np.allclose(
        together,
        joined,
        rtol=_TOLERANCE,
        atol=_TOLERANCE * float(np.abs(joined).max(initial=0)),
        equal_nan=True,
    )
    if not same:
        raise CompileError(
            f"{label} of an example depends on the other examples of the batch: an operator works "
            "along the batch, or a reshape or transpose mixes it with another axis. Every example "
            "must be computed by itself, with the batch as the first axis of inputs and outputs"
        )
