"""Numbers that are not finite stop a run, are located, and spoil nothing that was kept."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from services.rl.errors import TrainingError
from services.rl.policies.model_files import read_arrays
from services.rl.training.checkpoints import read_model, read_state
from services.rl.training.trainer import Trainer

from .tiny_runs import foreign, tiny

CONFIG = {"checkpoints": {"save_freq": 5}, "evaluation": {"eval_freq": 5}}


def spoilt(run, at, field, index=2):
    """From vector step ``at`` on, one environment returns NaN."""
    step = run.stream.step

    def wrong(actions):
        result = step(actions)
        if run.progress.vector_steps + 1 < at:
            return result
        values = getattr(result, field).copy()
        values[index] = np.nan
        return replace(result, **{field: values})

    run.stream.step = wrong


def assert_kept_is_sound(run):
    for folder in [*run.latest.all(), run.folder / "checkpoints" / "best"]:
        _, model = read_model(folder)
        assert all(torch.isfinite(values).all() for values in model.values())
        read_arrays(folder)


@pytest.mark.parametrize("field", ["reward", "next_state", "dt"])
def test_nan_from_the_environment_is_located(atmr_home, field):
    run = Trainer("geneva_small", tiny(**CONFIG))
    spoilt(run, 18, field)
    with pytest.raises(TrainingError) as raised:
        run.train()
    name = {"next_state": "observation"}.get(field, field)
    sentence = str(raised.value)
    assert sentence.startswith("step 68: ")  # 17 whole vector steps of 4
    assert f"{name} of row 2 is not finite" in sentence
    assert str(run.folder / "checkpoints" / "failed") in sentence and "\n" not in sentence
    assert read_state(run.folder / "checkpoints" / "failed")["steps"] == 68
    assert run.latest.newest().name == "step_0000000060"
    assert_kept_is_sound(run)


def test_nan_in_the_first_observation_of_an_episode_is_located(atmr_home):
    run = Trainer("geneva_small", tiny(**CONFIG))
    spoilt(run, 18, "state")
    with pytest.raises(TrainingError, match=r"step 72: .*observation of row 2 is not finite"):
        run.train()


def test_nan_from_a_foreign_environment_is_located(atmr_home):
    from .tiny_runs import cartpole

    run = Trainer(cartpole(), foreign(**CONFIG))
    spoilt(run, 7, "next_state", index=(1, 3))
    with pytest.raises(TrainingError, match=r"step 24: .*observation of row 1 is not finite"):
        run.train()


@pytest.mark.parametrize("prioritised", [False, True])
def test_nan_in_the_loss_is_never_kept(atmr_home, monkeypatch, prioritised):
    run = Trainer("geneva_small", tiny(hyperparameters={"prioritised": prioritised}, **CONFIG))
    targets = run.agent.targets

    def wrong(batch):
        values = targets(batch)
        return values * float("nan") if run.agent.updates >= 7 else values

    monkeypatch.setattr(run.agent, "targets", wrong)
    with pytest.raises(
        TrainingError, match=r"^step \d+: .* is not finite.*; the state is in "
    ) as e:
        run.train()
    assert int(str(e.value).split()[1][:-1]) <= 80
    _, model = read_model(run.folder / "checkpoints" / "failed")
    assert any(torch.isnan(values).any() for values in model.values())
    assert_kept_is_sound(run)
    # The run can go on from before.
    monkeypatch.undo()
    monkeypatch.setenv("ATMR_HOME", str(atmr_home))
    config = run.config.changed(resume_training=True)
    assert Trainer("geneva_small", config).train().stopped == "done"


def test_the_loss_is_looked_at_when_it_is_logged(atmr_home, monkeypatch):
    from services.rl.training import trainer

    monkeypatch.setattr(trainer, "_LOG_EVERY", 2)
    run = Trainer("geneva_small", tiny(hyperparameters={"gradient_steps": 2}))
    monkeypatch.setattr(
        run.agent, "targets", lambda batch: torch.full((len(batch.action),), float("nan"))
    )
    with pytest.raises(TrainingError, match="the loss is nan after 2 updates"):
        run.train()


def test_a_score_that_is_not_finite_is_no_best(atmr_home, monkeypatch):
    run = Trainer("geneva_small", tiny())
    score = run.evaluate()
    monkeypatch.setattr(run, "evaluate", lambda: replace(score, mean=float("nan")))
    with pytest.raises(TrainingError, match="step 0: the score on validation days is nan"):
        run.train()
    assert not (run.folder / "checkpoints" / "best").exists()


def test_a_failed_model_is_refused_where_it_would_decide(atmr_home):
    from services.rl.errors import PolicyError

    run = Trainer("geneva_small", tiny())
    run.agent.online.pair_score.weight.data.fill_(float("nan"))
    with pytest.raises(TrainingError):
        run.train()
    with pytest.raises(PolicyError, match=r"parameter pair_score\.weight is not finite"):
        read_arrays(run.folder / "checkpoints" / "failed")
