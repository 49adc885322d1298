"""`[model]`: what is to be trained."""

from coordinator.compiler.options.section import Section


class Model(Section, frozen=True, kw_only=True):
    """The model to train: an ONNX file, relative to the task file.

    `frozen` are names or patterns (`features.*`) of weights that stay as they are.
    """

    file: str
    frozen: tuple[str, ...] = ()
