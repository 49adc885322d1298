"""What small boards can do with one thread: the one table that estimates read.

Rates are ranges, since they depend on the shapes at work. They are derived from what others have
published, not measured with our plans:

* Arithmetic, upper end: single-threaded inference in ncnn (`Tencent/ncnn`, benchmark/README.md).
  ResNet-50, 8.2 GFLOP, takes 687 ms on a Cortex-A72 at 1.8 GHz and 1212 ms on a Cortex-A53 at
  1.2 GHz: 9.9 and 5.6 GFLOP/s at the 1.5 and 1.0 GHz of these boards. Winograd's products and
  kernels written by hand are in that, so 8 and 4 are taken for ONNX Runtime's general ones.
* Arithmetic, lower end: AlexNet there, whose dense layers wait for memory, 1.4 GFLOP in 312 and
  491 ms, is 3.8 and 2.4 GFLOP/s; half of it is taken, for the thin products of small batches.
* Memory: sbc-bench (`ThomasKaiser/sbc-bench`, Results.md) has memcpy at 2.2 to 2.8 GB/s on a
  Raspberry Pi 4 B and 1.3 GB/s on a Pi Zero 2 at 1.0 GHz, which reads and writes each byte: the
  upper end is twice that, the lower end once.
* The time that the runtime takes for a node, however small, is our own guess: 4 us on the machine
  where it was measured, times what single-threaded integer work takes longer on such cores.

`limit` is `training.max_memory` of the agent's profile for the board: what its training child may
hold of memory of its own.
"""

from typing import NamedTuple


class Range(NamedTuple):
    """From the hopeful to the cautious."""

    best: float
    worst: float


class Board(NamedTuple):
    """A device model. Arithmetic in FLOP/s, memory traffic in bytes/s, a node's cost in seconds."""

    name: str
    flops: Range
    traffic: Range
    node: Range
    memory: int
    limit: int


BOARDS = (
    Board(
        "Raspberry Pi 4",
        flops=Range(8e9, 1.9e9),
        traffic=Range(5.0e9, 2.2e9),
        node=Range(8e-6, 25e-6),
        memory=1_000_000_000,  # of the smallest
        limit=500_000_000,
    ),
    Board(
        "Raspberry Pi Zero 2 W",
        flops=Range(4e9, 1.2e9),
        traffic=Range(2.6e9, 1.3e9),
        node=Range(20e-6, 60e-6),
        memory=512_000_000,
        limit=200_000_000,
    ),
)
