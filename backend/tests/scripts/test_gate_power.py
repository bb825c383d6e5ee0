"""The gate's error rates: equals pass more often than worse ones, and plays are kept."""

import json

import numpy as np
import pytest

from scripts.rl import gate_power
from scripts.rl.command import exit_code
from services.rl.evaluation.gate_play import TALLY

DAYS = 400


@pytest.fixture
def pool(tmp_path):
    """Days as gates see them, drawn from known rates: a worse policy fails by every measure."""
    rng = np.random.default_rng(0)

    def played(level):
        due, urgent = np.full(600, 850.0), np.full(600, 270.0)
        sums = {name: np.zeros(600) for name in TALLY}
        sums |= {
            "reward": 720.0 * level + rng.normal(0, 20, 600),
            "worth": np.full(600, 1000.0),
            "due": due,
            "served": rng.binomial(850, 0.93 * level, 600).astype(float),
            "on_time": rng.binomial(850, 0.73 * level, 600).astype(float),
            "urgent_due": urgent,
            "urgent_served": rng.binomial(270, 0.96 * level, 600).astype(float),
            "urgent_late_15": rng.binomial(270, 1 - 0.83 * level, 600).astype(float),
        }
        return np.stack([sums[name] for name in TALLY], axis=1)

    path = tmp_path / "pool.npz"
    levels = {"first": 1.0, "second": 1.0, "weak": 0.9, "matching": 0.88}
    np.savez_compressed(
        path, columns=np.array(TALLY), **{name: played(x) for name, x in levels.items()}
    )
    return path


def rates(pool, tmp_path):
    target = tmp_path / "power.json"
    asked = ["--played", str(pool), "--days", str(DAYS), "--gates", "150", "--quiet"]
    assert exit_code(gate_power.main, [*asked, "--json", str(target)]) == 0
    cells = json.loads(target.read_text(encoding="utf-8"))["cells"]
    return {(cell["gain_pct"], cell["weaker"]): cell for cell in cells}


def test_equals_and_better_ones_pass_and_worse_ones_do_not(pool, tmp_path):
    found = rates(pool, tmp_path)
    assert found[0.0, ""]["go"] >= 0.9
    assert found[1.0, "matching"]["go"] >= 0.95
    assert found[-2.0, "matching"]["go"] <= 0.05
    assert found[-2.0, "matching"]["stopped_by"]["champion.reward"] > 0.9
    low, high = found[0.0, ""]["ci95"]
    assert low <= found[0.0, ""]["go"] <= high


def test_the_pool_is_played_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(gate_power, "WEAK_MOVES", 20)
    kept = tmp_path / "played.npz"
    asked = ["--pool", "8", "--gates", "2", "--days", "2", "--played", str(kept), "--quiet"]
    assert exit_code(gate_power.main, asked) == 0
    with np.load(kept) as stored:
        assert set(stored.files) == {"columns", *gate_power.PLAYS}
        assert stored["first"].shape == (8, len(TALLY))
    written = kept.read_bytes()
    assert exit_code(gate_power.main, asked) == 0
    assert kept.read_bytes() == written


def test_a_pool_of_other_columns_is_refused(tmp_path, capsys):
    np.savez_compressed(tmp_path / "old.npz", first=np.zeros((2, 2)))
    assert exit_code(gate_power.main, ["--played", str(tmp_path / "old.npz")]) == 2
    assert "other columns" in capsys.readouterr().err


def test_days_that_are_no_numbers_are_refused(capsys):
    assert exit_code(gate_power.main, ["--days", "many"]) == 2
    assert "no list of numbers" in capsys.readouterr().err
