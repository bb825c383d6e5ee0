"""Evolution of the planner's values: improves, repeats, and goes on from its journal."""

import dataclasses

import pytest

from services.rl.errors import TrainingError
from services.rl.simulation.scenarios import load_scenario
from services.rl.training.planner_fit import PlannerFit, fit_planner

TINY = PlannerFit(
    generations=3, population=4, days=2, moves=30, check_days=4, check_moves=30, threads=2, seed=1
)


def fitted(tmp_path, name="journal", **changes):
    plan = dataclasses.replace(TINY, **changes)
    return fit_planner(load_scenario("geneva_small"), plan, journal=tmp_path / name)


def test_threads_and_interruptions_change_nothing(tmp_path):
    whole = fitted(tmp_path, "whole")
    assert fitted(tmp_path, "one thread", threads=1) == whole
    fitted(tmp_path, "parts", generations=2)
    journal = tmp_path / "parts"
    journal.write_text(journal.read_text() + '{"generation": 2, "sco')  # killed while writing
    assert fitted(tmp_path, "parts") == whole


def test_the_result_is_kept_only_if_it_earns_more(tmp_path):
    values = fitted(tmp_path)
    before, after = values.provenance["check_before"], values.provenance["check_after"]
    assert (after >= before) == any(values.weights)


def test_a_journal_of_another_fit_or_a_damaged_one_is_refused(tmp_path):
    fitted(tmp_path)
    with pytest.raises(TrainingError, match="other settings"):
        fitted(tmp_path, seed=2)
    (tmp_path / "journal").write_text("nonsense")
    with pytest.raises(TrainingError, match="cannot be read"):
        fitted(tmp_path)


def test_more_generations_find_more(tmp_path):
    """On the small fleet with few moves, thirty small generations clearly beat no values."""
    values = fitted(
        tmp_path, generations=25, population=10, days=12, moves=60, check_days=60, check_moves=60
    )
    assert values.provenance["check_after"] > values.provenance["check_before"] + 2.0
