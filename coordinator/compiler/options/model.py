"""`[model]`: what is to be trained."""

from typing import Literal

from coordinator.compiler.options.section import Section


class Model(Section, frozen=True, kw_only=True):
    """The model to train: an ONNX file, relative to the task file.

    `frozen` are names or patterns (`features.*`) of weights that stay as they are. `dropout` says
    whether the model's Dropout drops anything in training; it never does when the model is used.
    """

    file: str
    frozen: tuple[str, ...] = ()
    dropout: Literal["as exported", "off"] = "as exported"
