"""The benchmark of learning measures what it says, on the smallest budget."""

import json
from functools import partial

import numpy as np
import pytest

from scripts.rl import training_benchmark
from scripts.rl.benchmark import main
from scripts.rl.command import exit_code
from scripts.rl.training_benchmark import Enough, Moment, Row, baseline, race, speeds


def test_rows_and_ratios_are_printed(atmr_home, capsys, monkeypatch):
    monkeypatch.setattr(training_benchmark, "WARM_UP", 300)
    document = atmr_home / "bench.json"
    asked = ["training", "--rows", "sb3,ours_same", "--seconds", "0.05", "--turns", "2"]
    assert main([*asked, "--limit", "1", "--margin", "100000", "--json", str(document)]) == 0
    text = capsys.readouterr().out
    assert text.count("| SB3 DQN, its defaults |") == 2  # speed and race
    assert text.count("| ours, flat, plain DQN, batch 256, an update per 32 steps") == 2
    stored = json.loads(document.read_text())
    by_key = {row["key"]: row for row in stored["rows"]}
    for key, per_step in (("sb3", 8.0), ("ours_same", 8.0)):  # transitions learned per step
        learned, steps = by_key[key]["learned_per_s"], by_key[key]["steps_per_s"]
        assert np.array(learned) / np.array(steps) == pytest.approx(per_step, rel=0.2)
    (ratios,) = stored["ratios"].values()
    assert len(ratios) == 2
    assert all(row["reached_s"] is not None for row in stored["race"]["rows"].values())


def test_an_unknown_row_is_one_sentence(capsys):
    assert exit_code(main, ["training", "--rows", "sb4"]) == 2
    assert "no row 'sb4'" in capsys.readouterr().err


def worker(steps_per_round, learned_per_round, log):
    """A row whose rounds take a while and whose score is the number of its rounds."""

    def train(seed, steps, explore, tick):
        done = 0
        while done < steps:
            np.linalg.eigvals(np.random.default_rng(0).random((60, 60)))
            done += 1
            log.append(done)
            tick(Moment(done * steps_per_round, done * learned_per_round, partial(float, done)))

    return Row("worker", "worker", train)


def test_slices_count_only_what_was_done_in_them(monkeypatch):
    monkeypatch.setattr(training_benchmark, "WARM_UP", 100)
    log: list[int] = []
    slices = speeds([worker(2, 50, log)], 0.02, 3)["worker"]
    assert len(slices) == 3
    assert all(learned / steps == pytest.approx(25.0) for steps, learned in slices)


def test_a_failure_in_a_row_is_not_swallowed():
    def broken(*_):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        speeds([Row("broken", "broken", broken)], 0.01, 1)


def test_a_race_ends_at_the_goal_or_at_its_limit():
    won = race(worker(1, 1, []), goal=3.0, limit_s=1.0, steps=10**6)
    assert won.reached_s is not None
    assert won.best is not None and won.best >= 3.0
    lost = race(worker(1, 1, []), goal=1e9, limit_s=0.05, steps=10**6)
    assert lost.reached_s is None
    assert lost.curve[-1][0] >= 0.05


def test_a_race_ends_where_the_steps_end():
    assert race(worker(1, 1, []), goal=1e9, limit_s=100.0, steps=3).reached_s is None


def test_nearest_beats_random_on_the_races_days():
    assert baseline("nearest") > baseline("random")


def test_enough_is_no_error_of_a_kind_that_libraries_catch():
    assert not issubclass(Enough, ValueError | RuntimeError | OSError)
