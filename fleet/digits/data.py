"""scikit-learn's handwritten digits, dealt out so that no two devices see the same world."""

from typing import Any

import numpy as np
import numpy.typing as npt

from fleet.simulation import splits

Array = npt.NDArray[Any]
Share = dict[str, Array]
"""Arrays by input name: `x`, float32 [n, 64] from 0 to 1, and `label`, int64 [n]."""

_HELD_OUT = 360
_CONCENTRATION = 0.5  # of the Dirichlet draw: lower is more skewed


def load() -> tuple[Share, Share]:
    """(for the devices, held out): 1,437 and 360 of the 1,797 digits, shuffled by a fixed seed."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(1).permutation(len(digits.target))
    everything = {
        "x": (digits.data[order] / 16).astype(np.float32),
        "label": digits.target[order].astype(np.int64),
    }
    return _part(everything, slice(_HELD_OUT, None)), _part(everything, slice(_HELD_OUT))


def deal(share: Share, devices: int) -> list[Share]:
    """One skewed share a device: each digit is split by a Dirichlet draw over the devices."""
    rng = np.random.default_rng(3)
    rows = splits.dirichlet(share["label"], devices, _CONCENTRATION, rng)
    return [_part(share, own) for own in rows]


def deal_alike(share: Share, devices: int) -> list[Share]:
    """A share a device, of one size and one mixture: dealt round and round."""
    return [_part(share, slice(device, None, devices)) for device in range(devices)]


def _part(share: Share, chosen: Any) -> Share:
    return {name: array[chosen] for name, array in share.items()}
