"""What every graph of a plan goes through last: simplified, fused, and written to bytes."""

from collections.abc import Collection, Mapping

from coordinator.compiler import fuse, shapes, simplify
from coordinator.compiler.assemble import FrozenFile, Interface, write
from coordinator.compiler.graph import Graph
from coordinator.compiler.state import check_in_place


def finish(
    graph: Graph,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    frozen: FrozenFile,
    state: Collection[str] = (),
) -> bytes:
    """The graph's bytes, with these inputs (public names by tensor) and outputs (tensors by public
    name). `state` are the inputs that their next values may overwrite."""
    shapes.update(graph, inputs)
    now = simplify.simplify(graph, outputs.values())
    fuse.join_products(graph)
    shapes.update(graph, inputs)
    fuse.accumulate(graph)
    simplify.prune(graph, now.values())
    slots = {tensor: f"next/{name}" for tensor, name in inputs.items() if tensor in state}
    check_in_place(graph, {tensor: now[outputs[public]] for tensor, public in slots.items()})
    simplify.name_batch(graph)
    interface = Interface(inputs, {public: now[tensor] for public, tensor in outputs.items()})
    return write(graph, interface, lambda _, value: frozen.place(value))
