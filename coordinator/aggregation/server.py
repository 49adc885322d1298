"""What the server makes of the mean change of a round: its own optimisers.

With x the model, d the mean change, and all else elementwise:

* FedAvg, FedNova  x + d. FedNova's d is the mean of each change divided by its local steps, times
                   the mean of the steps, so that a device that did more does not pull harder.
* FedAvgM          v <- momentum v + d;  x + rate v
* the adaptive     m <- beta1 m + (1 - beta1) d;  x + rate m / (sqrt(v) + tau), where
  FedAdagrad         v <- v + d^2
  FedAdam            v <- beta2 v + (1 - beta2) d^2
  FedYogi            v <- v - (1 - beta2) d^2 sign(v - d^2)

m and v start at 0, the v of the last three at tau^2, and there is no bias correction, as in
algorithm 2 of Reddi et al., 2021. They are kept as float32 in a safetensors file; each step is
computed in float64.
"""

from collections.abc import Callable, Mapping

import numpy as np

from coordinator.aggregation.layout import Vector32, Vector64
from coordinator.aggregation.options import FedAdagrad, FedAdam, FedAvgM, FedYogi, Streaming
from wire import tensors
from wire.checkpoint import FLOAT32, Weights
from wire.errors import Rule, WireError
from wire.plan import Parameter

State = dict[str, Vector64]
"""The server's state of one parameter, by slot."""

_Rule = Callable[[Vector64, State], Vector64]


class ServerOptimizer:
    """One optimiser: from a mean change and the state to a step and the next state."""

    def __init__(self, options: Streaming, parameters: tuple[Parameter, ...]) -> None:
        self._parameters = parameters
        self._fills, self._rule = _rule(options)
        self._schema = {
            f"{slot}/{p.name}": tensors.Spec(FLOAT32, p.shape)
            for slot in self._fills
            for p in parameters
        }

    def step(
        self, base: Weights, mean: Mapping[str, Vector64], state: bytes | None
    ) -> tuple[Weights, bytes | None]:
        """The next model and the next state. Raises `WireError` (not_finite, or what is wrong with
        `state`)."""
        kept = tensors.read(state, self._schema)[0] if state is not None and self._schema else None
        new: Weights = {}
        after: dict[str, tensors.Array] = {}
        for p in self._parameters:
            slots = {
                slot: kept[f"{slot}/{p.name}"].astype(np.float64)
                if kept is not None
                else np.full(p.shape, fill)
                for slot, fill in self._fills.items()
            }
            with np.errstate(over="ignore", invalid="ignore"):
                new[p.name] = moved(p.name, base[p.name], self._rule(mean[p.name], slots))
                for slot, values in slots.items():
                    after[f"{slot}/{p.name}"] = finite(f"{slot} of {p.name}", values)
        return new, tensors.write(after) if self._schema else None


def moved(name: str, base: Vector32, step: Vector64) -> tensors.Array:
    """`base` + `step` in float32. Raises `WireError` (not_finite)."""
    return finite(f"new {name}", base + step)


def finite(name: str, values: Vector64) -> tensors.Array:
    """The values in float32. Raises `WireError` (not_finite) when one is beyond its range."""
    with np.errstate(over="ignore"):
        found = values.astype(FLOAT32)
    if not np.isfinite(found).all():
        raise WireError(Rule.NOT_FINITE, f"the {name!r} is out of float32's range")
    return found


def _rule(options: Streaming) -> tuple[dict[str, float], _Rule]:
    """What each slot of the state starts with, and the step, which brings the slots up to date."""
    match options:
        case FedAvgM():
            return {"velocity": 0.0}, _momentum(options)
        case FedAdagrad() | FedAdam() | FedYogi():
            return {"mean": 0.0, "square": options.tau**2}, _adaptive(options)
        case _:
            return {}, lambda mean, _: mean


def _momentum(options: FedAvgM) -> _Rule:
    def rule(mean: Vector64, state: State) -> Vector64:
        state["velocity"] = options.momentum * state["velocity"] + mean
        return options.learning_rate * state["velocity"]

    return rule


def _adaptive(options: FedAdagrad | FedAdam | FedYogi) -> _Rule:
    def rule(mean: Vector64, state: State) -> Vector64:
        state["mean"] = options.beta1 * state["mean"] + (1 - options.beta1) * mean
        state["square"] = _square(options, state["square"], mean * mean)
        return options.learning_rate * state["mean"] / (np.sqrt(state["square"]) + options.tau)

    return rule


def _square(options: FedAdagrad | FedAdam | FedYogi, v: Vector64, square: Vector64) -> Vector64:
    match options:
        case FedAdagrad():
            return v + square
        case FedAdam():
            return options.beta2 * v + (1 - options.beta2) * square
        case FedYogi():
            return v - (1 - options.beta2) * square * np.sign(v - square)
