"""The task file's `[selection]`: by what the devices of a round are chosen."""

import msgspec


class Option(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way to choose."""


class Uniform(Option, frozen=True, kw_only=True, tag_field="kind", tag="uniform"):
    """Every device has the same chance."""


class Data(Option, frozen=True, kw_only=True, tag_field="kind", tag="data"):
    """A device's chance is proportional to the examples of its last update.

    One of which none is known counts as the mean. None counts for more than `at_most` times the
    mean: the number is the device's own word.
    """

    at_most: float = 10.0

    def __post_init__(self) -> None:
        _check("at_most", self.at_most)


class Speed(Option, frozen=True, kw_only=True, tag_field="kind", tag="speed"):
    """Only devices that can finish before the deadline, all with the same chance (FedCS: Nishio and
    Yonetani, 2019).

    A device can when `margin` times what it usually takes, from its assignment to the arrival of
    its update, is left. One of which nothing is known may try.
    """

    margin: float = 1.5

    def __post_init__(self) -> None:
        _check("margin", self.margin)


class Fair(Option, frozen=True, kw_only=True, tag_field="kind", tag="fair"):
    """Who has served least comes first: each update that counted halves a device's chance."""


Selection = Uniform | Data | Speed | Fair


def _check(key: str, value: float) -> None:
    if not 1 <= value <= 100:  # nor is "not a number"
        raise ValueError(f"{key} = {value}: from 1 to 100")
