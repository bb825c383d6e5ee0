"""A run of ``--policy auto``: budget, resumption, few real days, refusals."""

import dataclasses
import json

import pytest

from services.rl.errors import DataError, TrainingError, UsageError
from services.rl.policies.planner_values import PlannerValues
from services.rl.policies.registry import make_policy
from services.rl.policies.tuning import UNTUNED
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import load_scenario
from services.rl.training import planner_run
from services.rl.training.auto_candidates import (
    CANDIDATES,
    Candidate,
    FitPlanner,
    TrainNetwork,
    TuneMatching,
    World,
)
from services.rl.training.auto_policy import run_auto
from services.rl.training.auto_report import (
    candidate_sentences,
    company_past,
    verdict,
    write_auto_report,
)

HEURISTICS = tuple(c for c in CANDIDATES if c.name in ("nearest", "matching", "matching_linear"))


class Quick:
    """A training of no time that leaves the untuned weights."""

    def __init__(self, estimate_s=0.0, fails=None):
        self.trained, self.estimate_s, self.fails = 0, estimate_s, fails

    def plan(self, _world, seconds, _folder):
        if self.estimate_s > seconds:
            return None
        return {"estimate_s": self.estimate_s, "words": "nothing"}

    def train(self, world, _plan, folder, _out_of_time):
        self.trained += 1
        if self.fails is not None:
            raise self.fails
        weights = dataclasses.replace(UNTUNED, scenario_hash=world.scenario.sha256)
        weights.save(folder / "checkpoints" / "best" / "matching.json")


def tuned(stage, name="matching_tuned"):
    return Candidate(name, "", "", stage=stage, share=1.0)


@pytest.fixture
def small():
    return load_scenario("geneva_small")


def auto(scenario, folder, stage=None, **options):
    candidates = [*HEURISTICS, *([tuned(stage)] if stage else [])]
    return run_auto(scenario, folder, **{"minutes": 1.0, "candidates": candidates, **options})


def test_the_winner_is_copied_reported_and_can_be_played(atmr_home, small):
    folder = atmr_home / "results" / "auto"
    result = auto(small, folder, Quick())
    files = write_auto_report(result, small, None, "evaluate.py ...")
    text = files[0].read_text()
    assert "Le meilleur choix est `matching_linear`" in text and "## In English" in text
    assert files[1].read_bytes()[:4] == b"\x89PNG"
    chosen = json.loads((folder / "checkpoints" / "best" / "policy.json").read_text())
    assert chosen["policy"] == result.choice.winner == "matching_linear"
    document = json.loads((folder / "choice.json").read_text())
    days = document["candidates"]["nearest"]["validation"]["kpis"]["reward"]
    assert len(days) == len(document["validation_days"]) >= 20
    assert document["validation_days"][0] == "seed:1000064"  # not those a network is chosen on
    assert document["test_days"][0] == "seed:2000000"
    assert "sure at 95 %" in verdict(result)
    model = folder / "candidates" / "matching_tuned" / "checkpoints" / "best"
    assert make_policy("matching_tuned", small, model=model).model_sha


def test_a_resumed_run_repeats_nothing_that_is_finished(atmr_home, small):
    folder = atmr_home / "results" / "auto"
    killed, done = Quick(fails=KeyboardInterrupt()), Quick()
    both = [*HEURISTICS, tuned(done), tuned(killed, "matching_linear_tuned")]
    with pytest.raises(KeyboardInterrupt):
        run_auto(small, folder, minutes=1.0, candidates=both)
    before = json.loads((folder / "auto_state.json").read_text())
    assert before["entries"]["matching_tuned"]["status"] == "done"
    assert before["entries"]["matching_linear_tuned"]["status"] == "training"
    both[-1] = tuned(Quick(fails=TrainingError("it broke")), "matching_linear_tuned")
    result = run_auto(small, folder, minutes=1.0, candidates=both, resume=True)
    assert done.trained == 1
    after = json.loads((folder / "auto_state.json").read_text())
    assert after["entries"]["matching_tuned"] == before["entries"]["matching_tuned"]
    assert after["spent_s"] > before["spent_s"]
    assert "matching_linear_tuned: failed: it broke" in candidate_sentences(result)


def test_what_does_not_fit_is_not_tried_and_a_longer_run_tries_it(atmr_home, small):
    folder = atmr_home / "results" / "auto"
    slow = Quick(estimate_s=300.0)
    result = auto(small, folder, slow)
    assert slow.trained == 0
    assert "matching_tuned: not tried: too little time" in candidate_sentences(result)
    auto(small, folder, slow, minutes=60.0, resume=True)
    assert slow.trained == 1


@pytest.mark.slow
def test_tuning_fits_into_its_time(atmr_home, small):
    result = auto(small, atmr_home / "results" / "auto", TuneMatching("matching"), minutes=0.15)
    entry = result.state.entries["matching_tuned"]
    assert entry.status in ("done", "not tried")
    assert entry.status == "not tried" or entry.plan["estimate_s"] < 0.15 * 60


def test_the_network_plans_by_what_it_measures(atmr_home, small):
    world = World(small, None, [], 0, {})
    folder = atmr_home / "results" / "auto" / "candidates" / "dqn_matching"
    assert TrainNetwork().plan(world, 0.5, folder) is None
    plan = TrainNetwork().plan(world, 100_000.0, folder)
    assert plan["mode"] == "production" and plan["estimate_s"] < 100_000.0
    assert not list(folder.glob(".trial")) and not list((atmr_home / "data").rglob("events*"))


def test_the_planner_s_plan_is_fitted_until_time_is_out(atmr_home, small, monkeypatch):
    world = World(small, None, [], 3, {"command": "test"})
    folder = atmr_home / "results" / "auto" / "candidates" / "planner"
    tiny = planner_run.PLANNER_MODES["sanity"].lasting(12)
    monkeypatch.setattr(FitPlanner, "RUNGS", (tiny,))
    assert FitPlanner().plan(world, 0.0, folder) is None
    plan = json.loads(json.dumps(FitPlanner().plan(world, 100_000.0, folder)))  # as it is kept
    assert plan["busy"]["generations"] + plan["own"]["generations"] == 12
    asked = iter([False] * 4 + [True] * 9)
    FitPlanner().train(world, plan, folder, lambda: next(asked))
    values = PlannerValues.load(folder / "checkpoints" / "best" / "planner.json")
    assert values.provenance["generations_played"] == 4
    assert (values.provenance["seed"], values.provenance["command"]) == (3, "test")
    FitPlanner().train(world, plan, folder, lambda: False)  # goes on from its journal
    values = PlannerValues.load(folder / "checkpoints" / "best" / "planner.json")
    assert values.provenance["generations_played"] == 12


class FewDays:
    """Real days, only a handful."""

    def __init__(self, scenario, **counts):
        total = sum(counts.values())
        engine = Engine(scenario, total)
        engine.start(range(total))
        days = [dataclasses.replace(engine.day(e), label=f"2026-01-{e + 1:02d}")
                for e in range(total)]  # fmt: skip
        self.known = {day.label: day for day in days}
        names = list(self.known)
        self.split = {}
        for split, count in counts.items():
            self.split[split], names = names[:count], names[count:]

    def labels(self, split):
        if not self.split.get(split):
            raise DataError(f"data set 'few' has no {split} day")
        return self.split[split]

    def day(self, label):
        return self.known[label]


def test_a_short_history_is_called_not_sure(atmr_home, small):
    source = FewDays(small, train=4, validation=3, test=5)
    result = auto(small, atmr_home / "results" / "few", Quick(), source=source)
    text = write_auto_report(result, small, source, "")[0].read_text()
    assert "**Pas sûr**" in text and "3 journées de validation" in text
    assert company_past(source, result.state.test, small) is None  # days without a past
    if result.choice.winner != "matching":
        assert "not sure: 5 days are too few" in verdict(result)


def test_without_test_days_the_gain_is_not_sure(atmr_home, small):
    source = FewDays(small, train=4, validation=3)
    result = auto(small, atmr_home / "results" / "few", source=source)
    assert result.test_gain() is None
    assert "Aucune journée de test" in write_auto_report(result, small, source, "")[0].read_text()


def test_a_history_without_validation_days_is_refused(atmr_home, small):
    with pytest.raises(DataError, match="no validation day"):
        auto(small, atmr_home / "results" / "few", source=FewDays(small, train=4))
    assert not (atmr_home / "results").exists()


def test_other_runs_states_and_times_are_refused(atmr_home, small):
    folder = atmr_home / "results" / "taken"
    with pytest.raises(UsageError, match="--minutes must be above 0"):
        auto(small, folder, minutes=0.0)
    with pytest.raises(TrainingError, match="there is nothing to resume"):
        auto(small, folder, resume=True)
    folder.mkdir(parents=True)
    (folder / "training_config.json").write_text('{"policy": "planner"}')
    with pytest.raises(TrainingError, match="holds a run of --policy planner"):
        auto(small, folder)
    (folder / "training_config.json").unlink()
    auto(small, folder)
    with pytest.raises(TrainingError, match="was begun with --seed 0"):
        auto(small, folder, resume=True, seed=1)
    with pytest.raises(TrainingError, match="is of scenario geneva_small"):
        auto(small.resized(num_drivers=2), folder, resume=True)
