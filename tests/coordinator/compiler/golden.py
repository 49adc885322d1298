"""What PyTorch's own optimisers and schedulers do, recorded: `data/torch.json`.

    python -m tests.coordinator.compiler.golden    writes it; needs torch (2.13 made the one here)

In double precision, so that the record is the formula's and not a rounding's. The model is that of
`building.dense`, without whose module this runs: where torch is, onnx need not be.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_name("data") / "torch.json"
STEPS = 20
MU = 0.3

CASES: dict[str, dict[str, Any]] = {
    "sgd": {"kind": "sgd", "learning_rate": 0.3},
    "sgd decay": {"kind": "sgd", "learning_rate": 0.3, "weight_decay": 0.1},
    "sgd clip": {"kind": "sgd", "learning_rate": 0.3, "clip_norm": 0.2},
    "momentum": {"kind": "sgd", "learning_rate": 0.1, "momentum": 0.9},
    "nesterov": {"kind": "sgd", "learning_rate": 0.1, "momentum": 0.9, "nesterov": True},
    "momentum clip decay proximal": {
        "kind": "sgd", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.05,
        "clip_norm": 0.3, "proximal": MU,
    },
    "nesterov decay proximal": {
        "kind": "sgd", "learning_rate": 0.1, "momentum": 0.9, "nesterov": True,
        "weight_decay": 0.05, "proximal": MU,
    },
    "adamw": {"kind": "adamw", "learning_rate": 0.01},
    "adamw clip proximal": {
        "kind": "adamw", "learning_rate": 0.01, "clip_norm": 0.1, "proximal": MU, "epsilon": 1e-3,
    },
    "rmsprop": {"kind": "rmsprop", "learning_rate": 0.01},
    "rmsprop momentum decay": {
        "kind": "rmsprop", "learning_rate": 0.01, "alpha": 0.9, "momentum": 0.8,
        "weight_decay": 0.1,
    },
    "adagrad": {"kind": "adagrad", "learning_rate": 0.05},
    "adagrad decay": {
        "kind": "adagrad", "learning_rate": 0.05, "initial": 0.1, "weight_decay": 0.1,
    },
    "momentum cosine": {
        "kind": "sgd", "learning_rate": 0.1, "momentum": 0.9,
        "schedule": {"kind": "cosine", "over": "steps", "floor": 0.1},
    },
    "adamw exponential": {
        "kind": "adamw", "learning_rate": 0.01,
        "schedule": {"kind": "exponential", "over": "steps", "factor": 0.9},
    },
    "sgd step": {
        "kind": "sgd", "learning_rate": 0.3,
        "schedule": {"kind": "step", "over": "steps", "every": 6, "factor": 0.5},
    },
    "sgd linear": {
        "kind": "sgd", "learning_rate": 0.3,
        "schedule": {"kind": "linear", "over": "steps", "length": 15, "floor": 0.2},
    },
}  # fmt: skip
"""By name: `[optimizer]`, with `proximal`, which is `[training]`'s."""


def main() -> None:
    """Write the record."""
    import numpy as np
    import torch

    rng = np.random.default_rng(0)
    shapes = {"w1": (5, 4), "b1": (5,), "w2": (3, 5), "b2": (3,)}
    first = {n: rng.normal(size=s, scale=0.4).astype("f4") for n, s in shapes.items()}
    x, label = rng.normal(size=(8, 4)).astype("f4"), rng.integers(0, 3, 8)
    found = {name: _trained(torch, case, first, x, label) for name, case in CASES.items()}
    arrays = first | {"x": x, "label": label}
    record = {"torch": torch.__version__, "first": {n: a.tolist() for n, a in arrays.items()}}
    RECORD.write_text(json.dumps(record | {"cases": found}, indent=1))


def _trained(torch: Any, case: dict[str, Any], first: Any, x: Any, label: Any) -> dict[str, Any]:
    """The weights after `STEPS` steps on one batch, and the rates of the steps."""
    w = {n: torch.tensor(a, dtype=torch.float64, requires_grad=True) for n, a in first.items()}
    base = {n: a.detach().clone() for n, a in w.items()}
    inputs, labels = torch.tensor(x, dtype=torch.float64), torch.tensor(label)
    optimizer = _optimizer(torch, case, list(w.values()))
    advance = _scheduler(torch, case, optimizer)
    rates = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        hidden = torch.relu(inputs @ w["w1"].T + w["b1"])
        loss = torch.nn.functional.cross_entropy(hidden @ w["w2"].T + w["b2"], labels)
        for name, value in w.items():
            loss = loss + case.get("proximal", 0.0) / 2 * ((value - base[name]) ** 2).sum()
        loss.backward()
        if "clip_norm" in case:
            torch.nn.utils.clip_grad_norm_(list(w.values()), case["clip_norm"])
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        advance()
    return {"rates": rates, "weights": {n: a.detach().tolist() for n, a in w.items()}}


def _optimizer(torch: Any, case: dict[str, Any], weights: list[Any]) -> Any:
    given = {k: v for k, v in case.items() if k in ("momentum", "nesterov", "alpha")}
    given |= {"lr": case["learning_rate"]}
    match case["kind"]:
        case "sgd":
            return torch.optim.SGD(weights, weight_decay=case.get("weight_decay", 0), **given)
        case "adamw":
            return torch.optim.AdamW(weights, eps=case.get("epsilon", 1e-8), **given)
        case "rmsprop":
            return torch.optim.RMSprop(weights, weight_decay=case.get("weight_decay", 0), **given)
    given |= {"initial_accumulator_value": case.get("initial", 0)}
    return torch.optim.Adagrad(weights, weight_decay=case.get("weight_decay", 0), **given)


def _scheduler(torch: Any, case: dict[str, Any], optimizer: Any) -> Callable[[], None]:
    made = torch.optim.lr_scheduler
    schedule = case.get("schedule", {})
    floor = schedule.get("floor", 0.0)
    match schedule.get("kind"):
        case "cosine":
            least = floor * case["learning_rate"]
            return made.CosineAnnealingLR(optimizer, STEPS, eta_min=least).step  # type: ignore[no-any-return]
        case "exponential":
            return made.ExponentialLR(optimizer, schedule["factor"]).step  # type: ignore[no-any-return]
        case "step":
            return made.StepLR(optimizer, schedule["every"], schedule["factor"]).step  # type: ignore[no-any-return]
        case "linear":
            length = schedule["length"]
            return made.LinearLR(optimizer, 1.0, floor, length).step  # type: ignore[no-any-return]
    return lambda: None


if __name__ == "__main__":
    main()
