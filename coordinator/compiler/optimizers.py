"""The optimisers: one class each, registered for its section of the task file.

An optimiser emits the operators of one step: from weights, gradients and its own state to new
weights and new state. Every extra pass over the weights costs time on a device, so formulas are
arranged to have few of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from coordinator.compiler.graph import Emitter
from coordinator.compiler.options import optimizers as options
from coordinator.compiler.options.section import Section

Options = TypeVar("Options", bound=Section)


@dataclass(frozen=True)
class State:
    """One tensor of state: like a weight, or a scalar when `weight` is None.

    Without a `next` it stays as it is for a round. `carried` is the kind whose last value, for the
    same weight, it starts the next round with.
    """

    kind: str
    weight: str | None
    now: str
    next: str | None
    fill: float = 0.0
    carried: str | None = None


@dataclass
class Step:
    """What one step computes: each weight's new value, and the state it keeps."""

    weights: dict[str, str] = field(default_factory=dict)
    state: list[State] = field(default_factory=list)


class Optimizer(ABC, Generic[Options]):
    """How weights follow their gradients. `rate` is the learning rate, a float32 scalar."""

    def __init__(self, section: Options) -> None:
        self.section = section

    def seed(self, emit: Emitter, rate: str) -> str | None:
        """What to multiply the loss by before it is differentiated; None for 1.

        Gradients are linear in it, so a factor that every gradient needs costs nothing here.
        """
        return None

    @abstractmethod
    def step(self, emit: Emitter, rate: str, gradients: Mapping[str, str]) -> Step:
        """Emit one step, given each weight's gradient (times the seed)."""


class Sgd(Optimizer[options.Sgd]):
    """w <- w - rate * v, v <- momentum * v + gradient (Sutskever et al., 2013; as in PyTorch).

    Without momentum the seed is the rate, and a step is one subtraction, which `fuse.py` then puts
    into the matrix product that makes the gradient.
    """

    def seed(self, emit: Emitter, rate: str) -> str | None:
        return None if self.section.momentum else rate

    def step(self, emit: Emitter, rate: str, gradients: Mapping[str, str]) -> Step:
        step = Step()
        if not self.section.momentum:
            step.weights = {w: emit.op("Sub", w, g) for w, g in gradients.items()}
            return step
        momentum = emit.const(self.section.momentum)
        for w, g in gradients.items():
            now = emit.name()
            v = emit.op("Add", g, emit.op("Mul", now, momentum))
            step.weights[w] = emit.op("Sub", w, emit.op("Mul", v, rate))
            step.state.append(State("velocity", w, now, v))
        return step


class AdamW(Optimizer[options.AdamW]):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019, algorithm 2).

    The state holds m / (1 - beta1) and v / (1 - beta2), which saves two passes over the weights:

        M <- beta1 M + g                    V <- beta2 V + g^2
        w <- (1 - rate decay) w - a M / (sqrt(V) + e)

    with, at step t, c = sqrt((1 - beta2) / (1 - beta2^t)), e = epsilon / c and
    a = rate (1 - beta1) / (1 - beta1^t) / c: the published step, multiplied out.
    """

    def step(self, emit: Emitter, rate: str, gradients: Mapping[str, str]) -> Step:
        s = self.section
        step = Step()
        one, beta1, beta2 = (emit.const(x) for x in (1.0, s.beta1, s.beta2))
        before = emit.name()
        t = emit.op("Add", before, one)
        step.state.append(State("step", None, before, t))
        # In float32 1 - beta^t is off by up to 6e-8 / (1 - beta): 6e-5 of the first step's size
        # with the usual betas, and less and less after it.
        left1 = emit.op("Sub", one, emit.op("Pow", beta1, t))
        left2 = emit.op("Sub", one, emit.op("Pow", beta2, t))
        c = emit.op("Sqrt", emit.op("Div", emit.const(1 - s.beta2), left2))
        e = emit.op("Div", emit.const(s.epsilon), c)
        corrected = emit.op("Div", emit.op("Mul", rate, emit.const(1 - s.beta1)), left1)
        a = emit.op("Div", corrected, c)
        kept = emit.op("Sub", one, emit.op("Mul", rate, emit.const(s.weight_decay)))
        for w, g in gradients.items():
            m_now, v_now = emit.name(), emit.name()
            m = emit.op("Add", g, emit.op("Mul", m_now, beta1))
            v = emit.op("Add", emit.op("Mul", g, g), emit.op("Mul", v_now, beta2))
            direction = emit.op("Div", m, emit.op("Add", emit.op("Sqrt", v), e))
            old = emit.op("Mul", w, kept) if s.weight_decay else w
            step.weights[w] = emit.op("Sub", old, emit.op("Mul", direction, a))
            step.state += [
                State("first_moment", w, m_now, m),
                State("second_moment", w, v_now, v),
            ]
        return step


OPTIMIZERS: dict[type[Section], type[Optimizer[Any]]] = {
    options.Sgd: Sgd,
    options.AdamW: AdamW,
}


def optimizer_of(section: options.Optimizer) -> Optimizer[Any]:
    """The optimiser that a task file asks for."""
    return OPTIMIZERS[type(section)](section)
