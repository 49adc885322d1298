"""`[optimizer]`: one class a kind. What each does is told in `coordinator.compiler.optimizers`."""

from coordinator.compiler.options.section import Fraction, NotNegative, Positive, Section


class Sgd(Section, frozen=True, kw_only=True, tag_field="kind", tag="sgd"):
    """w <- w - rate * v, v <- momentum * v + gradient (no velocity when the momentum is 0)."""

    learning_rate: Positive
    momentum: Fraction = 0.0


class AdamW(Section, frozen=True, kw_only=True, tag_field="kind", tag="adamw"):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019, algorithm 2)."""

    learning_rate: Positive = 1e-3
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    epsilon: Positive = 1e-8
    weight_decay: NotNegative = 0.01


Optimizer = Sgd | AdamW
