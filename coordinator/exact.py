"""What a task that gathers statistics may not ask, since its figures would not be exact. Pure.

A round's statistic is the mean of the devices' sums by the mean of their counts. That is the
fleet's own only where every device weighs alike, each of its examples is counted once, and each
update says exactly, and only, what was gathered from the round's own model.
"""

from coordinator.aggregation.options import FedAvg, kind_of
from coordinator.codec_choice import AUTO
from coordinator.compiler.options.statistics import Moments
from coordinator.tables import StatisticsFile

CODEC = "float32"
"""The one by which an update says what it has to say."""


def contradictions(task: StatisticsFile) -> list[str]:
    """Each key whose value would make the statistics wrong, and why."""
    return _of_devices(task) + _of_sums(task) + _of_updates(task)


def _of_devices(task: StatisticsFile) -> list[str]:
    """What a device does in a round."""
    found, training = [], task.training
    if training.epochs != 1:
        found.append(
            f"training.epochs = {training.epochs}: expected 1: statistics count each example once"
        )
    if training.metrics != ("loss",):
        found.append(
            f"training.metrics = {list(training.metrics)}: expected ['loss'], the one that "
            "statistics have"
        )
    if training.proximal:
        found.append(
            f"training.proximal = {training.proximal}: expected 0: sums are not pulled anywhere"
        )
    if isinstance(task.statistics, Moments) and task.round.rounds == 1:
        found.append(
            "round.rounds = 1: the variance takes a second round, which starts from the mean that "
            "the first one found: expected 2 or more, or 0"
        )
    return found


def _of_sums(task: StatisticsFile) -> list[str]:
    """What a round makes of the updates."""
    options = task.aggregation
    why = "as a statistic is a sum over all devices (without [aggregation] it is that)"
    if not isinstance(options, FedAvg):
        return [f"aggregation.kind = {kind_of(options)!r}: expected 'fedavg', {why}"]
    if options.by != "uniform":
        return [f"aggregation.by = {options.by!r}: expected 'uniform', {why}"]
    if options.max_norm is not None:
        return [f"aggregation.max_norm = {options.max_norm}: sums that are scaled down are wrong"]
    return []


def _of_updates(task: StatisticsFile) -> list[str]:
    """What updates say."""
    found, upload = [], task.upload
    if upload.codec not in (AUTO, CODEC):
        found.append(
            f"upload.codec = {upload.codec!r}: expected {CODEC!r}, as others round what they send"
        )
    if upload.budget is not None:
        found.append(f"upload.budget = '{upload.budget}': statistics are always sent as {CODEC!r}")
    if upload.lazy:
        found.append(f"upload.lazy = {upload.lazy}: expected 0: who says nothing is not counted")
    if task.round.late != "refuse":
        found.append(
            f"round.late = {task.round.late!r}: expected 'refuse': a late update's sums were taken "
            "from an older model, and do not fit those of the round that it would count in"
        )
    return found
