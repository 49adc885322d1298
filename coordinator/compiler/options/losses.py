"""`[loss]`: one class a kind. What each computes is told in `coordinator.compiler.losses`."""

from coordinator.compiler.options.section import Section


class CrossEntropy(Section, frozen=True, kw_only=True, tag_field="kind", tag="cross_entropy"):
    """Mean of -log softmax(output)[label]; the output holds one logit a class.

    `output` is the model's output (needed when it has several); `label` names the integer input
    that the examples must bring.
    """

    output: str | None = None
    label: str = "label"


class MeanSquaredError(Section, frozen=True, kw_only=True, tag_field="kind", tag="mse"):
    """Mean over the batch and the elements of (output - target)^2."""

    output: str | None = None
    label: str = "target"


Loss = CrossEntropy | MeanSquaredError
