"""`[statistics]`: one class a kind. How each is gathered: `coordinator.compiler.statistics`."""

import math
from typing import Annotated

from msgspec import Meta

from coordinator.compiler.options.section import Positive, Section

_MOST = 1 << 24
"""Numbers that a statistic may consist of: four times as many are in an update."""
_Length = Annotated[int, Meta(ge=1, le=_MOST)]
_Shape = Annotated[tuple[_Length, ...], Meta(max_length=6)]
_Name = Annotated[str, Meta(min_length=1, max_length=180)]


class Input(Section, frozen=True, kw_only=True):
    """What the examples bring: a float32 array of this shape under this name."""

    input: _Name = "x"
    shape: _Shape

    @property
    def features(self) -> int:
        """Numbers in one example."""
        return math.prod(self.shape)

    def check_size(self, sets: int) -> None:
        """Raise `ValueError` if so many examples are too large for a statistic."""
        if sets * self.features > _MOST:
            raise ValueError(
                f"shape = {list(self.shape)}: {sets * self.features:,} numbers; at most {_MOST:,}"
            )


class KMeans(Input, frozen=True, kw_only=True, tag_field="kind", tag="kmeans"):
    """k-means by Lloyd's steps over the whole fleet, one a round.

    The first centres are the rows of `centres`, a `.npy` file beside the task file of shape
    [clusters, *shape]; or normal draws by `seed` (1 by default), which suit standardised features.
    """

    clusters: Annotated[int, Meta(ge=1, le=65_536)]
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] | None = None
    centres: str | None = None

    def __post_init__(self) -> None:
        if self.seed is not None and self.centres is not None:
            raise ValueError(f"seed = {self.seed}: not beside 'centres', which are the first ones")
        self.check_size(self.clusters)


class Moments(Input, frozen=True, kw_only=True, tag_field="kind", tag="moments"):
    """Mean and variance of each feature. `epsilon` is added to the variance to standardise."""

    epsilon: Positive = 1e-12

    def __post_init__(self) -> None:
        self.check_size(1)


Statistics = KMeans | Moments
