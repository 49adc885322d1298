"""`[model]`: what is to be trained."""

from typing import Annotated, Literal

from msgspec import Meta

from coordinator.compiler.options.section import Positive, Section


class Lora(Section, frozen=True, kw_only=True):
    """Low-rank adapters beside the weights that `weights`, names or patterns, chooses; `alpha` /
    `rank` times their product is added to each. They alone are trained, unless `train_rest` says
    that what is neither chosen nor frozen is, too. See `coordinator.compiler.lora`.
    """

    weights: Annotated[tuple[str, ...], Meta(min_length=1)]
    rank: Annotated[int, Meta(ge=1, le=4096)] = 4
    alpha: Positive = 8.0
    train_rest: bool = False


class Model(Section, frozen=True, kw_only=True):
    """The model to train: an ONNX file, relative to the task file.

    `frozen` are names or patterns (`features.*`) of weights that stay as they are; `trained` those
    of constants that are to be trained as well (`coordinator.compiler.trained` tells which are
    weights by themselves). `batch_norm`: "frozen" keeps the statistics of batch norms as they are;
    "recomputed" takes each batch's own in training, and their running means become parameters.
    `dropout` says whether the model's Dropout drops anything in training; it never does when the
    model is used.
    """

    file: str
    frozen: tuple[str, ...] = ()
    lora: Lora | None = None
    trained: tuple[str, ...] = ()
    batch_norm: Literal["frozen", "recomputed"] = "frozen"
    dropout: Literal["as exported", "off"] = "as exported"
