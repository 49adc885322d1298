"""Aggregation: what a round's updates make of the model.

`options` are the kinds as the task file has them. The streaming ones (`streaming`) sum in fixed
point (`sums`), in the memory of one model: the same updates give the same next model, bit for bit,
in any order and however many processes summed. The robust ones (`robust`) keep every update on disk
until the round closes.
"""

from coordinator.aggregation.contract import Aggregator, Next
from coordinator.aggregation.layout import Layout
from coordinator.aggregation.options import (
    Aggregation,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedNova,
    FedYogi,
    Krum,
    Median,
    MultiKrum,
    Scaffold,
    Streaming,
    TrimmedMean,
    counted,
    fewest,
    problems,
)
from coordinator.aggregation.recipe import Contribution
from coordinator.aggregation.robust import RobustAggregator
from coordinator.aggregation.scaffold import ScaffoldAggregator
from coordinator.aggregation.streaming import StreamingAggregator
from coordinator.aggregation.sums import Sum
from wire.plan import Parameter

__all__ = [
    "Aggregation",
    "Aggregator",
    "Contribution",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedNova",
    "FedYogi",
    "Krum",
    "Median",
    "MultiKrum",
    "Next",
    "Scaffold",
    "Sum",
    "TrimmedMean",
    "aggregator",
    "counted",
    "fewest",
    "problems",
]


def aggregator(
    options: Aggregation, parameters: tuple[Parameter, ...], staleness_exponent: float = 0.5
) -> Aggregator:
    """The strategy of a task. A change that is s versions late is scaled by
    (1 + s)^-`staleness_exponent`."""
    layout = Layout(parameters)
    if isinstance(options, Scaffold):
        return ScaffoldAggregator(options, layout, staleness_exponent)
    if isinstance(options, Streaming):
        return StreamingAggregator(options, layout, staleness_exponent)
    return RobustAggregator(options, layout, staleness_exponent)
