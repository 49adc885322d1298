"""The losses: one class each, registered for its section of the task file."""

from typing import Any

from coordinator.compiler.graph import TensorType
from coordinator.compiler.losses.base import Classes, Classifier, Decisions, Loss, Total
from coordinator.compiler.losses.cross_entropy import CrossEntropy
from coordinator.compiler.losses.embedding import Contrastive, Cosine
from coordinator.compiler.losses.margin import Hinge, SquaredHinge
from coordinator.compiler.losses.regression import (
    AbsoluteError,
    BinaryCrossEntropy,
    Huber,
    MeanSquaredError,
    Regression,
)
from coordinator.compiler.options import losses as options

__all__ = ["LOSSES", "Classes", "Classifier", "Decisions", "Loss", "Regression", "Total", "loss_of"]

LOSSES: dict[type[options.Shared], type[Loss[Any]]] = {
    options.CrossEntropy: CrossEntropy,
    options.BinaryCrossEntropy: BinaryCrossEntropy,
    options.MeanSquaredError: MeanSquaredError,
    options.AbsoluteError: AbsoluteError,
    options.Huber: Huber,
    options.Hinge: Hinge,
    options.SquaredHinge: SquaredHinge,
    options.Cosine: Cosine,
    options.Contrastive: Contrastive,
}


def loss_of(section: options.Loss, output: TensorType, label: str) -> Loss[Any]:
    """The loss that a task file asks for. Raises `CompileError` if the output does not suit it."""
    return LOSSES[type(section)](section, output, label)
