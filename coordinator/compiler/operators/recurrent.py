"""Recurrent layers: RNN, LSTM and GRU, unrolled for training (see `unrolling.py`).

X is [steps, batch, inputs], W [directions, gates * hidden, inputs], R [directions, gates * hidden,
hidden], B [directions, 2 * gates * hidden]: first what is added to the inputs' product, then what
is added to the state's. Formulas and the order of gates are ONNX's.

A step's state enters it through one Gemm, which adds the inputs' part at once.
"""

from collections.abc import Sequence

from coordinator.compiler.errors import CompileError
from coordinator.compiler.graph import Emitter, Node
from coordinator.compiler.operators.registry import expansion, inference, operator
from coordinator.compiler.operators.unrolling import (
    STEPS_LIMIT,
    Activation,
    Layer,
    State,
    Step,
    again,
    layer_of,
    split,
    time_first,
    without_zeros,
)

_UNROLLED = (
    f"unrolled: one fixed length, at most {STEPS_LIMIT} steps; no `sequence_lens`, no `clip`"
)
operator("RNN", weights=(1, 2, 3), note=_UNROLLED)
operator("LSTM", weights=(1, 2, 3, 7), note=_UNROLLED + ", no `input_forget`")
operator("GRU", weights=(1, 2, 3), note=_UNROLLED)


@inference("RNN")
@inference("LSTM")
@inference("GRU")
def as_runtime_has_it(emit: Emitter, node: Node) -> list[str] | None:
    """ONNX Runtime knows no layout but the sequence first, and a state of zeros that was exported
    for one example must not hold up a batch."""
    plain = without_zeros(emit.graph, node)
    if node.attributes.get("layout", 0):
        return time_first(emit, plain)
    return None if plain == node else again(emit, plain, plain.inputs, plain.attributes)


@expansion("RNN")
def rnn(emit: Emitter, node: Node) -> list[str]:
    """H = f(X W' + H R' + b)."""
    layer = layer_of(emit, node, gates=1)
    functions = layer.activations(("Tanh",))
    rs = layer.of_direction(node.inputs[2])
    cells = [_rnn_step(emit, f, r) for (f,), r in zip(functions, rs, strict=True)]
    return layer.unrolled(_whole_bias(layer), (1,), 1, cells)


def _rnn_step(emit: Emitter, f: Activation, r: str) -> Step:
    def step(pieces: tuple[str, ...], state: State) -> tuple[str, ...]:
        (x,), (h,) = pieces, state
        return (f(_with_state(emit, x, h, r)),)

    return step


@expansion("LSTM")
def lstm(emit: Emitter, node: Node) -> list[str]:
    """I, O, F = f(X W' + H R' + P C + b); C = F C + I g(X W' + H R' + b); H = O h(C).

    O sees the new C.
    """
    layer = layer_of(emit, node, gates=4)
    if node.attributes.get("input_forget", 0):
        raise CompileError(
            f"{layer.where} couples its input and forget gates (input_forget), which is not "
            "supported; use a GRU, or an LSTM with gates of its own"
        )
    functions = layer.activations(("Sigmoid", "Tanh", "Tanh"))
    rs = layer.of_direction(node.inputs[2])
    if layer.node.input(7):
        ps = layer.of_direction(layer.node.input(7))
        cells = [_peephole_step(layer, *one) for one in zip(functions, rs, ps, strict=True)]
    else:
        cells = [_lstm_step(layer, *one) for one in zip(functions, rs, strict=True)]
    return layer.unrolled(_whole_bias(layer), (4,), 2, cells)


def _lstm_step(layer: Layer, functions: Sequence[Activation], r: str) -> Step:
    emit, n = layer.emit, layer.hidden
    f, g, h_of = functions

    def step(pieces: tuple[str, ...], state: State) -> tuple[str, ...]:
        (x,), (h, c) = pieces, state
        gates, cell = split(emit, _with_state(emit, x, h, r), [3 * n, n], axis=1)
        i, o, forget = split(emit, f(gates), [n] * 3, axis=1)
        new = _new_cell(emit, i, g(cell), forget, c or emit.const(0.0))
        return emit.op("Mul", o, h_of(new)), new

    return step


def _peephole_step(layer: Layer, functions: Sequence[Activation], r: str, p: str) -> Step:
    emit, n = layer.emit, layer.hidden
    f, g, h_of = functions
    p_i, p_o, p_f = split(emit, p, [n] * 3, axis=0)

    def gate(x: str, weight: str, c: str) -> str:
        return f(emit.op("Add", x, emit.op("Mul", c, weight)))

    def step(pieces: tuple[str, ...], state: State) -> tuple[str, ...]:
        (x,), (h, before) = pieces, state
        c = before or emit.const(0.0)
        i, o, forget, cell = split(emit, _with_state(emit, x, h, r), [n] * 4, axis=1)
        new = _new_cell(emit, gate(i, p_i, c), g(cell), gate(forget, p_f, c), c)
        return emit.op("Mul", gate(o, p_o, new), h_of(new)), new

    return step


def _new_cell(emit: Emitter, i: str, new: str, forget: str, old: str) -> str:
    return emit.op("Add", emit.op("Mul", i, new), emit.op("Mul", forget, old))


@expansion("GRU")
def gru(emit: Emitter, node: Node) -> list[str]:
    """Z, R = f(X W' + H R' + b); H = Z H + (1 - Z) g(...).

    The argument of g is X W' + (R H) R' + b, or with linear_before_reset X W' + R (H R' + b') + b.
    """
    layer = layer_of(emit, node, gates=3)
    n, before = layer.hidden, bool(node.attributes.get("linear_before_reset", 0))
    functions = layer.activations(("Sigmoid", "Tanh"))
    bias, inner = _gru_bias(layer) if before else (_whole_bias(layer), None)
    inners = layer.of_direction(inner) if inner else [""] * len(functions)
    cells = []
    for (f, g), r, b in zip(functions, layer.of_direction(node.inputs[2]), inners, strict=True):
        gates, candidate = split(emit, r, [2 * n, n], axis=0)
        cells.append(_gru_step(layer, (f, g), gates, candidate, b if before else None))
    return layer.unrolled(bias, (2, 1), 1, cells)


def _gru_bias(layer: Layer) -> tuple[str | None, str | None]:
    """The bias of everything, [directions * 3 * hidden], and of the state's product under the
    reset gate, [directions, hidden]."""
    parts = layer.bias_parts()
    if parts is None:
        return None, None
    n, emit = layer.hidden, layer.emit
    gates, candidate = split(emit, parts[0], [2 * n, n], axis=1)
    more, inner = split(emit, parts[1], [2 * n, n], axis=1)
    whole = emit.op("Concat", emit.op("Add", gates, more), candidate, axis=1)
    return emit.op("Reshape", whole, emit.ints(-1)), inner


def _gru_step(
    layer: Layer, functions: tuple[Activation, Activation], gates: str, candidate: str,
    inner: str | None,
) -> Step:  # fmt: skip
    """`inner` is None when the reset gate comes before the product, else its bias, if any."""
    emit, n = layer.emit, layer.hidden
    f, g = functions

    def step(pieces: tuple[str, ...], state: State) -> tuple[str, ...]:
        x, x_new = pieces
        # A state of zeros is a tensor here: without it, the first reset gate would have no use.
        h = state[0] or emit.op("Mul", x_new, emit.const(0.0))
        z, r = split(emit, f(_with_state(emit, x, state[0], gates)), [n, n], axis=1)
        if inner is None:
            new = g(_with_state(emit, x_new, emit.op("Mul", r, h), candidate))
        else:
            bias = (inner,) if inner else ()
            product = emit.op("Gemm", h, candidate, *bias, transB=1)
            new = g(emit.op("Add", x_new, emit.op("Mul", r, product)))
        return (emit.op("Add", new, emit.op("Mul", z, emit.op("Sub", h, new))),)

    return step


def _whole_bias(layer: Layer) -> str | None:
    """Both biases at once, [directions * gates * hidden]."""
    parts = layer.bias_parts()
    if parts is None:
        return None
    return layer.emit.op("Reshape", layer.emit.op("Add", *parts), layer.emit.ints(-1))


def _with_state(emit: Emitter, x: str, h: str | None, r: str) -> str:
    """X + H R'. Zeros cost nothing."""
    return x if h is None else emit.op("Gemm", h, r, x, transB=1)
