"""The two commands of the data room, as a person types them."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.rl import collect_historical_data, generate_history
from scripts.rl.command import exit_code
from services.rl.simulation.scenarios import load_scenario

BACKEND = Path(__file__).parents[2]


def collect(*arguments: object) -> int:
    return exit_code(collect_historical_data.main, [str(a) for a in arguments])


def generate(*arguments: object) -> int:
    return exit_code(generate_history.main, [str(a) for a in arguments])


@pytest.fixture(scope="session")
def demo_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "demo_history.sqlite"
    assert generate("--days", 14, "--scenario", "geneva_small", "--quiet", "--out", path) == 0
    return path


@pytest.fixture
def demo(demo_file: Path, atmr_home: Path) -> Path:
    """The data folder of a home that has the demo history."""
    folder = atmr_home / "data" / "rl"
    folder.mkdir(parents=True)
    shutil.copy(demo_file, folder)
    return folder


def test_generate_then_collect_with_no_argument_makes_a_scenario(demo, capsys, tmp_path):
    assert collect("--json", tmp_path / "result.json") == 0
    out = capsys.readouterr().out
    folder = demo / "history" / "demo"
    assert str(folder / "report.md") in out
    assert load_scenario(folder / "scenario.yaml").name == "demo"
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["counts"]["read"] == result["counts"]["kept"] + result["counts"]["rejected"]
    assert result["fit"]["goodness"]
    assert {"schema", "command", "commit", "machine"} <= result.keys()


def test_quiet_prints_nothing(demo, capsys):
    assert collect("--quiet", "--no-fit") == 0
    assert capsys.readouterr() == ("", "")


def test_without_any_source_the_next_step_is_named(atmr_home, capsys):
    assert collect() == 2
    assert "generate_history.py makes one" in capsys.readouterr().err
    assert not (atmr_home / "data").exists()


def a_csv(path: Path, **changes: object) -> Path:
    """Ten good lines and one with changes; None removes the column everywhere."""
    lines = []
    for i in range(11):
        line = {
            "id": i,
            "pickup_lat": 46.2 + 0.001 * i,
            "pickup_lon": 6.1,
            "dropoff_lat": 46.18,
            "dropoff_lon": 6.14,
            "scheduled_time": f"2025-03-{3 + i % 5:02d}T{8 + i % 6:02d}:10:00+01:00",
            "created_at": "2025-03-01T08:00:00+01:00",
            "customer_name": "Mme Dupont",
        }
        if i == 10:
            line.update({k: v for k, v in changes.items() if v is not None})
        lines.append({k: v for k, v in line.items() if changes.get(k, "") is not None})
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pickup_lat": "nan"}, "line 12: pickup_lat is no finite number"),
        (
            {"pickup_lat": 6.1, "pickup_lon": 46.2},
            "line 12: pickup_lat and pickup_lon look swapped",
        ),
        ({"scheduled_time": "2025-03-03T08:00:00"}, "mixed time zones: line 12"),
        ({"id": 3}, "line 12: the id was used before, in line 5"),
        ({"dropoff_lat": None}, "required field 'dropoff_lat'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2_with_nothing_written(
    atmr_home, tmp_path, capsys, changes, words
):
    path = a_csv(tmp_path / "trips.csv", **changes)
    assert collect("--csv", path, "--strict", "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["trips.csv"]


def test_a_dropoff_before_its_pickup_is_one_sentence(atmr_home, tmp_path, capsys):
    path = a_csv(tmp_path / "trips.csv")
    lines = path.read_text().splitlines()
    lines[0] += ",actual_pickup_at,actual_dropoff_at"
    for i in range(1, len(lines)):
        lines[i] += ",,"
    lines[1] = lines[1][:-2] + ",2025-03-03T08:20:00+01:00,2025-03-03T08:10:00+01:00"
    path.write_text("\n".join(lines))
    assert collect("--csv", path, "--strict") == 2
    assert "line 2: the actual dropoff is before the pickup" in capsys.readouterr().err


def test_without_strict_a_bad_row_goes_to_the_rejected_file(atmr_home, tmp_path, capsys):
    path = a_csv(tmp_path / "trips.csv", pickup_lat="Mme Dupont")
    assert collect("--csv", path) == 0
    assert "read 11, kept 10, rejected 1" in capsys.readouterr().out
    folder = atmr_home / "data" / "rl" / "history" / "trips"
    rejected = (folder / "rejected.csv").read_text().splitlines()
    assert rejected[1:] == ["line 12,10,not_a_number,pickup_lat is no finite number"]
    for file in folder.iterdir():
        assert b"Dupont" not in file.read_bytes(), file


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--csv", "nowhere.csv"], "No such file"),
        (["--timezone", "Mars/Base"], "unknown time zone"),
        (["--name", "a/b"], "--name 'a/b'"),
        (["--mapping", "nowhere.yaml"], "mapping nowhere.yaml cannot be read"),
        (["--database-url", "what"], "cannot be understood"),
        (["--day-start", "8h"], "is not HH:MM"),
        (["--hours", "0"], "operating day must last"),
        (["--hours", "nan"], "operating day must last"),
        (["--until", "2020-01-01"], "outside_period"),
    ],
)
def test_wrong_usage_is_one_sentence(demo, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(demo)
    assert collect(*arguments) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
    assert not (demo / "history").exists()


@pytest.mark.parametrize("seed", ["-1", "4294967296", "1.5", "x"])
def test_a_seed_no_generator_takes_is_refused(demo, capsys, seed):
    with pytest.raises(SystemExit) as left:
        collect("--seed", seed)
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert "--seed" in error
    assert len(error.splitlines()) == 1


def test_until_and_days_choose_the_period(demo, tmp_path):
    out = tmp_path / "d"
    code = collect("--no-fit", "--quiet", "--until", "2025-01-10", "--days", "3", "--out", out)
    assert code == 0
    dates = list(json.loads((out / "dataset.json").read_text())["split"])
    assert dates == ["2025-01-08", "2025-01-09", "2025-01-10"]


@pytest.mark.postgres
def test_both_commands_on_postgres(atmr_home, postgres_database, capsys, monkeypatch):
    small = ("--days", 14, "--scenario", "geneva_small")
    assert generate(*small, "--database-url", postgres_database) == 0
    assert generate(*small, "--database-url", postgres_database) == 2
    assert "--replace" in capsys.readouterr().err
    monkeypatch.setenv("DATABASE_URL", postgres_database)
    assert collect("--no-fit", "--name", "pg") == 0
    assert "rejected 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("folder", "script"),
    [
        (BACKEND, "scripts/rl/generate_history.py"),
        (BACKEND.parent, "backend/scripts/rl/generate_history.py"),
    ],
)
def test_a_script_runs_from_either_folder(folder, script, tmp_path):
    done = subprocess.run(
        [sys.executable, script, "--days", "3", "--scenario", "geneva_small"],
        cwd=folder,
        env={**os.environ, "ATMR_HOME": str(tmp_path), "PYTHONPATH": str(BACKEND)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data" / "rl" / "demo_history.sqlite").is_file()
    assert done.stdout.count("\n") == 1
