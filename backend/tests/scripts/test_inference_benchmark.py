"""benchmark.py inference: every row is measured as served; wrong usage exits with 2."""

import json

import pytest

from scripts.rl import benchmark, inference_benchmark
from scripts.rl.command import exit_code
from tests.rl.serving.models import scattered_network


def test_decisions_are_measured_as_served(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(inference_benchmark.OPEN, "10 x 20", (5, 100))
    monkeypatch.setattr(inference_benchmark, "SIZES", ("10 x 20",))
    model = scattered_network(tmp_path / "model")
    flat = tmp_path / "unused"
    words = ["inference", "--pair", str(model), "--flat", str(flat), "--rows", "decisions"]
    out = tmp_path / "out.json"
    assert benchmark.main([*words, "--days", "1", "--moves", "50", "--json", str(out)]) == 0
    rows = json.loads(out.read_text())["decisions"]
    assert [row["kind"] for row in rows] == ["dqn_matching", "planner"]
    for row in rows:
        assert row["decisions"] > 20
        assert row["fallbacks"] == 0
        assert 0.0 < row["cpu_ms"][0] <= row["cpu_ms"][1]
    assert "| dqn_matching | 10 x 20 (open:" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["env", "inference"], ["inference", "--rows", "nothing"]])
def test_wrong_usage_exits_with_two(words):
    with pytest.raises(SystemExit) as raised:
        exit_code(benchmark.main, words)
    assert raised.value.code == 2
