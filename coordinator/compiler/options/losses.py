"""`[loss]`, or `[[loss]]`: one class a kind. What each computes is told in
`coordinator.compiler.losses`."""

from typing import Annotated, Literal

from msgspec import Meta

from coordinator.compiler.options.section import Fraction, Positive, Section

LabelValue = Annotated[int, Meta(ge=-(1 << 31), lt=1 << 31)]


class Shared(Section, frozen=True, kw_only=True):
    """What all losses have in common.

    `output` is the model's output (needed when it has several); `weight` is what the loss is
    multiplied by in the sum of several.
    """

    output: str | None = None
    weight: Positive = 1.0


class CrossEntropy(Shared, frozen=True, kw_only=True, tag_field="kind", tag="cross_entropy"):
    """Mean of -log softmax(output)[label]; the output holds one logit a class.

    `label` names the integer input that the examples must bring; one of the value `ignored` does
    not count. `axis` is where the output has its classes: 1, or -1 for the last.
    """

    label: str = "label"
    class_weights: tuple[Positive, ...] = ()
    ignored: LabelValue | None = None
    smoothing: Fraction = 0.0
    axis: Literal[1, -1] = 1


class BinaryCrossEntropy(Shared, frozen=True, kw_only=True, tag_field="kind", tag="bce"):
    """Mean of -(p t log s + (1 - t) log(1 - s)), s = sigmoid(output), p = `positive_weight`."""

    label: str = "target"
    positive_weight: Positive = 1.0


class MeanSquaredError(Shared, frozen=True, kw_only=True, tag_field="kind", tag="mse"):
    """Mean over the batch and the elements of (output - target)^2."""

    label: str = "target"


class AbsoluteError(Shared, frozen=True, kw_only=True, tag_field="kind", tag="l1"):
    """Mean over the batch and the elements of |output - target|."""

    label: str = "target"


class Huber(Shared, frozen=True, kw_only=True, tag_field="kind", tag="huber"):
    """Half the square of an error up to `delta`; beyond it, in a straight line on."""

    label: str = "target"
    delta: Positive = 1.0


class Hinge(Shared, frozen=True, kw_only=True, tag_field="kind", tag="hinge"):
    """max(0, margin - y output), y = 1 for the label's class and -1 for others: a linear SVM."""

    label: str = "label"
    margin: Positive = 1.0


class SquaredHinge(Shared, frozen=True, kw_only=True, tag_field="kind", tag="squared_hinge"):
    """The square of the hinge loss."""

    label: str = "label"
    margin: Positive = 1.0


class Cosine(Shared, frozen=True, kw_only=True, tag_field="kind", tag="cosine"):
    """1 - the cosine of the angle between an example's output and its target."""

    label: str = "target"


class Contrastive(Shared, frozen=True, kw_only=True, tag_field="kind", tag="contrastive"):
    """Embeddings of one label near each other, of others apart, within a batch."""

    label: str = "label"
    temperature: Annotated[float, Meta(ge=0.001, le=1000)] = 0.1


Loss = (
    CrossEntropy
    | BinaryCrossEntropy
    | MeanSquaredError
    | AbsoluteError
    | Huber
    | Hinge
    | SquaredHinge
    | Cosine
    | Contrastive
)


def kind_of(loss: Loss) -> str:
    """What the task file calls this kind of loss."""
    return str(loss.__struct_config__.tag)
