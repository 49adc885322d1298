"""The geometry of sliding windows, shared by convolution and pooling."""

from dataclasses import dataclass

from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import Graph, Node


@dataclass(frozen=True)
class Windows:
    """How a node's windows slide: one number a spatial axis, pads before and after."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    @property
    def extent(self) -> tuple[int, ...]:
        """Length that one window covers, holes of the dilation included."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def pads(self) -> list[int]:
        """Pads in ONNX's order: all that come before, then all that come after."""
        return [*self.before, *self.after]

    @property
    def attributes(self) -> dict[str, list[int]]:
        """The windows as a node's attributes, every number written out."""
        return {
            "kernel_shape": list(self.kernel),
            "strides": list(self.strides),
            "dilations": list(self.dilations),
            "pads": self.pads,
        }

    def covered(self, out: tuple[int, ...]) -> tuple[int, ...]:
        """Length of padded input that `out` windows reach."""
        return tuple(
            (o - 1) * s + e for o, s, e in zip(out, self.strides, self.extent, strict=True)
        )

    def left_over(self, size: tuple[int, ...], out: tuple[int, ...]) -> list[int]:
        """How much of a padded input of `size` comes after what `out` windows reach."""
        return [
            n + b + a - c
            for n, b, a, c in zip(size, self.before, self.after, self.covered(out), strict=True)
        ]


def windows_of(graph: Graph, node: Node, kernel: tuple[int, ...] | None = None) -> Windows:
    """A node's windows; `kernel` when the node need not name it. `auto_pad` is worked out."""
    size = node.integers("kernel_shape", kernel or ())
    rank = len(size)
    strides = node.integers("strides", [1] * rank)
    dilations = node.integers("dilations", [1] * rank)
    pads = node.integers("pads", [0] * 2 * rank)
    windows = Windows(size, strides, dilations, pads[:rank], pads[rank:])
    auto = node.attributes.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        return windows
    if auto == "VALID":
        return Windows(size, strides, dilations, (0,) * rank, (0,) * rank)
    before, after = [], []
    for n, s, e in zip(graph.fixed(node.inputs[0], slice(2, None)), strides, windows.extent,
                       strict=True):  # fmt: skip
        total = max((-(-n // s) - 1) * s + e - n, 0)
        small = total // 2
        before.append(small if auto == "SAME_UPPER" else total - small)
        after.append(total - before[-1])
    return Windows(size, strides, dilations, tuple(before), tuple(after))


def spatial(graph: Graph, tensor: str, node: Node) -> tuple[int, ...]:
    """A tensor's spatial axes; [batch, channels, ...] with one to three of them."""
    shape = graph.shape(tensor)
    if not 3 <= len(shape) <= 5:
        raise CompileError(
            f"{graph.where(node)} works on one to three spatial axes; "
            f"its input has {len(shape) - 2}"
        )
    return graph.fixed(tensor, slice(2, None))


def with_explicit_pads(node: Node, windows: Windows) -> dict[str, object]:
    """The node's attributes with every number of its windows written out, and no `auto_pad`."""
    kept = {k: v for k, v in node.attributes.items() if k != "auto_pad"}
    return {**kept, **windows.attributes}
