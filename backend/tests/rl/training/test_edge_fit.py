"""The fit of edge values: improves, repeats, goes on from its journal, keeps its days apart."""

import dataclasses

import numpy as np
import pytest

from services.rl.data.manhattan import ManhattanDays
from services.rl.errors import PolicyError, TrainingError
from services.rl.policies.zone_matching import EDGE_TERM
from services.rl.simulation.scenarios import Split, load_scenario
from services.rl.training import edge_fit
from services.rl.training.edge_fit import EdgeFit, edge_days, fit_edges
from tests.rl.data.miniature_manhattan import miniature_scenario, write_folder

TINY = EdgeFit(generations=3, population=4, days=3, worth_days=3, check_days=4, threads=2, seed=1)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = write_folder(tmp_path_factory.mktemp("manhattan") / "root", seed=9, train=50)
    scenario = miniature_scenario(3, deadhead_per_km=0.8, loaded_per_km=1.5)
    return scenario, ManhattanDays.open(root, scenario)


@pytest.fixture(autouse=True)
def home(atmr_home):
    """Clairvoyant solutions are kept there."""


def fitted(world, journal=None, **changes):
    scenario, source = world
    plan = dataclasses.replace(TINY, **changes)
    days = edge_days(source, source.labels(Split.TRAIN), source.tuning_labels(), plan)
    return fit_edges(scenario, plan, days, source=source, journal=journal)


def test_every_part_has_days_of_its_own_and_no_date_is_left_out(world):
    _, source = world
    train = list(source.labels(Split.TRAIN))
    days = edge_days(source, train, source.tuning_labels(), TINY)
    labels = {part: [day.label for day in each] for part, each in vars(days).items()}
    assert labels == {
        "tuning": [*train[:3], *train[10:]],
        "worth": train[7:10],
        "check": train[3:7],
    }
    few = edge_days(source, train[-40:], source.tuning_labels(), TINY)
    for part in vars(few).values():  # too few to keep apart
        assert [day.label for day in part] == train[10:]


def test_threads_and_interruptions_change_nothing(world, tmp_path):
    whole = fitted(world, tmp_path / "whole")
    assert fitted(world, threads=1) == whole
    journal = tmp_path / "whole"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines[:-1], lines[-1][:20]]))  # killed while writing
    assert fitted(world, journal) == whole
    assert fitted(world, seed=2) != whole


def test_a_journal_of_another_fit_is_refused(world, tmp_path):
    fitted(world, tmp_path / "journal")
    with pytest.raises(TrainingError, match="other settings"):
        fitted(world, tmp_path / "journal", seed=2)


def test_it_earns_more_than_the_start_on_days_it_was_not_fitted_on(world):
    found = fitted(world, generations=25, population=12, days=20, check_days=7)
    assert found.provenance["check_after"] > 1.01 * found.provenance["check_before"]
    assert found.weights[0] == 1.0


def test_what_earns_less_than_the_start_is_not_kept(world, monkeypatch):
    def score(_engine, _labels, weights, _tables):
        return float(-np.abs(weights).sum())

    start = fitted(world, generations=1).provenance["terms"]
    monkeypatch.setattr(edge_fit, "_mean_reward", score)
    values = fitted(world, generations=1)
    assert values.provenance["check_after"] < values.provenance["check_before"]
    assert {n: w for n, w in zip(EDGE_TERM, values.weights, strict=True) if w} == {
        "profit": 1.0, "worth_after": 0.6, "worth_before": 0.6, "wait": -0.001,
    }  # fmt: skip
    assert start == EDGE_TERM[1:]


def test_terms_left_out_keep_their_weight_and_worth_then_counts_nothing(world):
    values = fitted(world, terms=("bias", "taken"))
    moved = {n for n, w in zip(EDGE_TERM, values.weights, strict=True) if w}
    assert moved <= {"profit", "wait", "bias", "taken"}
    with pytest.raises(TrainingError, match="'nonsense'"):
        fitted(world, terms=("nonsense",))


def test_worth_falls_to_nothing_towards_the_end_and_demand_is_counted(world):
    _, source = world
    values = fitted(world)
    worth = np.array(values.worth)
    assert worth.shape == (4, 65) and worth.min() >= 0  # rides are queued for free cars until 65
    assert worth[:, :10].mean() > worth[:, 55:60].mean() > worth[:, 60:].mean() > 0
    days = [source.day(label) for label in values.provenance["worth_dates"]]
    per_minute = np.mean([len(day.bookings) for day in days]) / 60
    assert sum(values.requests) == pytest.approx(per_minute, abs=1e-5)


def test_a_scenario_where_bookings_wait_is_refused(world):
    _, source = world
    days = edge_days(source, source.labels(Split.TRAIN), source.tuning_labels(), TINY)
    with pytest.raises(PolicyError, match="not for 'geneva'"):
        fit_edges(load_scenario("geneva"), TINY, days)
