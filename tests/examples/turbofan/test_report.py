"""What is made of the figures."""

import csv
from pathlib import Path

import pytest

from examples.turbofan import report
from examples.turbofan.experiment import Outcome


def outcome(seed: int, federated: float, alone: float) -> Outcome:
    """Of two rounds; the centralised model ends at 64, the naive guess at 96."""
    return Outcome(
        seed=seed,
        naive=96.0,
        clipped=80.0,
        federated=[75.0, 70.0, federated],
        centralised=[75.0, 66.0, 64.0],
        alone=[75.0, 74.0, alone],
        each_alone=[federated + 1, federated - 1, federated, alone],
        teeth={0: [(60.0, 50.0), (58.0, 49.0)], 1: [(70.0, 55.0), (66.0, 54.0)]},
        seconds=1.0,
        upload=1000,
    )


def test_figures_are_those_after_the_last_round():
    found = report.figures(outcome(0, 65.6, 80.0))
    assert (found.federated, found.centralised, found.alone) == (65.6, 64.0, 80.0)
    assert found.near == pytest.approx(1.025)
    assert found.gain == pytest.approx(96 / 65.6)
    assert found.worse_alone == 0.5


def test_means_are_of_the_ratios_too():
    found = report.means([outcome(0, 64.0, 80.0), outcome(1, 96.0, 70.0)])
    assert found.federated == 80.0
    assert found.gain == pytest.approx((96 / 64 + 1) / 2)


@pytest.mark.parametrize(
    ("federated", "alone", "held"),
    [
        (64.0, 80.0, [True, True, True]),
        (66.0, 80.0, [False, True, True]),
        (70.0, 80.0, [False, False, True]),
        (64.0, 63.0, [True, True, False]),
    ],
)
def test_goals_say_what_holds(federated: float, alone: float, held: list[bool]):
    assert [so for _, so in report.goals([outcome(0, federated, alone)])] == held


def test_four_of_five_splits_are_enough():
    worse, better = outcome(0, 64.0, 80.0), outcome(1, 64.0, 63.0)
    assert report.goals([worse] * 4 + [better])[2][1]
    assert not report.goals([worse] * 3 + [better] * 2)[2][1]


def test_a_sawtooth_goes_down_through_a_round_and_up_at_its_end():
    teeth = [(60.0, 50.0), (58.0, 49.0)]
    assert report.sawtooth(teeth) == [(0, 60), (1, 50), (1, 58), (2, 49)]


def test_tables_and_pictures_are_written(tmp_path: Path):
    report.write(tmp_path / "new", [outcome(3, 65.0, 80.0), outcome(4, 66.0, 81.0)])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "nodes.csv", "nodes.png", "nodes.svg", "rmse.csv", "rmse.png", "rmse.svg", "splits.csv",
    ]  # fmt: skip
    with (tmp_path / "new" / "splits.csv").open() as file:
        assert [row["federated"] for row in csv.DictReader(file)] == ["65.0", "66.0"]
    with (tmp_path / "new" / "rmse.csv").open() as file:
        assert list(csv.DictReader(file))[5] == {
            "split": "4", "step": "2", "federated": "66.0", "centralised": "64.0", "alone": "81.0",
        }  # fmt: skip
    with (tmp_path / "new" / "nodes.csv").open() as file:
        assert list(csv.DictReader(file))[1] == {
            "split": "3", "node": "1", "round": "2", "before": "58.0", "after": "49.0",
        }  # fmt: skip
