"""`[model]`: what is to be trained."""

from typing import Literal

from coordinator.compiler.options.section import Section


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
    trained: tuple[str, ...] = ()
    batch_norm: Literal["frozen", "recomputed"] = "frozen"
    dropout: Literal["as exported", "off"] = "as exported"
