"""Teachers and polish: what is taught is learned, and evolution changes one layer only."""

import numpy as np
import pytest

from services.rl.policies.base import Decision, DecisionSet
from services.rl.policies.edge_policies import linear_weights
from services.rl.policies.registry import make_policy
from services.rl.simulation.scenarios import load_scenario
from services.rl.training.imitation import Demonstrations, demonstrate, imitate, policy_loss
from services.rl.training.run_log import RunLog, read_metrics
from services.rl.training.trainer import Trainer

from .tiny_runs import tiny

SMALL = "geneva_small"


def all_loss(agent, shown):
    return float(policy_loss(agent, shown.state, shown.mask, shown.right).detach())


def shown_by(name, config, days):
    run = Trainer(SMALL, config)
    stream = run.task.stream(config.changed(seed=77, hyperparameters={"num_envs": 4}))
    stream.reset()
    teacher = make_policy(name, run.task.scenario)
    return run, teacher, demonstrate(teacher, stream, days)


@pytest.mark.parametrize("name", ["matching", "rolling_search@200"])
def test_demonstrations_are_what_the_teacher_plays(atmr_home, name):
    """Marked actions are allowed, and days played by them score what the teacher scores."""
    config = tiny(environment={"reward_timing": "event"})
    run, teacher, shown = shown_by(name, config, 4)
    assert (shown.right & ~shown.mask).sum() == 0
    assert shown.right.any(axis=1).all()
    stream = run.task.stream(config.changed(seed=77, hyperparameters={"num_envs": 4}))
    stream.reset()
    teacher.play(stream.engine)
    expected = stream.engine.world.totals.sum(axis=1)
    stream.reset()
    totals, wanted = np.full(4, np.nan), iter(shown.right.reshape(-1, 4, shown.right.shape[1]))
    while np.isnan(totals).any():
        step = stream.step(next(wanted).argmax(axis=1).astype(np.int64))
        for e, episode in zip(np.flatnonzero(step.ended), step.episodes, strict=True):
            totals[e] = episode.total if np.isnan(totals[e]) else totals[e]
    np.testing.assert_allclose(totals, expected)


def test_imitation_approaches_the_teacher(atmr_home):
    config = tiny(
        hyperparameters={"pair_hidden": 16, "batch_size": 64},
        evaluation={"n_eval_episodes": 32},
    )
    run, _, shown = shown_by("matching", config, 12)
    start, untaught = all_loss(run.agent, shown), run.evaluate().mean
    imitate(run.agent, shown, 10, np.random.default_rng(0), learning_rate=3e-3)
    teacher = run.task.baselines(config)["matching"]
    taught = run.evaluate().mean
    assert all_loss(run.agent, shown) < 0.5 * start
    assert taught > untaught + 0.6 * (teacher - untaught)


def test_a_linear_teacher_is_taken_over_exactly(atmr_home):
    """With the same hold-back; the network's own is a setting."""
    weights, _ = linear_weights(load_scenario(SMALL))
    config = tiny(
        hyperparameters={"hold_back_min": weights.hold_back_min},
        warm_start={"teacher": "matching_linear", "days": 2, "keep_weight": 0.0, "epochs": 1},
        vector_steps=1,
        evaluation={"n_eval_episodes": 8},
    )
    run = Trainer(SMALL, config)
    run.train()
    assert run.progress.evaluations[0][1] == pytest.approx(
        run.task.baselines(config)["matching_linear"], abs=1e-6
    )
    assert not (run.folder / "demonstrations.npz").exists()


class Lazy:
    """A foreign teacher: waits, always."""

    name = "lazy"

    def __init__(self, scenario):
        self.asked = 0

    def decide(self, state, *, plan=None, budget_ms=None, rng=None):
        return DecisionSet((), plan=None)


class Odd:
    """A foreign teacher: commits the last booking to the last driver, possible or not."""

    name = "odd"

    def __init__(self, scenario):
        pass

    def decide(self, state, *, plan=None, budget_ms=None, rng=None):
        last = len(state.booking_ids) - 1
        if last < 0:
            return DecisionSet((), plan=None)
        decision = Decision(booking=last, driver=len(state.driver_ids) - 1, score=0.0)
        return DecisionSet((decision,), plan=None)


def test_a_foreign_policy_can_teach(atmr_home):
    config = tiny(
        warm_start={"teacher": f"{__name__}:Lazy", "days": 2, "epochs": 3, "keep_weight": 0.0},
        vector_steps=1,
    )
    run = Trainer(SMALL, config)
    run.train()
    assert run.evaluate().kpis["completion_pct"] < 20  # it has learned to wait


def test_what_a_teacher_may_not_do_is_not_shown(atmr_home):
    _, _, shown = shown_by(f"{__name__}:Odd", tiny(), 2)
    assert (shown.right & ~shown.mask).sum() == 0


def test_dagger_shows_the_learners_own_states(atmr_home):
    config = tiny(
        warm_start={"teacher": "nearest", "days": 1, "dagger_days": 1, "epochs": 1},
        vector_steps=1,
    )
    run = Trainer(SMALL, config)
    run.train()
    said = (run.folder / "logs" / "training.log").read_text()
    assert "warm start: " in said and "DAgger: " in said
    shown = Demonstrations.load(run.folder / "demonstrations.npz")
    assert len(shown) > 100


def test_v_learns_alone_first(atmr_home):
    config = tiny(
        warm_start={"teacher": "nearest", "days": 1, "epochs": 1, "value_updates": 10**6},
    )
    run = Trainer(SMALL, config)
    run.train()
    assert run.agent.updates > 20
    value = {id(p) for p in run.agent.online.value_parameters()}
    after_teaching = Trainer(SMALL, config.changed(total_timesteps=4, experiment_name="taught"))
    after_teaching.train()
    pairs = zip(
        run.agent.online.named_parameters(),
        after_teaching.agent.online.parameters(),
        strict=True,
    )
    for (name, now), then in pairs:
        moved = not bool((now == then).all())
        assert moved == (id(now) in value), name


# --- polish --------------------------------------------------------------------------------------


def test_polish_changes_the_last_layer_only_and_never_for_the_worse(atmr_home):
    from services.rl.policies.edge_matching import NETWORK, play_edge_matching
    from services.rl.policies.pair_network import pair_weights
    from services.rl.simulation.edges import NUM_EDGE
    from services.rl.simulation.engine import Engine
    from services.rl.training.polish import polish

    config = tiny(polish={"generations": 6, "population": 8, "days": 24})
    run = Trainer(SMALL, config)
    agent, engine = run.agent, Engine(run.task.scenario, 64)

    def score():
        engine.start(np.arange(64))  # training days
        arrays = {k: v.numpy() for k, v in agent.online.state_dict().items()}
        weights = pair_weights(arrays, scale=1.0 / agent.options.reward_scale)
        hold_back = config.hyperparameters.hold_back_min
        play_edge_matching(*engine.memory, NETWORK, np.zeros(NUM_EDGE), weights, hold_back)
        return float(engine.world.totals.sum(axis=1).mean())

    before = {k: v.clone() for k, v in agent.online.state_dict().items()}
    untrained = score()
    log = RunLog(run.folder, "run")
    assert polish(run.task, agent, config, log)
    log.close()
    changed = {k for k, v in agent.online.state_dict().items() if not bool((v == before[k]).all())}
    assert changed == {"edge_score.weight", "pair_score.weight"}
    assert score() > untrained
    *generations, judged = read_metrics(run.folder, "polish")
    assert len(generations) == 6
    assert judged["after"] > judged["before"]


def test_polish_that_found_nothing_better_is_not_kept(atmr_home):
    from services.rl.training.polish import polish

    config = tiny(polish={"generations": 1, "population": 4, "days": 4, "sigma": 500.0}).changed(
        warm_start={"teacher": "matching_linear", "days": 1, "keep_weight": 0.0}, total_timesteps=4
    )
    run = Trainer(SMALL, config.changed(polish={"generations": 0}))
    run.train()  # as good as the tuned matcher, before polish moves it far away
    before = {k: v.clone() for k, v in run.agent.online.state_dict().items()}
    log = RunLog(run.folder, "run")
    assert polish(run.task, run.agent, config, log)
    log.close()
    judged = read_metrics(run.folder, "polish")[-1]
    assert judged["after"] <= judged["before"]
    for name, values in run.agent.online.state_dict().items():
        assert bool((values == before[name]).all()), name
