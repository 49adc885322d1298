"""What a plan asks of a device: arithmetic, traffic and memory of a step, and the time of a round.

All of it is counted from the plan's graphs, and an estimate. Memory is what the training child
holds beyond a child with a plan of a few bytes. With w for the weights, s for the optimiser's state
and a for what is live at once inside a step (`liveness.py`), in bytes:

    training      6 w + 2 s + 2 a
    evaluation    w + 2 a, on a batch of 64
    the whole     the greater of them, + 2 MB + the examples of a round

The model and two sets of weights and state; twice what is live, since ONNX Runtime lays its memory
out anew once it has seen a first step and gives the old back late; the change and its coding, which
take about 3 w before all of this is gone.

Left out: what a convolution lays out for itself, but for a transposed one; how examples are stored.

Against the peaks of real training children (stock ONNX Runtime 1.31, x86-64, 600 examples, float32
updates), the estimate is, in MB: 2NN 8.8 for a measured 8.0; CNN 51 for 56; three convolutions with
AdamW 14 for 9.6, with SGD and a batch of 100 54 for 48; a dense layer of 784 x 2000 with AdamW 105
for 111.
"""

import math
from collections.abc import Mapping

import msgspec

from coordinator.compiler.boards import BOARDS, Board
from coordinator.compiler.cost import Cost, cost
from coordinator.compiler.liveness import peak
from coordinator.compiler.sizes import sized
from wire.plan import PERSONAL_NAME, TRAIN_NAME, FileName, Manifest

EXAMPLES = 600
"""Examples of a device in a round: what estimates reckon with."""
EVALUATION_BATCH = 64
"""Examples that a device evaluates at once."""
RUNTIME_BYTES = 45_000_000
"""What the training child holds of memory of its own before it opens a plan, about."""

_OVERHEAD = 2_000_000
_LIVE = 2
_ITEM = {"float32": 4, "float64": 8, "int32": 4, "int64": 8, "uint8": 1, "bool": 1}


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of the training child beyond the runtime's own. `weights` and `state` are one set;
    `live` is what is live at once inside a step, `total` the whole."""

    weights: int
    state: int
    live: int
    examples: int
    evaluation: int
    total: int


class OnBoard(msgspec.Struct, frozen=True, kw_only=True):
    """A plan on a board: seconds of a step and of a round, from the best to the worst; the bytes
    that the training child needs in all, and those that its agent gives it."""

    board: str
    step: tuple[float, float]
    round: tuple[float, float]
    needs: int
    limit: int

    @property
    def fits(self) -> bool:
        """Whether the training child stays within its limit."""
        return self.needs <= self.limit


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """What it takes to make a model personal, with `EXAMPLES` examples: so many steps, each of so
    many floating-point operations."""

    steps: int
    flops: int


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """Of a plan. `steps` is how many a round of `EXAMPLES` examples has; `flops` and `bytes` are of
    one step; `flops_by_operator` has those with any. `unknown` counts tensors whose shapes cannot
    be told: what is worked out with them is missing. `tuning` is of plans of personal models."""

    batch: int
    steps: int
    flops: int
    bytes: int
    nodes: int
    flops_by_operator: dict[str, int]
    memory: Memory
    boards: tuple[OnBoard, ...]
    unknown: int
    tuning: Tuning | None = None


def estimate(manifest: Manifest, files: Mapping[FileName, bytes]) -> Estimate:
    """Of a whole plan. Raises `CompileError` when its graphs cannot be read."""
    train = sized(files["train.onnx"], manifest.batch)
    evaluate = sized(files["evaluate.onnx"], EVALUATION_BATCH)
    live = _live(manifest, files, manifest.batch)
    memory = _memory(manifest, live, peak(evaluate).bytes)
    steps = manifest.epochs * math.ceil(EXAMPLES / manifest.batch)
    found = cost(train)
    return Estimate(
        batch=manifest.batch,
        steps=steps,
        flops=found.flops,
        bytes=found.bytes,
        nodes=found.nodes,
        flops_by_operator={op: n for op, n in found.by_operator.items() if n},
        memory=memory,
        boards=tuple(_on(board, found, steps, memory.total) for board in BOARDS),
        unknown=len(train.unknown),
        tuning=_tuning(manifest, files),
    )


def largest_batch(manifest: Manifest, files: Mapping[FileName, bytes], limit: int) -> int:
    """The largest batch with which a training child holds at most `limit` bytes in all; 0 if none
    does. What is live grows with the batch: a power of two, at most the plan's own batch."""
    evaluation = peak(sized(files["evaluate.onnx"], EVALUATION_BATCH)).bytes
    batch = 1 << max(manifest.batch.bit_length() - 1, 0)
    while batch:
        live = _live(manifest, files, batch)
        if _memory(manifest, live, evaluation).total + RUNTIME_BYTES <= limit:
            return batch
        batch //= 2
    return 0


def _live(manifest: Manifest, files: Mapping[FileName, bytes], batch: int) -> int:
    """What is live at once inside a step, of the graph that has most."""
    graphs = (TRAIN_NAME, PERSONAL_NAME) if manifest.tuning else (TRAIN_NAME,)
    return max(peak(sized(files[name], batch)).bytes for name in graphs)


def _tuning(manifest: Manifest, files: Mapping[FileName, bytes]) -> Tuning | None:
    personal = manifest.tuning
    if personal is None:
        return None
    flops = cost(sized(files[PERSONAL_NAME], manifest.batch)).flops
    return Tuning(steps=personal.epochs * math.ceil(EXAMPLES / manifest.batch), flops=flops)


def _memory(manifest: Manifest, live: int, evaluation: int) -> Memory:
    weights = 4 * manifest.weights
    state = 4 * sum(math.prod(slot.shape) for slot in manifest.state)
    one = sum(_ITEM[i.dtype] * math.prod(i.shape) for i in manifest.inputs)
    training = 6 * weights + 2 * state + _LIVE * live
    evaluating = weights + _LIVE * evaluation
    total = max(training, evaluating) + _OVERHEAD + EXAMPLES * one
    return Memory(
        weights=weights,
        state=state,
        live=live,
        examples=EXAMPLES * one,
        evaluation=evaluation,
        total=total,
    )


def _on(board: Board, found: Cost, steps: int, memory: int) -> OnBoard:
    """The best is when arithmetic hides behind traffic or the other way round, the worst when one
    waits for the other."""
    best = max(found.flops / board.flops.best, found.bytes / board.traffic.best)
    worst = found.flops / board.flops.worst + found.bytes / board.traffic.worst
    step = (best + found.nodes * board.node.best, worst + found.nodes * board.node.worst)
    return OnBoard(
        board=board.name,
        step=step,
        round=(steps * step[0], steps * step[1]),
        needs=memory + RUNTIME_BYTES,
        limit=board.limit,
    )
