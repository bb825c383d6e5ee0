"""`benchmark.py quality`: trains, measures, keeps what is finished, and says what is missing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.rl.benchmark import main
from scripts.rl.command import exit_code
from scripts.rl.quality_training import Training
from services.rl.evaluation import quality_cells
from services.rl.simulation.kpis import KPIS
from services.rl.training.trainer import train_model
from tests.rl.training.tiny_runs import tiny

BACKEND = Path(__file__).resolve().parents[2]
BRIEF = """
extends: geneva_small
name: brief
rules: {horizon_min: 60}
demand: {bookings_per_day: 14}
fleet: {num_drivers: 3, patterns: [{wheelchair: true}]}
"""
SHORT = ["--hindsight-seconds", "0.2", "--jobs", "1"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """One benchmark: two trainings of each kind, and every policy."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "brief.yaml").write_text(BRIEF)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATMR_HOME", str(folder))
        patch.setenv("PYTHONPATH", str(BACKEND))
        assert quality(folder, *TRAINING) == 0
        for seed in (0, 1):  # as they are before any learning: enough to measure
            train_model(str(folder / "brief.yaml"), tiny(f"n{seed}", vector_steps=1, seed=seed))
        assert quality(folder, *measuring(folder)) == 0
    return folder


TRAINING = ["--learned", "planner", "--training-mode", "sanity", "--seeds", "2", "--days", "1",
            "--moves", "500", "--parts", "transfer", "--name", "t"]  # fmt: skip


def measuring(home):
    results = home / "results"
    return [
        "--planner", *(str(results / f"t_planner_brief_s{seed}") for seed in (0, 1)),
        "--network", *(str(results / f"n{seed}") for seed in (0, 1)),
        "--days", "2", "--expensive-days", "1", "--moves", "500",
        "--parts", "kpis,who,safety",
    ]  # fmt: skip


def quality(home, *more):
    asked = ["quality", "--scenarios", str(home / "brief.yaml"), *SHORT, "--name", "q", *more]
    return exit_code(main, asked)


def document(home, name="q"):
    return json.loads((home / "results" / name / "quality.json").read_text())


@pytest.fixture
def played(monkeypatch):
    """Cells that are really played."""
    cells = []
    play = quality_cells.play_cell

    def noted(cell):
        cells.append(cell)
        return play(cell)

    monkeypatch.setattr(quality_cells, "play_cell", noted)
    return cells


def test_everything_is_trained_measured_and_written(home):
    out = home / "results" / "q"
    stored = document(home)
    rows = {row["policy"]: row for row in stored["tables"]["kpis"]["brief"]["rows"]}
    assert {"nearest", "rolling@200", "dqn_matching", "planner@500"} <= rows.keys()
    assert rows["planner@500"]["seeds"] == rows["rolling_search@500"]["seeds"] == 2
    assert (rows["matching"]["days"], rows["rolling@200"]["days"]) == (2, 1)
    assert rows["nearest"]["gap_closed_pct"]["mean"] == 0.0
    assert stored["tables"]["networks"]["brief"]["policy"] in ("dqn", "dqn_matching")
    elsewhere = document(home, "t")["tables"]
    assert len(elsewhere["training"]) == 2
    assert len(elsewhere["transfer"]) == 4  # the day is too short to be shifted
    for keys in stored["cells"].values():
        for key in (key for run in keys for key in run):
            assert (out / "cells" / f"{key}.json").is_file()
    report = (out / "QUALITE.md").read_text()
    assert "## 1. Exigences" in report and "non mesuré" in report  # no part of it about Manhattan
    for image in ("kpis_brief.png", "who_brief.png"):
        assert (out / image).stat().st_size > 10_000 and image in report


def test_a_reward_of_the_table_is_that_of_the_seeds_days(home):
    stored = document(home)
    runs = stored["cells"]["brief planner@500"]
    rewards = []
    for run in runs:
        bodies = [
            json.loads((home / "results" / "q" / "cells" / f"{key}.json").read_text())["body"]
            for key in run
        ]
        rewards += [day[KPIS.index("reward")] for body in bodies for day in body["kpis"]]
    rows = stored["tables"]["kpis"]["brief"]["rows"]
    shown = next(row for row in rows if row["policy"] == "planner@500")
    assert len(rewards) == 4
    assert shown["kpis"]["reward"]["mean"] == pytest.approx(sum(rewards) / 4)


def test_again_nothing_is_trained_or_played(home, monkeypatch, played):
    monkeypatch.setenv("ATMR_HOME", str(home))
    before = document(home)["tables"]
    monkeypatch.setattr(Training, "run", None)
    assert quality(home, *TRAINING) == 0
    assert quality(home, *measuring(home)) == 0
    assert played == []
    assert document(home)["tables"] == before


@pytest.mark.slow
def test_a_damaged_cell_is_counted_and_played_again(home, monkeypatch, played, caplog):
    monkeypatch.setenv("ATMR_HOME", str(home))
    before = document(home)
    cells = home / "results" / "q" / "cells"
    keys = [before["cells"][f"brief {p}"][0][0] for p in ("nearest", "cheapest", "matching")]
    (cells / f"{keys[0]}.json").write_text('{"key": ')
    altered = json.loads((cells / f"{keys[1]}.json").read_text())
    altered["body"]["kpis"][0][0] += 1000.0
    (cells / f"{keys[1]}.json").write_text(json.dumps(altered))
    (cells / f"{keys[2]}.json").write_text("[]")
    assert quality(home, *measuring(home)) == 0
    assert sorted(cell.policy for cell in played) == ["cheapest", "matching", "nearest"]
    after = document(home)
    assert after["damaged_cells"] == 3
    assert sum("is damaged and is played again" in r.message for r in caplog.records) == 3
    rewards = [
        {r["policy"]: r["kpis"]["reward"] for r in d["tables"]["kpis"]["brief"]["rows"]}
        for d in (before, after)
    ]
    assert rewards[0] == rewards[1]


def test_another_seed_model_or_day_is_another_cell(home):
    stored = document(home)["cells"]
    first, second = stored["brief planner@500"]
    assert not set(first) & set(second)
    every = [key for runs in stored.values() for run in runs for key in run]
    assert len(every) == len(set(every))


BASELINES = ["--learned", "none", "--parts", "kpis", "--days", "2", "--expensive-days", "2",
             "--moves", "500"]  # fmt: skip


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(atmr_home, played):
    (atmr_home / "brief.yaml").write_text(BRIEF)
    program = [sys.executable, str(BACKEND / "scripts" / "rl" / "benchmark.py"), "quality"]
    asked = ["--scenarios", str(atmr_home / "brief.yaml"), *SHORT, "--name", "q", *BASELINES]
    child = subprocess.Popen(
        [*program, *asked], env={**os.environ, "PYTHONPATH": str(BACKEND)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    cells = atmr_home / "results" / "q" / "cells"
    until = time.monotonic() + 300
    while len(list(cells.glob("*.json"))) < 4 and child.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    kept = {path: path.stat().st_mtime_ns for path in cells.glob("*.json")}
    assert len(kept) >= 4 and not (atmr_home / "results" / "q" / "quality.json").exists()
    assert quality(atmr_home, *BASELINES) == 0
    total = sum(len(run) for runs in document(atmr_home)["cells"].values() for run in runs)
    assert len(played) == total - len(kept) > 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_an_interrupted_run_says_how_to_go_on(atmr_home, monkeypatch, capsys):
    (atmr_home / "brief.yaml").write_text(BRIEF)

    def pressed(_cell):
        raise KeyboardInterrupt

    monkeypatch.setattr(quality_cells, "play_cell", pressed)
    assert quality(atmr_home, *BASELINES) == 130
    error = capsys.readouterr().err.strip()
    assert error.startswith("interrupted") and error.count("\n") == 0
    assert error.endswith(" ".join(BASELINES)) and "benchmark.py quality --scenarios" in error


@pytest.mark.parametrize(
    ("arguments", "finding"),
    [
        (["--parts", "kpis,beauty"], "unknown part 'beauty'"),
        (["--parts", ","], "nothing is named"),
        (["--models", "nowhere"], "there is no such folder"),
        (["--models", "."], "holds no models"),
        (["--planner", "."], "holds no trained model"),
        (["--learned", "oracle"], "choose among planner, network, none"),
        (["--parts", "manhattan", "--data-dir", "nowhere"], "nowhere"),
        (["--scenarios", "atlantis"], "atlantis"),
        (["--name", "../x"], "no plain name"),
        (["--out", "/proc/nothing"], "cannot be made"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    atmr_home, monkeypatch, capsys, arguments, finding
):
    monkeypatch.chdir(atmr_home)
    assert exit_code(main, ["quality", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert finding in error and error.count("\n") == 0
    assert not list(atmr_home.glob("results/*/cells"))


def test_a_kind_without_models_is_named(home, monkeypatch, capsys):
    monkeypatch.setenv("ATMR_HOME", str(home))
    models = home / "results" / "t_planner_brief_s0"
    assert quality(home, "--planner", str(models), "--parts", "kpis") == 2
    assert "there is no dqn_matching model for brief" in capsys.readouterr().err
