"""SCAFFOLD's server (Karimireddy et al., 2020, algorithm 1, option II), with one vector a device.

A device corrects each of its gradients by c - c_i, the difference of the server's control variate
and its own, which it then renews: c_i+ = c_i - c + (x - y_i) / (K eta). The server needs

    c+ = c + 1/N sum (c_i+ - c_i) = c + 1/N sum ((x - y_i) / (K eta) - c)

in which no c_i is left: the changes y_i - x, which arrive in any case, say all of it. The sum is
over the devices S of a round, N is the whole fleet. What is kept here, and sent with each model as
`control/<weight>`, is C = -eta c: the change that a step makes. So no learning rate is needed, and

    d   the mean of (y_i - x) / K_i           x + rate K d, K the mean of the K_i
                                              C + |S| / N (d - C)

With devices that make equally many steps this is the paper's algorithm. Where they do not, each
change is divided by its own steps, as FedNova does: to divide the sum by all steps would let a
device with more examples weigh by its examples twice over.

The sum of all c_i is told to the server change by change and never anew. So C is right while what
a device believes to have told (its next c_i) is what was counted: a device takes its c_i+ when its
update has been accepted, no change is scaled down for its staleness (late updates are refused), and
codecs are nearly exact. A round that was abandoned, or a device that left, leaves a small error.
"""

from coordinator.aggregation.contract import Next
from coordinator.aggregation.layout import Layout
from coordinator.aggregation.options import CONTROL, Scaffold
from coordinator.aggregation.recipe import Recipe
from coordinator.aggregation.server import finite, moved
from coordinator.aggregation.streaming import StreamingAggregator
from coordinator.aggregation.sums import Sum
from wire.checkpoint import Weights


class ScaffoldAggregator(StreamingAggregator):
    """See `coordinator.aggregation.contract.Aggregator`. The model's weights come with their
    control variates; what is trained without a gradient has none."""

    def __init__(self, options: Scaffold, layout: Layout, staleness_exponent: float) -> None:
        super().__init__(options, layout, staleness_exponent)
        self._rate = options.learning_rate
        self._devices = options.devices

    def close(self, base: Weights, state: bytes | None, total: Sum) -> Next:
        mean = self._layout.views(total.mean())
        steps = Recipe.steps_of(total.work, total.weight)
        part = min(1.0, total.updates / self._devices)
        after = dict(base)
        for name, step in mean.items():
            after[name] = moved(name, base[name], self._rate * steps * step)
            control = CONTROL + name
            if control in base:
                before = base[control].astype(step.dtype)
                after[control] = finite(f"new {control}", before + part * (step - before))
        return Next(after, state, total.updates, total.examples)
