"""The command, on made-up digits."""

import csv
import shutil

import pytest
from typer.testing import CliRunner

from examples.mnist.__main__ import app
from examples.mnist.nodes import SPLITS
from fleet.simulation.idx import SOURCE


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_ten_nodes_learn_and_are_drawn(made_up, tmp_path):
    done = run(made_up, "-o", tmp_path, "--only", "nodes", "--quick", "--workers", 0)
    assert done.exit_code == 0, done.output
    assert "centralised: 3 done, " in done.output
    assert "…" not in done.output  # nothing is cut in 80 columns
    rows = rows_of(tmp_path / "nodes.csv")
    assert len(rows) == 4 * 4  # three rounds, and what was before
    last = {row["split"]: float(row["test.accuracy"]) for row in rows}
    assert last["centralised"] > 0.9
    assert last["uniform"] > 0.9
    files = {"nodes.csv", "nodes-personal.csv", "nodes.png", "nodes.svg"}
    assert {path.name for path in tmp_path.iterdir()} == files
    gains = rows_of(tmp_path / "nodes-personal.csv")
    assert len(gains) == 3 * 10
    assert {row["split"] for row in gains} == set(SPLITS)


def test_rows_are_counted_to_their_target(made_up, tmp_path):
    arguments = ("--row", "2nn-iid", "--row", "2nn-shards", "--quick", "--workers", 0)
    done = run(made_up, "-o", tmp_path, *arguments)
    assert done.exit_code == 0, done.output
    assert "664" in done.output  # the paper's
    assert "…" not in done.output
    rows = rows_of(tmp_path / "fedavg.csv")
    assert {row["row"] for row in rows} == {"2nn-iid", "2nn-shards"}
    upload = [int(row["upload"]) for row in rows if row["row"] == "2nn-iid"]
    assert upload == sorted(upload)
    assert 0 < upload[-1] < 3 * 10 * 4 * 199_210 / 50  # the default codec's
    assert (tmp_path / "fedavg-2nn.svg").is_file()


def test_the_same_seed_gives_the_same_file(made_up, tmp_path):
    for name in ("one", "two"):
        run(made_up, "-o", tmp_path / name, "--row", "2nn-iid", "--quick", "--workers", 0)
    one, two = ((tmp_path / name / "fedavg.csv").read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.parametrize("damage", ["missing", "cut", "no gzip"])
def test_a_bad_file_is_one_line_that_names_it(made_up, tmp_path, damage):
    folder = shutil.copytree(made_up, tmp_path / "data")
    name = "t10k-labels-idx1-ubyte.gz"
    whole = (folder / name).read_bytes()
    if damage == "missing":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(whole[:40] if damage == "cut" else b"<html>")
    done = run(folder, "-o", tmp_path / "out", "--quick")
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert name in done.stderr
    assert SOURCE in done.stderr


def test_a_codec_that_is_none_is_told(made_up, tmp_path):
    done = run(made_up, "-o", tmp_path, "--row", "2nn-iid", "--codec", "float31")
    assert done.exit_code == 2
    assert "float31" in done.stderr
