"""The `[aggregation]` table: every kind by its name, bad values by theirs."""

import math

import msgspec
import pytest

from coordinator.aggregation import (
    Aggregation,
    FedAdam,
    FedAvg,
    Krum,
    Median,
    MultiKrum,
    aggregator,
    counted,
    fewest,
    problems,
)
from coordinator.aggregation.options import holds, share_of
from tests.coordinator.aggregation.samples import PARAMETERS

NAMES = ["fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "fednova"]
NAMES += ["median", "trimmed_mean", "krum", "multi_krum"]


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_has_its_name_and_works_as_it_is(name):
    options = msgspec.convert({"kind": name}, Aggregation)
    assert msgspec.to_builtins(options)["kind"] == name
    assert problems(options) == []
    strategy = aggregator(options, PARAMETERS)
    assert strategy.streams == (strategy.needs(10) is None)


def test_scaffold_must_be_told_how_many_devices_there_are():
    with pytest.raises(msgspec.ValidationError, match="devices"):
        msgspec.convert({"kind": "scaffold"}, Aggregation)
    options = msgspec.convert({"kind": "scaffold", "devices": 9}, Aggregation)
    assert problems(options) == []
    assert aggregator(options, PARAMETERS).streams


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"kind": "fedavg", "max_examples": 0}, "max_examples"),
        ({"kind": "fedavg", "by": "age"}, "by"),
        ({"kind": "fedavg", "max_norm": 0.0}, "max_norm"),
        ({"kind": "fedavg", "momentum": 0.5}, "momentum"),
        ({"kind": "fedavgm", "momentum": 1.0}, "momentum"),
        ({"kind": "fedadam", "beta2": 1.0}, "beta2"),
        ({"kind": "fedyogi", "tau": 0}, "tau"),
        ({"kind": "fednova", "max_steps": 0}, "max_steps"),
        ({"kind": "median", "max_examples": 5}, "max_examples"),
        ({"kind": "trimmed_mean", "trim": 0.5}, "trim"),
        ({"kind": "krum", "byzantine": -0.1}, "byzantine"),
        ({"kind": "multi_krum", "keep": 0}, "keep"),
    ],
)
def test_a_bad_value_is_named(table, key):
    with pytest.raises(msgspec.ValidationError, match=key):
        msgspec.convert(table, Aggregation)


def test_what_is_not_finite_is_a_problem():
    assert problems(FedAvg(max_norm=math.inf)) == ["aggregation.max_norm = inf: must be finite"]
    assert problems(FedAdam(learning_rate=math.nan, tau=math.inf)) == [
        "aggregation.learning_rate = nan: must be finite",
        "aggregation.tau = inf: must be finite",
    ]


def test_examples_count_up_to_the_cap_where_they_weigh():
    assert counted(FedAvg(max_examples=100), 1000) == 100
    assert counted(FedAvg(by="uniform"), 1000) == counted(Median(), 1 << 53) == 1


def test_a_share_is_rounded_down_as_a_person_would():
    assert [share_of(0.29, 100), share_of(0.2, 4), share_of(0.2, 5)] == [29, 0, 1]


@pytest.mark.timeout(5)
@pytest.mark.parametrize("byzantine", [0.4999999999, math.nextafter(0.5, 0.0)])
def test_a_share_of_all_but_half_needs_more_updates_than_there_may_be(byzantine: float):
    assert fewest(Krum(byzantine=byzantine)) > 1_000_000


@pytest.mark.parametrize("byzantine", [0.0, 0.1, 0.2, 0.25, 0.3, 0.4, 0.45, 0.49])
@pytest.mark.parametrize("kind", [Krum, MultiKrum])
def test_the_fewest_updates_are_enough_and_so_is_every_larger_number(kind, byzantine):
    least = fewest(kind(byzantine=byzantine))
    assert all(holds(n, share_of(byzantine, n)) for n in range(least, least + 1000))
    assert least == 3 or not holds(least - 1, share_of(byzantine, least - 1))
    assert fewest(FedAvg()) == fewest(Median()) == 1
