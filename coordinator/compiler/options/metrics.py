"""`training.metrics`: what they are called, and which losses each suits."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

from msgspec import Meta

from coordinator.compiler.options import losses as options
from coordinator.compiler.options.losses import Loss, kind_of

_TOP = "top_"
_CLASSES = (options.CrossEntropy, options.Hinge, options.SquaredHinge)
_CLASSIFIERS = (*_CLASSES, options.BinaryCrossEntropy)
_NUMBERS = (options.MeanSquaredError, options.AbsoluteError, options.Huber)

SUITS: dict[str, tuple[type[options.Shared], ...]] = {
    "loss": (options.Shared,),
    "accuracy": _CLASSIFIERS,
    _TOP: _CLASSES,
    "rmse": _NUMBERS,
    "mae": _NUMBERS,
    "precision": _CLASSIFIERS,
    "recall": _CLASSIFIERS,
    "f1": _CLASSIFIERS,
    "auc": _CLASSIFIERS,
}
"""The losses that each kind of metric can look at."""

MetricName = Annotated[
    str,
    Meta(
        max_length=100,
        pattern=r"\A(loss|accuracy|rmse|mae|precision|recall|f1|auc|top_([2-9]|[1-9][0-9]|100))"
        r"(:[^\x00-\x1f\x7f-\x9f\u2028\u2029]+)?\Z",
        description="loss, accuracy, top_5 (or another number from 2 to 100), rmse, mae, "
        "precision, recall, f1 or auc, and maybe a colon and an output after it",
    ),
]


_SHARES = ("accuracy", "precision", "recall", "f1", "auc")


def is_share(name: str) -> bool:
    """Whether a metric is a part of 1, such as the accuracy. For any name, also one that no task
    file has."""
    kind = name.partition(":")[0]
    return kind in _SHARES or kind.startswith(_TOP)


class Wanted(NamedTuple):
    """A metric's name taken apart: a key of `SUITS`, the k of `top_k` (else 0), the output."""

    kind: str
    k: int
    output: str | None


def taken_apart(name: str) -> Wanted:
    """What a metric's name asks for: `accuracy`, `top_5:logits`."""
    kind, colon, output = name.partition(":")
    k = int(kind.removeprefix(_TOP)) if kind.startswith(_TOP) else 0
    return Wanted(_TOP if k else kind, k, output if colon else None)


def place_of(wanted: Wanted, outputs: Sequence[str | None]) -> int | None:
    """Which loss a metric looks at, by the losses' outputs: the first with the output that it
    names, or one that does not say which (there `None`); without a name the first of all."""
    if wanted.output is None:
        return 0
    for output in (wanted.output, None):
        if output in outputs:
            return outputs.index(output)
    return None


def problems(names: Sequence[str], losses: Sequence[Loss]) -> list[str]:
    """Metrics that look at no loss, or at one that they do not suit."""
    found = []
    for name in names:
        wanted = taken_apart(name)
        place = place_of(wanted, [loss.output for loss in losses])
        if place is None:
            outputs = ", ".join(repr(loss.output) for loss in losses)
            found.append(f"training.metrics: {name!r}: the losses' outputs are {outputs}")
        elif not isinstance(losses[place], suited := SUITS[wanted.kind]):
            kinds = ", ".join(_tag(kind) for kind in suited)
            own = kind_of(losses[place])
            found.append(f"training.metrics: {name!r} needs a loss of {kinds}; this is {own!r}")
    return found


def _tag(kind: type[options.Shared]) -> str:
    return repr(kind.__struct_config__.tag)
