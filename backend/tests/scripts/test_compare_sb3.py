"""The comparison with Stable-Baselines3 compares like with like, and resumes."""

import json

import numpy as np
import pytest
from scipy import stats

from scripts.rl import compare_sb3
from scripts.rl.compare_sb3 import PROBLEMS, difference, judged, main, train_ours

TINY = ["--environments", "CartPole-v1", "--seeds", "1", "--timesteps", "1100", "--episodes", "3"]


def test_a_tiny_comparison_prints_its_rows_and_is_not_computed_twice(
    atmr_home, capsys, monkeypatch
):
    document = atmr_home / "comparison.json"
    assert main([*TINY, "--json", str(document)]) == 0
    text = capsys.readouterr().out
    rows = [line for line in text.splitlines() if line.startswith("| CartPole-v1 |")]
    assert [row.split(" | ")[1] for row in rows] == ["best", "last"]
    assert "required 475" in text
    stored = json.loads(document.read_text())
    both = stored["results"]["CartPole-v1"]
    assert {name: len(seeds) for name, seeds in both.items()} == {"ours": 1, "sb3": 1}
    assert all(len(result["best"]) == 3 for results in both.values() for result in results)
    assert both["ours"][0]["updates"] == both["sb3"][0]["updates"] - 128 == 128  # SB3 ends later

    def never(*_):
        raise AssertionError("a finished training was repeated")

    monkeypatch.setattr(compare_sb3, "train_ours", never)
    monkeypatch.setattr(compare_sb3, "train_sb3", never)
    assert main(TINY) == 0
    assert rows[0] in capsys.readouterr().out
    with pytest.raises(AssertionError, match="repeated"):
        main([*TINY[:-1], "4", "--quiet"])  # other settings, other results


def test_an_interrupted_training_is_no_result(atmr_home, monkeypatch):
    from services.rl.training.trainer import Trainer

    monkeypatch.setattr(Trainer, "_vector_step", lambda self: self._interrupt(2, None))
    with pytest.raises(KeyboardInterrupt):
        main([*TINY, "--quiet"])
    assert not list((atmr_home / "data" / "rl" / "cache").rglob("*.json"))


def test_target_networks_follow_equally_often():
    # 10 steps lie within a round of 256; of 4 updates per 4 steps, 250 steps are 250 updates.
    assert PROBLEMS["CartPole-v1"].updates_per_target == 128
    assert PROBLEMS["Acrobot-v1"].updates_per_target == 250


def test_the_interval_is_welchs():
    ours, theirs = [500.0, 490.0, 470.0], [400.0, 480.0, 450.0, 499.0]
    expected = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    found = difference(ours, theirs)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert difference([500.0, 500.0], [500.0, 500.0]).half_width == 0.0
    assert difference([500.0], [400.0]).high == float("inf")


def test_all_models_are_judged_on_the_same_episodes():
    def always_left(states):
        return np.zeros(len(states), dtype=np.int64)

    returns = judged("CartPole-v1", always_left, 6)
    assert returns == judged("CartPole-v1", always_left, 6)
    assert all(7 <= total <= 11 for total in returns)
    assert len(set(returns)) > 1


@pytest.mark.slow
def test_our_agent_solves_cartpole(atmr_home):
    assert np.mean(train_ours(PROBLEMS["CartPole-v1"], 0, 100)["best"]) >= 475.0
