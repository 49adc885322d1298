"""`lamplighter simulate` as a person runs it, on the experiment that is shipped."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from msgspec.structs import replace
from typer.testing import CliRunner

from fleet.cli import app
from fleet.digits import FOLDER
from fleet.simulation import setting
from wire.digest import digest_of
from wire.plan import PlanFile, parse_manifest

pytest.importorskip("sklearn")

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "digits" / "experiment.toml"
QUICK = ["--rounds", "3", "--workers", "0"]


def run(*arguments: str, columns: int = 300) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["simulate", *arguments], env={"COLUMNS": str(columns)})
    return found.exit_code, found.output


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_an_experiment_leaves_tables_pictures_and_the_model(tmp_path: Path) -> None:
    status, said = run(str(EXAMPLE), *QUICK, "-o", str(tmp_path / "out"))
    assert status == 0, said
    versions = rows_of(tmp_path / "out" / "versions.csv")
    assert [row["version"] for row in versions] == ["0", "1", "2", "3"]
    assert float(versions[3]["test.accuracy"]) > float(versions[0]["test.accuracy"])
    assert 0 < float(versions[3]["devices.accuracy.worst_decile"]) <= 1
    losses = rows_of(tmp_path / "out" / "losses.csv")
    assert len(losses) == sum(int(row["updates"]) for row in versions)
    for name in ("metric-accuracy", "metric-loss", "losses", "bytes"):
        for suffix in (".png", ".svg"):
            assert (tmp_path / "out" / (name + suffix)).stat().st_size > 1000
    assert (tmp_path / "out" / "versions.parquet").exists()
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert "accuracy 0.95 was not reached" in said
    again, _ = run(str(EXAMPLE), *QUICK, "-o", str(tmp_path / "again"))
    assert again == 0
    for name in ("versions.csv", "losses.csv", "metric-accuracy.svg", "losses.png"):
        first, second = (tmp_path / part / name for part in ("out", "again"))
        assert first.read_bytes() == second.read_bytes()


def test_a_narrow_terminal_cuts_no_figure(tmp_path: Path) -> None:
    (_, wide), (_, narrow) = (
        run(str(EXAMPLE), *QUICK, "-o", str(tmp_path), columns=columns) for columns in (300, 40)
    )
    last, *_ = [line.split() for line in wide.splitlines() if line.startswith("      3 ")]
    assert last in [line.split() for line in narrow.splitlines()]


def test_it_stops_when_the_goal_is_reached(tmp_path: Path) -> None:
    path = tmp_path / "e.toml"
    text = EXAMPLE.read_text().replace("../../fleet/digits", str(FOLDER)).replace("0.95", "0.2")
    path.write_text(text)
    status, said = run(str(path), "--workers", "0")
    assert status == 0, said
    versions = rows_of(tmp_path / "e-results" / "versions.csv")
    assert len(versions) < 10
    reached = [float(row["test.accuracy"]) >= 0.2 for row in versions]
    assert reached == [False] * (len(versions) - 1) + [True]


def test_a_plan_is_compiled_once(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    for name in ("digits.onnx", "digits.toml"):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    path = tmp_path / "e.toml"
    path.write_text('task = "digits.toml"\ndevices = 10\n[data]\nsource = "digits"\n'
                    '[[behaviours]]\nshare = 1.0\ntraining = "2s"\n')  # fmt: skip
    quick = ("--rounds", "1", "--workers", "0")
    assert run(str(path), *quick)[0] == 0
    [plan] = (tmp_path / "e-results" / "plans").iterdir()
    made = (plan / "manifest.json").stat().st_mtime_ns
    assert run(str(path), *quick)[0] == 0
    assert (plan / "manifest.json").stat().st_mtime_ns == made
    (tmp_path / "digits.toml").write_text(
        (FOLDER / "digits.toml").read_text().replace("epochs = 5", "epochs = 1")
    )
    assert run(str(path), *quick)[0] == 0
    assert len(list(plan.parent.iterdir())) == 2


def test_other_rounds_are_another_plan_where_the_rate_falls_over_them(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    (tmp_path / "digits.onnx").write_bytes((FOLDER / "digits.onnx").read_bytes())
    schedule = '[optimizer.schedule]\nkind = "cosine"\n'
    (tmp_path / "digits.toml").write_text((FOLDER / "digits.toml").read_text() + schedule)
    path = tmp_path / "e.toml"
    path.write_text('task = "digits.toml"\ndevices = 10\n[data]\nsource = "digits"\n'
                    '[[behaviours]]\nshare = 1.0\ntraining = "2s"\n')  # fmt: skip
    for rounds in ("1", "2"):
        status, said = run(str(path), "--rounds", rounds, "--workers", "0")
        assert status == 0, said


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ("devices = 40", "devices = -1", "line 5: devices = -1: expected `int` >= 1"),
        ("digits.toml", "none.toml", "none.toml: cannot be read"),
        ("devices = 40", "devices = 4000", "split: 1437 examples for 4000 devices; at least 4000"),
        ("/plan", "/none", "none: not a compiled plan"),
        ("rounds = 40", 'output = "e.toml"', "there is a file of that name"),
        ("rounds = 40", 'output = "a\\u0000"', "output = 'a"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    tmp_path: Path, before: str, after: str, why: str
) -> None:
    path = tmp_path / "e.toml"
    text = EXAMPLE.read_text().replace("../../fleet/digits", str(FOLDER))
    path.write_text(text.replace(before, after))
    status, said = run(str(path))
    assert status == 2, said
    assert why in said
    assert "Traceback" not in said
    assert not (tmp_path / "e-results").exists()


def test_a_folder_that_takes_no_files_is_told_before_all_the_work() -> None:
    status, said = run(str(EXAMPLE), *QUICK, "-o", "/proc/self")
    assert status == 1, said
    assert "/proc/self" in said
    assert "version 1" not in said


@pytest.mark.parametrize("option", ["--seed=99999999999999999999", "--workers=100000"])
def test_numbers_beyond_all_use_are_refused_at_once(option: str) -> None:
    status, said = run(str(EXAMPLE), option)
    assert status == 2
    assert "Invalid value" in said


def test_a_fleet_that_makes_no_model_is_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "e.toml"
    text = EXAMPLE.read_text().replace("../../fleet/digits", str(FOLDER))
    head = text.partition("[[behaviours]]")[0]
    path.write_text(head + '[[behaviours]]\nshare = 1.0\nlike = "silent"\n')
    status, said = run(str(path), "--workers", "0")
    assert status == 1, said
    assert "no version was made" in said


def test_a_plan_of_another_task_is_bad_input(tmp_path: Path) -> None:
    other = (FOLDER / "digits.toml").read_text().replace("epochs = 5", "epochs = 1")
    (tmp_path / "digits.toml").write_text(other)
    path = tmp_path / "e.toml"
    text = EXAMPLE.read_text().replace("../../fleet/digits/plan", str(FOLDER / "plan"))
    path.write_text(text.replace("../../fleet/digits/digits.toml", "digits.toml"))
    status, said = run(str(path))
    assert status == 2
    assert "e.toml: plan = " in said
    assert "training.epochs is 1 in the task, 5 in the plan" in said


def test_a_plan_that_cannot_be_run_is_one_line(tmp_path: Path) -> None:
    plan = shutil.copytree(FOLDER / "plan", tmp_path / "plan")
    (plan / "train.onnx").write_bytes(b"nonsense")
    manifest = parse_manifest((plan / "manifest.json").read_bytes())
    entry = PlanFile(digest=digest_of(b"nonsense"), bytes=8)
    manifest = replace(manifest, files=manifest.files | {"train.onnx": entry})
    (plan / "manifest.json").write_bytes(manifest.to_bytes())
    path = tmp_path / "e.toml"
    text = EXAMPLE.read_text().replace("../../fleet/digits/plan", str(plan))
    path.write_text(text.replace("../../fleet/digits", str(FOLDER)))
    status, said = run(str(path), "--workers", "0")
    assert status == 1
    assert "error: train.onnx cannot be run" in said


KILLED = "was killed by SIGKILL"


@pytest.mark.parametrize(
    ("ended", "status", "why", "full"),
    [
        ("interrupted", 130, "stopped\n", False),
        ("worker", 1, KILLED, False),
        ("worker", 1, KILLED, True),
    ],
)
def test_what_was_done_before_it_ended_is_written(
    tmp_path: Path, ended: str, status: int, why: str, full: bool
) -> None:
    if full:
        (tmp_path / "versions.csv").symlink_to("/dev/full")
    command = [sys.executable, "-m", "fleet", "simulate", str(EXAMPLE), "--workers", "1"]
    with subprocess.Popen(
        [*command, "--rounds", "100000", "-o", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert any(line.startswith("version 2/") for line in process.stdout)
        if ended == "worker":
            psutil.Process(process.pid).children()[0].kill()
        else:
            process.send_signal(signal.SIGINT)
        told, said = process.communicate(timeout=60)
    assert process.returncode == status, said
    assert why in said
    assert "Traceback" not in said
    if full:
        assert "No space left on device" in said
        return
    assert len(said.splitlines()) == 1
    assert "of what was done" in told
    assert [row["version"] for row in rows_of(tmp_path / "versions.csv")][:3] == ["0", "1", "2"]
    assert (tmp_path / "metric-accuracy.png").exists()


def test_what_was_done_before_a_disk_failed_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the models, say, while there is room for the results."""
    memory, out = tmp_path / "memory", tmp_path / "out"
    memory.mkdir()
    monkeypatch.setattr(setting, "_MEMORY", memory)

    def fail() -> None:
        while not any(memory.glob("*/[2-9]*.safetensors")):
            time.sleep(0.01)
        memory.rename(tmp_path / "gone")

    failing = threading.Thread(target=fail, daemon=True)
    failing.start()
    status, said = run(str(EXAMPLE), "--rounds", "100000", "--workers", "0", "-o", str(out))
    failing.join()
    assert status == 1, said
    assert f"No such file or directory: '{memory}" in said
    assert [row["version"] for row in rows_of(out / "versions.csv")][:2] == ["0", "1"]
