"""Evolution of the planner's values: improves, repeats, and goes on from its journal."""

import dataclasses
import json
import resource

import numpy as np
import pytest

from services.rl.errors import TrainingError
from services.rl.policies.route_clock import NUM_TERMS
from services.rl.simulation.scenarios import load_scenario
from services.rl.training import planner_fit
from services.rl.training.evolution import Journal
from services.rl.training.planner_fit import PlannerFit, Stage, busy_scenario, fit_planner

TINY = PlannerFit(
    busy=Stage(generations=2, days=2, moves=30, sigma=0.5),
    own=Stage(generations=2, days=2, moves=40, sigma=0.25),
    population=4,
    check_days=4,
    check_moves=30,
    threads=2,
    seed=1,
    care=(),
)


def fitted(tmp_path, name="journal", **changes):
    plan = dataclasses.replace(TINY, **changes)
    overloaded = load_scenario("geneva_overload").resized(num_drivers=3)
    return fit_planner(overloaded, plan, journal=tmp_path / name)


def test_threads_and_interruptions_change_nothing(tmp_path):
    whole = fitted(tmp_path, "whole")
    assert fitted(tmp_path, "one thread", threads=1) == whole
    journal = tmp_path / "parts"
    fitted(tmp_path, "parts")
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines[:-1], lines[-1][:20]]))  # killed while writing
    assert fitted(tmp_path, "parts") == whole


def test_a_journal_of_another_fit_or_a_damaged_one_is_refused(tmp_path):
    fitted(tmp_path)
    with pytest.raises(TrainingError, match="other settings"):
        fitted(tmp_path, seed=2)
    (tmp_path / "journal").write_text("nonsense\n")
    with pytest.raises(TrainingError, match="cannot be read"):
        fitted(tmp_path)


@pytest.mark.parametrize("left", ["", '{"fit": {"seed'])
def test_a_journal_without_one_whole_line_is_begun_anew(tmp_path, left):
    """A run killed between creating the file and its first line has lost nothing."""
    whole = fitted(tmp_path, "whole")
    (tmp_path / "journal").write_text(left)
    assert fitted(tmp_path) == whole
    assert (tmp_path / "journal").read_text() == (tmp_path / "whole").read_text()


def test_a_full_disk_loses_no_finished_generation(tmp_path):
    """A journal with a torn last line is written anew; where that fails, the old one stays."""
    path = tmp_path / "journal"
    scores = {"generation": 0, "scores": [1.0] * 1_000}
    text = "\n".join([json.dumps({"fit": 1}), json.dumps(scores), '{"gene'])
    path.write_text(text)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))  # Python ignores its signal
    try:
        with pytest.raises(OSError, match="File too large"):
            Journal(path, {"fit": 1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == text
    assert Journal(path, {"fit": 1}).scores(0) == scores["scores"]


def test_the_first_stage_goes_on_from_its_journal_too(tmp_path):
    whole = fitted(tmp_path, "whole")
    fitted(tmp_path, "parts")
    (tmp_path / "parts").unlink()
    busy = tmp_path / "parts_busy"
    lines = busy.read_text().splitlines()
    busy.write_text("\n".join(lines[:-1]))
    assert fitted(tmp_path, "parts") == whole


def test_the_first_stage_has_more_demand_where_it_is_a_model_and_little():
    geneva, overload = load_scenario("geneva"), load_scenario("geneva_overload")
    assert busy_scenario(geneva).demand.bookings_per_day == pytest.approx(128.0)
    assert busy_scenario(overload) is overload
    assert busy_scenario(load_scenario("manhattan_11")).name == "manhattan_11"


def test_it_climbs_to_where_the_reward_is(tmp_path, monkeypatch):
    """With a reward whose best weights are known, found in place of the days' own."""
    best = np.append(np.linspace(-2.0, 3.0, NUM_TERMS - 1), 0.0)

    def score(_engine, _scenario, weights, _moves, labels, _plan):
        return float(100.0 + labels.sum() % 7 - ((weights - best) ** 2).sum())

    monkeypatch.setattr(planner_fit, "_score", score)
    values = fitted(tmp_path, population=12).array()
    near = fitted(
        tmp_path, "long", busy=TINY.lasting(150).busy, own=TINY.lasting(150).own, population=12
    ).array()
    assert np.abs(near - best).max() < 0.3 < np.abs(values - best).max()


def test_what_earns_less_than_no_values_is_not_kept(tmp_path, monkeypatch):
    def score(_engine, _scenario, weights, _moves, _labels, _plan):
        return float(-(weights**2).sum())

    monkeypatch.setattr(planner_fit, "_score", score)
    values = fitted(tmp_path)
    assert values.provenance["kept"] == "start"
    assert values.provenance["checked"]["own"] < values.provenance["checked"]["start"]
    assert not any(values.weights)


def test_several_fits_are_averaged_and_each_goes_on_from_its_journal(tmp_path, monkeypatch):
    def score(_engine, _scenario, weights, _moves, labels, _plan):
        return float(labels.sum() % 7 - ((weights - 1.0) ** 2).sum())

    monkeypatch.setattr(planner_fit, "_score", score)
    first, second = fitted(tmp_path, "a"), fitted(tmp_path, "b", seed=2)
    both = fitted(tmp_path, "both", repeats=2)
    expected = (first.array() + second.array()) / 2
    assert both.array() == pytest.approx(expected, abs=1e-6)
    assert [fit["seed"] for fit in both.provenance["fits"]] == [1, 2]
    assert both.provenance["generations_played"] == 2 * TINY.generations
    (tmp_path / "both_1").unlink()
    assert fitted(tmp_path, "both", repeats=2) == both
