"""Small models of every kind, a task for each: `test_models.py` and `tests.agreement` train them.

Nothing of the compiler is needed to read this table. The exported files are in `exported/`, which
tells how they were made; a statistic has no model.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from wire.plan import Input

EXPORTED = Path(__file__).parent / "exported"
BATCH = 8
_ADAM = '{ kind = "adamw", learning_rate = 0.02, weight_decay = 0.0 }'
_SGD = '{ kind = "sgd", learning_rate = 0.1, momentum = 0.9 }'
_FAST = '{ kind = "sgd", learning_rate = 1.0, momentum = 0.9 }'

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A model file (without its ending, under `EXPORTED`) and how it is trained.

    `loss` is TOML: the value of the key `loss`. `below` are the numbers that integer inputs stay
    below, by input. `falls`: what part of the first loss the last may be, after `steps` steps.
    """

    file: str
    loss: str
    optimizer: str = _ADAM
    model: str = ""
    below: Mapping[str, int] = field(default_factory=dict)
    steps: int = 30
    falls: float = 0.7

    def toml(self, name: str) -> str:
        """The task file, for a model of the same name beside it."""
        more = f", {self.model}" if self.model else ""
        return f"""
            name = "{name}"
            model = {{ file = "{name}.onnx"{more} }}
            loss = {self.loss}
            optimizer = {self.optimizer}
            training = {{ batch = {BATCH} }}
            round = {{ goal = 1 }}
        """


@dataclass(frozen=True)
class Statistic:
    """A task without a model: the value of the key `statistics`, in TOML."""

    statistics: str
    below: Mapping[str, int] = field(default_factory=dict)

    def toml(self, name: str) -> str:
        """The task file."""
        return f"""
            name = "{name}"
            statistics = {self.statistics}
            round = {{ goal = 1 }}
        """


def examples(
    inputs: Iterable[Input], below: Mapping[str, int], batch: int, seed: int = 1
) -> Arrays:
    """Random examples of a plan's inputs. Integers that are neither classes nor below some number
    already are `below` theirs; a mask (numbers in a range) is where the first input is positive."""
    rng = np.random.default_rng(seed)
    found: Arrays = {}
    for entry in inputs:
        most, shape = entry.classes or below.get(entry.name), (batch, *entry.shape)
        if entry.dtype != "float32":
            assert most, f"{entry.name} is {entry.dtype}: say below what"
            found[entry.name] = rng.integers(0, most, shape).astype(entry.dtype)
        elif isinstance(entry.range, tuple):
            found[entry.name] = np.where(next(iter(found.values())) > 0, *entry.range[::-1])
        else:
            found[entry.name] = rng.normal(size=shape)
        found[entry.name] = found[entry.name].astype(entry.dtype)
    return found


def _loss(kind: str, **keys: object) -> str:
    given = {"kind": kind, **keys}
    return "{ " + ", ".join(f"{k} = {v!r}" for k, v in given.items()) + " }"


_CLASSES = _loss("cross_entropy")
_SEVERAL = (
    '[{ kind = "cross_entropy", output = "kind" }, '
    '{ kind = "huber", output = "amount", label = "grams", weight = 0.5 }]'
)
_TORCH: dict[str, tuple[str, dict[str, object]]] = {
    "perceptron": (_CLASSES, {"optimizer": _SGD}),
    "lenet": (_CLASSES, {}),
    "keyword_spotter": (_CLASSES, {}),
    "inverted_residual": (_CLASSES, {}),
    "squeeze_excite": (_CLASSES, {}),
    "residual": (_CLASSES, {}),
    "convnext": (_CLASSES, {}),
    "rnn": (_CLASSES, {}),
    "lstm": (_CLASSES, {}),
    "gru": (_CLASSES, {}),
    "lstm_both_ways": (_CLASSES, {}),
    "next_word": (_CLASSES, {"below": {"x": 30}}),
    "transformer": (_CLASSES, {"below": {"x": 20}}),
    "encoder": (_CLASSES, {}),
    "unet": (_loss("bce"), {}),
    "unet_upsampled": (_loss("bce"), {}),
    "autoencoder": (_loss("mse", label="x"), {}),
    "embedder": (_loss("cosine"), {}),
    "two_heads": (_SEVERAL, {}),
    "recommender": (_loss("mse"), {"below": {"x": 12, "x1": 15}}),
    "pooled": (_CLASSES, {}),
    "activations": (_CLASSES, {}),
    "dropped": (_CLASSES, {}),
    "normed": (_CLASSES, {}),
}
_MORE = {
    "embedder-contrastive": Case(
        "torch/embedder", _loss("contrastive", label="kind"), below={"kind": 3}
    ),
    "dropped-off": Case("torch/dropped", _CLASSES, model='dropout = "off"'),
    "normed-recomputed": Case("torchscript/normed", _CLASSES, model='batch_norm = "recomputed"'),
    "transformer-lora": Case(
        "torch/transformer",
        _CLASSES,
        model='lora = { weights = ["val_3", "val_35", "val_39", "val_41"], rank = 2 }',
        below={"x": 20},
    ),
}
_SKLEARN = {
    "linear_regression": Case("", _loss("mse"), _SGD),
    "logistic_regression": Case("", _loss("cross_entropy", output="output_probability")),
    "logistic_of_two": Case("", _loss("cross_entropy", output="output_probability")),
    "scaled_logistic": Case("", _loss("cross_entropy", output="output_probability")),
    "linear_svc": Case("", _loss("squared_hinge", output="probabilities")),
    "linear_svc_of_two": Case("", _loss("squared_hinge", output="probabilities")),
    "sgd_hinge": Case("", _loss("hinge", output="output_probability"), _FAST),
    "mlp_classifier": Case("", _loss("cross_entropy", output="output_probability")),
    "mlp_regressor": Case("", _loss("mse")),
}


def _table() -> dict[str, Case]:
    found = {
        f"{exporter}-{name}": Case(f"{exporter}/{name}", loss, **more)  # type: ignore[arg-type]
        for exporter in ("torch", "torchscript")
        for name, (loss, more) in _TORCH.items()
    }
    for name, case in _SKLEARN.items():
        found[f"sklearn-{name}"] = replace(case, file=f"sklearn/{name}")
    return {name.replace("_", "-"): case for name, case in (found | _MORE).items()}


CASES = _table()
STATISTICS = {
    "kmeans": Statistic('{ kind = "kmeans", shape = [4], clusters = 3, seed = 1 }'),
    "moments": Statistic('{ kind = "moments", shape = [2, 3] }'),
}
