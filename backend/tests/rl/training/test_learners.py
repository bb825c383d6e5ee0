"""Nightly updates: what they start from, mix in, keep, and go on from when killed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from services.rl.data.recalibrated import Simulator, recalibrated
from services.rl.errors import TrainingError
from services.rl.policies.model_files import read_arrays, read_manifest
from services.rl.policies.planner_values import VALUES_FILE, PlannerValues
from services.rl.serving.bundle import EXPECTED_DEMAND, read_bundle
from services.rl.serving.engine import InferenceEngine
from services.rl.serving.policies import learned_of
from services.rl.simulation.scenarios import load_scenario
from services.rl.training import network_learner, planner_learner
from services.rl.training.config import TrainingConfig
from services.rl.training.learners import (
    TINY,
    Taken,
    begin_update,
    learner_of,
    taught_kinds,
)
from services.rl.training.network_learner import (
    DqnMatchingLearner,
    MixedReplay,
    NightlyTrainer,
    joined,
)
from services.rl.training.production_replay import ProductionReplay
from tests.learning.histories import busier, drawn
from tests.rl.data.played_experiences import play
from tests.rl.serving.models import SMALL, bundle_of, states_of_days

QUIET = {"say": lambda _: None}


@pytest.fixture(scope="module")
def simulator(tmp_path_factory):
    days = drawn(busier(SMALL, 1.5, {}), 4, 1)
    return recalibrated(SMALL, days, tmp_path_factory.mktemp("recent"))


@pytest.fixture(scope="module")
def logged():
    return play(SMALL, seed=3).experiences


@pytest.fixture(scope="module")
def champions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("champions")
    return {kind: bundle_of(kind, folder) for kind in ("planner", "dqn_matching", "matching")}


# --- the planner ---------------------------------------------------------------------------------


def test_the_planners_update_is_filed_for_the_served_world_and_looks_ahead_by_recent_days(
    simulator, champions, tmp_path
):
    bundle = learner_of("planner").update(
        champions["planner"], simulator, (), folder=tmp_path / "u", budget=TINY, seed=0, **QUIET
    )
    assert bundle.kind == "planner"
    assert bundle.manifest.scenario_hash == SMALL.sha256
    assert bundle.manifest.parent == champions["planner"].version
    told = bundle.manifest.metrics["nightly"]
    assert told["demand_sha256"] == simulator.demand_sha256
    assert told["kept"] in ("champion", "champion's values", "found")
    values = PlannerValues.load(bundle.file(VALUES_FILE))
    assert values.scenario_hash == SMALL.sha256
    assert values.provenance["training_scenario_hash"] == simulator.training_scenario.sha256
    engine = InferenceEngine(SMALL, bundle)
    for state in states_of_days(count=4):
        engine.decide(state, budget_ms=60_000.0)
    assert not [name for name in engine.counters if name.startswith("fallback")]
    engine.close()


def test_a_bundle_with_expected_demand_plans_by_it(simulator, champions, tmp_path):
    from services.rl.serving.bundle import write_bundle

    far = busier(SMALL, 1.0, {"HUG Cluse-Roseraie": {"lat": 46.30, "lon": 6.05, "weight": 40.0}})
    far.demand_model().save(tmp_path / "far.npz")
    bundle = write_bundle(
        tmp_path / "b",
        "planner",
        SMALL,
        model=champions["planner"].path,
        transfer=True,
        extra={EXPECTED_DEMAND: tmp_path / "far.npz"},
    )
    here, there = (learned_of(b, SMALL, None, "cpu") for b in (champions["planner"], bundle))
    assert not np.array_equal(here._grid.near, there._grid.near)
    values = PlannerValues.load(bundle.file(VALUES_FILE))
    expected = planner_learner.SearchPolicy("planner", far, values=values)
    assert np.array_equal(there._grid.near, expected._grid.near)


def test_the_champions_values_are_kept_where_nothing_better_is_found(
    simulator, champions, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        planner_learner,
        "_checked",
        lambda _w, candidates, *_: {n: 10.0 - i for i, n in enumerate(candidates)},
    )
    bundle = learner_of("planner").update(
        champions["planner"], simulator, (), folder=tmp_path / "u", budget=TINY, seed=0, **QUIET
    )
    before = PlannerValues.load(champions["planner"].file(VALUES_FILE))
    assert PlannerValues.load(bundle.file(VALUES_FILE)).weights == before.weights
    assert bundle.manifest.metrics["nightly"]["kept"] == "champion"


def test_an_interrupted_evolution_goes_on_and_finds_the_same(
    simulator, champions, tmp_path, monkeypatch
):
    budget = replace(TINY, planner=replace(TINY.planner, generations=3))

    def update(name):
        return learner_of("planner").update(
            champions["planner"], simulator, (), folder=tmp_path / name, budget=budget, seed=4,
            **QUIET,
        )  # fmt: skip

    whole = update("whole")
    earned, calls = planner_learner._earned, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) > 20:
            raise KeyboardInterrupt
        return earned(*arguments)

    monkeypatch.setattr(planner_learner, "_earned", killed)
    with pytest.raises(KeyboardInterrupt):
        update("cut")
    finished = (tmp_path / "cut" / "evolution.jsonl").read_text().count('"generation"')
    assert finished >= 1
    monkeypatch.setattr(planner_learner, "_earned", earned)
    again = update("cut")
    assert again.manifest.files[VALUES_FILE] == whole.manifest.files[VALUES_FILE]
    assert update("cut").version == again.version, "finished before"


def test_a_damaged_journal_is_begun_anew(simulator, champions, tmp_path, monkeypatch):
    learner = learner_of("planner")
    folder = tmp_path / "u"
    arguments = (champions["planner"], simulator, ())
    learner.update(*arguments, folder=folder, budget=TINY, seed=0, **QUIET)
    (folder / "evolution.jsonl").write_text("no journal\n\n{}\n")
    (folder / "bundle" / "manifest.json").unlink()
    assert learner.update(*arguments, folder=folder, budget=TINY, seed=0, **QUIET).kind == "planner"


# --- the network ---------------------------------------------------------------------------------


def test_the_network_goes_on_from_the_champion_with_logged_experiences(
    simulator, champions, logged, tmp_path, atmr_home
):
    bundle = learner_of("dqn_matching").update(
        champions["dqn_matching"],
        simulator,
        logged,
        folder=tmp_path / "u",
        budget=TINY,
        seed=0,
        **QUIET,
    )
    told = bundle.manifest.metrics["nightly"]
    assert told["experiences"] == {"policy": len(logged)}
    assert told["experiences_left_out"] == {}
    assert told["production_share"] == TINY.production_share
    assert told["score"] >= told["score_before"], "it never gets worse on its own validation days"
    assert bundle.manifest.scenario_hash == SMALL.sha256
    manifest = read_manifest(bundle.path / "network")
    assert manifest.environment["scenario_hash"] == SMALL.sha256
    assert manifest.environment["trained_on"] == simulator.training_scenario.sha256
    engine = InferenceEngine(SMALL, bundle)
    engine.decide(states_of_days(count=1)[0], budget_ms=60_000.0)
    assert not [name for name in engine.counters if name.startswith("fallback")]
    engine.close()


def test_without_any_network_it_begins_by_imitation(simulator, champions, tmp_path, atmr_home):
    bundle = learner_of("dqn_matching", teacher=champions["planner"]).update(
        champions["planner"], simulator, (), folder=tmp_path / "u", budget=TINY, seed=0, **QUIET
    )
    told = bundle.manifest.metrics["nightly"]
    assert told["started_from"] == "imitation"
    assert told["teacher"] == f"planner {champions['planner'].version}"
    assert bundle.manifest.parent == champions["planner"].version


def test_a_champion_of_another_kind_lets_it_start_from_the_fallback(
    simulator, champions, tmp_path, atmr_home
):
    network = champions["dqn_matching"].path / "network"
    bundle = learner_of("dqn_matching", fallback=network).update(
        champions["matching"], simulator, (), folder=tmp_path / "u", budget=TINY, seed=0, **QUIET
    )
    assert (
        bundle.manifest.metrics["nightly"]["started_from"]
        == (read_manifest(network).files["model.safetensors"][:12])
    )


def test_an_update_killed_while_it_learns_goes_on_from_its_checkpoint(
    simulator, champions, logged, tmp_path, atmr_home, monkeypatch
):
    budget = replace(TINY, network=replace(TINY.network, steps=160, judge_every=10, patience=0))
    original = NightlyTrainer._vector_step
    monkeypatch.setattr(network_learner, "_SAVE_EVERY_S", 0.0)
    lines, steps = [], []

    def killed(self):
        steps.append(1)
        if len(steps) > 25:
            raise MemoryError("killed")
        original(self)

    def update():
        return DqnMatchingLearner().update(
            champions["dqn_matching"], simulator, logged, folder=tmp_path / "u", budget=budget,
            seed=0, say=lines.append,
        )  # fmt: skip

    monkeypatch.setattr(NightlyTrainer, "_vector_step", killed)
    with pytest.raises(MemoryError):
        update()
    monkeypatch.setattr(NightlyTrainer, "_vector_step", original)
    bundle = update()
    assert any("resumed from step_0000000080" in line for line in lines), lines
    assert bundle.manifest.metrics["nightly"]["experiences"] == {"policy": len(logged)}
    assert not (tmp_path / "u" / "run" / "checkpoints" / "latest").exists()


def test_a_damaged_checkpoint_is_left_aside(simulator, champions, tmp_path, atmr_home, monkeypatch):
    lines = []
    run = tmp_path / "u" / "run" / "checkpoints" / "latest" / "step_0000000008"

    def update():
        return DqnMatchingLearner().update(
            champions["dqn_matching"], simulator, (), folder=tmp_path / "u", budget=TINY, seed=0,
            say=lines.append,
        )  # fmt: skip

    update()
    (tmp_path / "u" / "bundle" / "manifest.json").unlink()
    run.mkdir(parents=True)
    (run / "manifest.json").write_text("{")
    assert update().kind == "dqn_matching"
    assert any("left aside" in line for line in lines)


# --- the log -------------------------------------------------------------------------------------


def test_logged_transitions_are_those_the_simulator_would_give(logged):
    config = TrainingConfig()
    taken = Taken()
    replay = ProductionReplay.of(logged, SMALL, config, seed=0, taken=taken)
    assert len(replay) == taken.total == len(logged)
    played = play(
        SMALL, seed=3, timing=config.environment.reward_timing, gamma=config.hyperparameters.gamma
    )
    batch = replay.batch(np.arange(len(replay)))
    assert np.array_equal(batch.state, played.state)
    assert np.array_equal(batch.action, played.action)
    rewards = np.array([step.reward[0] for step in played.steps])
    assert batch.reward == pytest.approx(rewards, abs=1e-4)
    assert batch.dt.tolist() == [step.dt[0] for step in played.steps]


def test_experiences_of_another_world_are_counted_and_left_out(logged):
    taken = Taken()
    mixed = [*logged[:10], *(replace(e, scenario_hash="0" * 64) for e in logged[10:15])]
    replay = ProductionReplay.of(mixed, SMALL, TrainingConfig(), seed=0, taken=taken)
    assert len(replay) == 10
    assert taken.left_out == {"scenario": 5}
    assert taken.by_source == {"policy": 10}


def test_targets_of_the_log_choose_only_among_actions_with_support(logged):
    class Judge:
        """Likes the first valid action best, the second nearly as much, others far less."""

        def q_values(self, states, masks):
            order = masks.cumsum(axis=1)
            return np.where(masks, np.where(order <= 2, 10.0 - order, -20.0), -1e9).astype("f4")

    replay = ProductionReplay.of(logged, SMALL, TrainingConfig(), seed=0, taken=Taken())
    before = replay.batch(np.arange(len(replay))).next_mask
    replay.restrict(Judge(), 0.1)
    after = replay.batch(np.arange(len(replay))).next_mask
    assert (after.sum(axis=1) == np.minimum(2, before.sum(axis=1))).all()
    assert (after <= before).all()
    assert replay.restricted == pytest.approx(1.0 - after.sum() / before.sum())
    free = ProductionReplay.of(logged, SMALL, TrainingConfig(), seed=0, taken=Taken())
    free.restrict(Judge(), 0.0)
    assert np.array_equal(free.batch(np.arange(len(free))).next_mask, before)


def test_batches_hold_the_configured_share_of_the_log(logged):
    replay = ProductionReplay.of(logged, SMALL, TrainingConfig(), seed=0, taken=Taken())
    rows = replay.batch(np.arange(8))
    mixed = MixedReplay(64, rows.state.shape[1], rows.mask.shape[1], seed=0)
    for i in range(8):
        mixed.push(
            rows.state[i], int(rows.action[i]), rows.next_state[i], 0.0, False,
            mask=rows.mask[i], next_mask=rows.next_mask[i],
        )  # fmt: skip
    assert (mixed.sample(32).index >= 0).all(), "nothing before the log may be used"
    mixed.production, mixed.share = replay, 0.25
    batch = mixed.sample(32)
    assert (batch.index < 0).sum() == 8
    assert len(joined(batch, batch).reward) == 64


# --- what all share ------------------------------------------------------------------------------


def test_another_update_in_the_same_folder_begins_anew(tmp_path):
    say = [].append
    folder = tmp_path / "u"
    assert begin_update(folder, {"a": 1}, say) is None
    (folder / "half").write_text("x")
    assert begin_update(folder, {"a": 1}, say) is None
    assert (folder / "half").exists()
    assert begin_update(folder, {"a": 2}, say) is None
    assert not (folder / "half").exists()


def test_the_planner_comes_first_for_it_teaches_the_network(champions):
    assert taught_kinds(champions["planner"]) == ("planner", "dqn_matching")
    assert taught_kinds(champions["dqn_matching"]) == ("dqn_matching",)
    assert taught_kinds(champions["matching"]) == ("planner", "dqn_matching")
    assert taught_kinds(None) == ("planner", "dqn_matching")
    with pytest.raises(TrainingError, match="nobody learns"):
        learner_of("matching")


def test_the_start_is_the_champion_bit_for_bit(simulator, champions, tmp_path):
    task = network_learner.NightlyTask(
        simulator, champions["dqn_matching"].path / "network", planner_learner.SearchPolicy(
            "planner", SMALL)
    )  # fmt: skip
    config = TrainingConfig().changed(hyperparameters={"num_envs": 2})
    network = task.network(config, task.stream(config))
    arrays = read_arrays(champions["dqn_matching"].path / "network")
    for name, values in network.state_dict().items():
        assert torch.equal(values, torch.from_numpy(arrays[name]))


def test_bundles_are_read_back_whole(simulator, champions, tmp_path):
    bundle = learner_of("planner").update(
        None, Simulator(SMALL, SMALL), (), folder=tmp_path / "u", budget=TINY, seed=0, **QUIET
    )
    assert read_bundle(bundle.path).version == bundle.version
    assert bundle.manifest.parent is None
    assert EXPECTED_DEMAND not in bundle.manifest.files, "nothing newer is known"
    assert load_scenario(str(bundle.path / "scenario.yaml")).sha256 == SMALL.sha256
    _ = simulator, champions
