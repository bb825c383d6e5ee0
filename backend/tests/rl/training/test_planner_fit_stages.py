"""What a fit of the planner plays and compares, seen through a score that takes notes."""

import dataclasses

import numpy as np
import pytest

from services.rl.policies.planner_values import PlannerValues
from services.rl.policies.route_clock import NUM_TERMS, TERM
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import load_scenario
from services.rl.training import planner_fit
from services.rl.training.planner_fit import PlannerFit, Stage, fit_planner

BUSY, OWN, CHECK = 31, 41, 51  # moves: what a score is asked for shows by them
FIRST_CHECK = 900_000
PLAN = PlannerFit(
    busy=Stage(generations=3, days=2, moves=BUSY, sigma=0.5),
    own=Stage(generations=3, days=2, moves=OWN, sigma=0.25),
    population=4,
    check_days=4,
    check_moves=CHECK,
    threads=1,
    seed=1,
    care=(),
)


class Notes:
    """Stands for `planner_fit._score`: notes what is asked and answers with a given function."""

    def __init__(self, answer):
        self.asked = []
        self._answer = answer

    def __call__(self, _engine, _scenario, weights, moves, labels, _plan):
        self.asked.append((moves, np.array(weights), np.array(labels)))
        return float(self._answer(np.asarray(weights), moves))

    def weights(self, moves):
        return [weights for asked, weights, _ in self.asked if asked == moves]

    def labels(self, moves):
        return [labels for asked, _, labels in self.asked if asked == moves]


def towards_one(weights, _moves):
    """The nearer to 1 the weights that evolve, the better."""
    return -((weights[:-1] - 1.0) ** 2).sum()


@pytest.fixture
def fit(monkeypatch):
    """Fits with a noted score; returns values and notes."""

    def run(answer=towards_one, days=(), **options):
        notes = Notes(answer)
        monkeypatch.setattr(planner_fit, "_score", notes)
        scenario = load_scenario("geneva_overload").resized(num_drivers=3)
        plan = dataclasses.replace(PLAN, **options.pop("plan", {}))
        if "start" in options:
            weights = tuple(float(w) for w in options["start"])
            options["start"] = PlannerValues(
                TERM, weights, 150.0, 4.0, scenario.name, scenario.sha256, {}
            )
        return fit_planner(scenario, plan, days=days, **options), notes

    return run


def test_the_check_plays_days_that_no_fit_plays(fit):
    """On its own days everything would look good that was chosen by them."""
    _, notes = fit(plan={"busy": dataclasses.replace(PLAN.busy, days=200)})
    played = np.concatenate([*notes.labels(BUSY), *notes.labels(OWN)])
    assert played.min() >= 0 and played.max() < FIRST_CHECK
    assert played.max() > FIRST_CHECK / 2, "nearly all training seeds can be drawn"
    for labels in notes.labels(CHECK):
        assert labels.tolist() == list(range(FIRST_CHECK, FIRST_CHECK + 4))
    assert not set(played.tolist()) & set(np.concatenate(notes.labels(CHECK)).tolist())


def test_both_stages_and_the_check_are_searched_with_their_own_moves(fit):
    _, notes = fit()
    asked = PLAN.population + 2  # the candidates, the mean and the origin
    assert len(notes.weights(BUSY)) == len(notes.weights(OWN)) == 3 * asked
    assert len(notes.weights(CHECK)) == 3  # no values, those of the first stage, all
    assert {moves for moves, _, _ in notes.asked} == {BUSY, OWN, CHECK}


def test_every_candidate_of_a_generation_plays_the_same_days(fit):
    _, notes = fit()
    asked = PLAN.population + 2
    for moves in (BUSY, OWN):
        labels = notes.labels(moves)
        drawn = [labels[asked * g : asked * (g + 1)] for g in range(3)]
        for generation in drawn:
            assert len({tuple(each) for each in generation}) == 1
        assert len({tuple(generation[0]) for generation in drawn}) == 3


def test_the_second_stage_begins_where_the_first_ended(fit):
    _, notes = fit()
    _start, first, _own = notes.weights(CHECK)
    asked = PLAN.population + 2
    origins = notes.weights(OWN)[asked - 1 :: asked]
    assert len(origins) == 3
    assert all(np.allclose(origin, first, atol=1e-12) for origin in origins)
    assert np.abs(first).max() > 0.1
    assert not any(np.abs(notes.weights(BUSY)[asked - 1]))  # the first: from no values


def test_the_first_stages_answer_is_kept_where_the_second_spoils_it(fit):
    notes_of = []

    def spoiled(weights, moves):
        if moves == CHECK:
            notes_of.append(weights)
            return [1.0, 3.0, 2.0][len(notes_of) - 1]
        return towards_one(weights, moves)

    values, notes = fit(spoiled)
    assert values.provenance["kept"] == "busy"
    assert values.array() == pytest.approx(notes.weights(CHECK)[1], abs=1e-6)


def test_a_start_is_where_the_fit_begins_and_what_it_has_to_beat(fit):
    start = np.linspace(0.2, 1.3, NUM_TERMS)
    values, notes = fit(lambda weights, _moves: -((weights - start) ** 2).sum(), start=start)
    assert notes.weights(BUSY) == []
    asked = PLAN.population + 2
    assert all(np.allclose(w, start) for w in notes.weights(OWN)[asked - 1 :: asked])
    assert values.provenance["kept"] == "start"
    assert values.array() == pytest.approx(start, abs=1e-6)
    better, _ = fit(start=start, plan={"own": dataclasses.replace(PLAN.own, generations=30)})
    assert better.provenance["kept"] == "own"


def test_no_further_fit_begins_when_time_is_out(fit):
    over = []

    def answer(weights, moves):
        if moves == CHECK:
            over.append(True)  # the first fit is finished
        return towards_one(weights, moves)

    values, _ = fit(answer, plan={"repeats": 3}, out_of_time=lambda: bool(over))
    assert values.provenance["repeats"] == len(values.provenance["fits"]) == 1
    assert values.provenance["generations_played"] == PLAN.generations
    over.clear()
    all_of_them, _ = fit(plan={"repeats": 3}, out_of_time=lambda: False)
    assert all_of_them.provenance["repeats"] == 3


def test_time_that_runs_out_in_the_first_stage_leaves_no_second(fit):
    asked = []

    def out_of_time():
        asked.append(True)
        return len(asked) > 2

    values, notes = fit(out_of_time=out_of_time)
    assert notes.weights(OWN) == [] and len(notes.weights(CHECK)) == 2
    assert set(values.provenance["checked"]) == {"start", "busy"}
    assert values.provenance["generations_played"] == 2


def test_real_days_are_drawn_anew_in_each_generation_and_all_of_them_judge(fit):
    scenario = load_scenario("geneva_overload").resized(num_drivers=3)
    engine = Engine(scenario, 6)
    engine.start(np.arange(6))
    days = [engine.day(e) for e in range(6)]
    _, notes = fit(days=days)
    asked = PLAN.population + 2
    batches = [tuple(labels) for m in (BUSY, OWN) for labels in notes.labels(m)[::asked]]
    assert len(batches) == 6
    assert len({frozenset(batch) for batch in batches}) >= 3
    for batch in batches:
        assert len(set(batch)) == 2 and set(batch) <= set(range(6))
    for labels in notes.labels(CHECK):
        assert labels.tolist() == list(range(6))
