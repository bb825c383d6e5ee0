"""Evolution of the planner's values: improves, repeats, and goes on from its journal."""

import dataclasses

import numpy as np
import pytest

from services.rl.errors import TrainingError
from services.rl.policies.route_clock import NUM_TERMS
from services.rl.simulation.scenarios import load_scenario
from services.rl.training import planner_fit
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
    (tmp_path / "journal").write_text("nonsense")
    with pytest.raises(TrainingError, match="cannot be read"):
        fitted(tmp_path)


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

    def score(_engine, _scenario, weights, _moves, labels):
        return float(100.0 + labels.sum() % 7 - ((weights - best) ** 2).sum())

    monkeypatch.setattr(planner_fit, "_score", score)
    values = fitted(tmp_path, population=12).array()
    near = fitted(
        tmp_path, "long", busy=TINY.lasting(150).busy, own=TINY.lasting(150).own, population=12
    ).array()
    assert np.abs(near - best).max() < 0.3 < np.abs(values - best).max()


def test_what_earns_less_than_no_values_is_not_kept(tmp_path, monkeypatch):
    def score(_engine, _scenario, weights, _moves, _labels):
        return float(-(weights**2).sum())

    monkeypatch.setattr(planner_fit, "_score", score)
    values = fitted(tmp_path)
    assert values.provenance["kept"] == "start"
    assert values.provenance["checked"]["own"] < values.provenance["checked"]["start"]
    assert not any(values.weights)


def test_several_fits_are_averaged_and_each_goes_on_from_its_journal(tmp_path, monkeypatch):
    def score(_engine, _scenario, weights, _moves, labels):
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
