"""The optimisers: one class each, registered for its section of the task file.

An optimiser emits the operators of one step: from weights, gradients and its own state to new
weights and new state. Every extra pass over the weights costs time on a device, so formulas are
arranged to have few of them, and small weights share theirs (`flat.py`).

The order of a step: the gradient of the loss; the proximal term, as part of it (`proximal.py`); the
clipping of both together (`clipping.py`); the optimiser, which adds coupled weight decay first. So
it is in PyTorch, where decay is the optimiser's, too: a clipped norm is without it.

Formulas are those of PyTorch's `torch.optim` (2.13): SGD, AdamW, RMSprop (not centered), Adagrad.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from coordinator.compiler import flat
from coordinator.compiler.graph import Emitter
from coordinator.compiler.options import optimizers as options
from coordinator.compiler.options.section import Section
from coordinator.compiler.state import State, Step

Options = TypeVar("Options", bound=Section)


class Optimizer(ABC, Generic[Options]):
    """How weights follow their gradients. `rate` is the learning rate, a float32 scalar."""

    def __init__(self, section: Options) -> None:
        self.section = section

    def seed(self, rate: str) -> str | None:
        """What gradients come multiplied by, a scalar; None for 1.

        Gradients are linear in it, so a factor that every gradient needs costs nothing: the loss
        is multiplied by it before it is differentiated.
        """
        return None

    @abstractmethod
    def step(self, emit: Emitter, rate: str, gradients: Mapping[str, str]) -> Step:
        """Emit one step, given each weight's gradient (times the seed)."""


class Sgd(Optimizer[options.Sgd]):
    """w <- w - rate v, v <- momentum v + g + decay w (Sutskever et al., 2013; as in PyTorch).

    With `nesterov`, w <- w - rate (g + decay w + momentum v). The seed is the rate, and the state
    u = rate v, which saves a pass over the weights. Without momentum a step is one subtraction;
    with it, u is one sum: `fuse.py` puts these into the matrix product that makes the gradient.

    A rate that changes between the steps of a round forbids that, since u holds those before. Then
    the state is v. (A round's state begins anew, so a rate that changes between rounds does not.)
    """

    @property
    def _seeded(self) -> bool:
        """Whether gradients come with the rate in them, and the velocity has it, too."""
        schedule = self.section.schedule
        return not self.section.momentum or schedule is None or schedule.over == "rounds"

    def seed(self, rate: str) -> str | None:
        return rate if self._seeded else None

    def step(self, emit: Emitter, rate: str, gradients: Mapping[str, str]) -> Step:
        if not self.section.momentum:
            return self._plain(emit, rate, gradients)
        step = Step()
        momentum = emit.const(self.section.momentum)
        gradients = decayed(emit, self.section.weight_decay, self.seed(rate), gradients)
        for w, g in gradients.items():
            now = emit.name()
            v = along = emit.op("Add", g, emit.op("Mul", now, momentum))
            if self.section.nesterov:
                along = emit.op("Add", g, emit.op("Mul", v, momentum))
            if not self._seeded:
                along = emit.op("Mul", along, rate)
            step.weights[w] = emit.op("Sub", w, along)
            step.state.append(State.like(emit, w, "velocity", now, v))
        return step

    def _plain(self, emit: Emitter, rate: str, gradients: Mapping[str, str]) -> Step:
        old = {w: w for w in gradients}
        if self.section.weight_decay:
            kept = _kept(emit, rate, self.section.weight_decay)
            old = {w: emit.op("Mul", w, kept) for w in gradients}
        return Step({w: emit.op("Sub", old[w], g) for w, g in gradients.items()})


class Elementwise(Optimizer[Options]):
    """An optimiser of many small operators, each of which takes all small weights at once."""

    def step(self, emit: Emitter, rate: str, gradients: Mapping[str, str]) -> Step:
        step = Step()
        shared = self.shared(emit, rate, step)
        together = flat.join(emit, gradients)
        for w, g in together.gradients.items():
            step.weights[w] = self.one(emit, shared, step, w, g)
        step.weights = together.apart(emit, step.weights)
        return step

    @abstractmethod
    def shared(self, emit: Emitter, rate: str, step: Step) -> dict[str, str]:
        """Emit the scalars that all weights need, by a name; add their state to `step`."""

    @abstractmethod
    def one(self, emit: Emitter, shared: Mapping[str, str], step: Step, w: str, g: str) -> str:
        """Emit one weight's new value; add its state to `step`."""


class AdamW(Elementwise[options.AdamW]):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019, algorithm 2).

    The state holds m / (1 - beta1) and v / (1 - beta2), which saves two passes over the weights:

        M <- beta1 M + g                    V <- beta2 V + g^2
        w <- (1 - rate decay) w - a M / (sqrt(V) + e)

    with, at step t, c = sqrt((1 - beta2) / (1 - beta2^t)), e = epsilon / c and
    a = rate (1 - beta1) / (1 - beta1^t) / c: the published step, multiplied out.
    """

    def shared(self, emit: Emitter, rate: str, step: Step) -> dict[str, str]:
        s = self.section
        one, beta1, beta2 = (emit.const(x) for x in (1.0, s.beta1, s.beta2))
        before = emit.name()
        t = emit.op("Add", before, one)
        step.state.append(State("step", None, (), before, t))
        # In float32 1 - beta^t is off by up to 6e-8 / (1 - beta): 6e-5 of the first step's size
        # with the usual betas, and less and less after it.
        left1 = emit.op("Sub", one, emit.op("Pow", beta1, t))
        left2 = emit.op("Sub", one, emit.op("Pow", beta2, t))
        c = emit.op("Sqrt", emit.op("Div", emit.const(1 - s.beta2), left2))
        corrected = emit.op("Div", emit.op("Mul", rate, emit.const(1 - s.beta1)), left1)
        return {
            "beta1": beta1,
            "beta2": beta2,
            "e": emit.op("Div", emit.const(s.epsilon), c),
            "a": emit.op("Div", corrected, c),
            "kept": _kept(emit, rate, s.weight_decay),
        }

    def one(self, emit: Emitter, shared: Mapping[str, str], step: Step, w: str, g: str) -> str:
        m_now, v_now = emit.name(), emit.name()
        m = emit.op("Add", g, emit.op("Mul", m_now, shared["beta1"]))
        v = emit.op("Add", emit.op("Mul", g, g), emit.op("Mul", v_now, shared["beta2"]))
        step.state += [
            State.like(emit, w, "first_moment", m_now, m),
            State.like(emit, w, "second_moment", v_now, v),
        ]
        direction = emit.op("Div", m, emit.op("Add", emit.op("Sqrt", v), shared["e"]))
        old = emit.op("Mul", w, shared["kept"]) if self.section.weight_decay else w
        return emit.op("Sub", old, emit.op("Mul", direction, shared["a"]))


class RmsProp(Elementwise[options.RmsProp]):
    """s <- alpha s + (1 - alpha) g^2, w <- w - rate g / (sqrt(s) + epsilon), g with decay w in it
    (Tieleman and Hinton, 2012, lecture 6.5; as in PyTorch).

    With momentum, b <- momentum b + g / (sqrt(s) + epsilon) and w <- w - rate b. The state holds
    S = s / (1 - alpha), which saves a pass: the root is c (sqrt(S) + epsilon / c) with
    c = sqrt(1 - alpha), and c goes to the rate.
    """

    def shared(self, emit: Emitter, rate: str, step: Step) -> dict[str, str]:
        s = self.section
        c = (1 - s.alpha) ** 0.5
        return {
            "alpha": emit.const(s.alpha),
            "e": emit.const(s.epsilon / c),
            "a": emit.op("Div", rate, emit.const(c)),
        }

    def one(self, emit: Emitter, shared: Mapping[str, str], step: Step, w: str, g: str) -> str:
        g = decayed(emit, self.section.weight_decay, None, {w: g})[w]
        now = emit.name()
        squares = emit.op("Add", emit.op("Mul", g, g), emit.op("Mul", now, shared["alpha"]))
        step.state.append(State.like(emit, w, "squares", now, squares))
        along = emit.op("Div", g, emit.op("Add", emit.op("Sqrt", squares), shared["e"]))
        if self.section.momentum:
            before = emit.name()
            kept = emit.op("Mul", before, emit.const(self.section.momentum))
            along = emit.op("Add", along, kept)
            step.state.append(State.like(emit, w, "velocity", before, along))
        return emit.op("Sub", w, emit.op("Mul", along, shared["a"]))


class Adagrad(Elementwise[options.Adagrad]):
    """s <- s + g^2, w <- w - rate g / (sqrt(s) + epsilon), g with decay w in it, s beginning at
    `initial` (Duchi et al., 2011; as in PyTorch)."""

    def shared(self, emit: Emitter, rate: str, step: Step) -> dict[str, str]:
        return {"e": emit.const(self.section.epsilon), "a": rate}

    def one(self, emit: Emitter, shared: Mapping[str, str], step: Step, w: str, g: str) -> str:
        g = decayed(emit, self.section.weight_decay, None, {w: g})[w]
        now = emit.name()
        squares = emit.op("Add", emit.op("Mul", g, g), now)
        step.state.append(State.like(emit, w, "squares", now, squares, self.section.initial))
        along = emit.op("Div", g, emit.op("Add", emit.op("Sqrt", squares), shared["e"]))
        return emit.op("Sub", w, emit.op("Mul", along, shared["a"]))


def decayed(
    emit: Emitter, decay: float, seed: str | None, gradients: Mapping[str, str]
) -> dict[str, str]:
    """Gradients with coupled weight decay: `decay` times each weight, and times the seed."""
    if not decay:
        return dict(gradients)
    factor = emit.const(decay)
    if seed is not None:
        factor = emit.op("Mul", seed, factor)
    return {w: emit.op("Add", g, emit.op("Mul", w, factor)) for w, g in gradients.items()}


def _kept(emit: Emitter, rate: str, decay: float) -> str:
    """What decay leaves of a weight: 1 - rate decay."""
    return emit.op("Sub", emit.const(1.0), emit.op("Mul", rate, emit.const(decay)))


OPTIMIZERS: dict[type[Section], type[Optimizer[Any]]] = {
    options.Sgd: Sgd,
    options.AdamW: AdamW,
    options.RmsProp: RmsProp,
    options.Adagrad: Adagrad,
}


def optimizer_of(section: options.Optimizer) -> Optimizer[Any]:
    """The optimiser that a task file asks for."""
    return OPTIMIZERS[type(section)](section)
