"""A run that was interrupted and resumed equals one that never was, to the bit."""

import os
import signal

import numpy as np
import pytest

from services.rl.training.trainer import Trainer

from .tiny_runs import (
    cartpole,
    differences,
    everything,
    foreign,
    interrupted_at,
    other_torch_state,
    tiny,
)

FLAT = {"hyperparameters": {"network": "flat"}, "evaluation": {"policy": "dqn"}}
PRIORITISED = {"hyperparameters": {"prioritised": True, "n_step": 3, "buffer_size": 64}}
TAUGHT = {
    "warm_start": {
        "teacher": "matching", "days": 1, "epochs": 1, "value_updates": 12, "keep_weight": 0.5,
    },
}  # fmt: skip


def task_of(kind):
    return cartpole() if kind == "cartpole" else "geneva_small"


def config_of(kind, name, **fields):
    return foreign(name, **fields) if kind == "cartpole" else tiny(name, **fields)


def resumed(task, config, at):
    """Run to ``at``, interrupt, and go on with a new trainer."""
    first = interrupted_at(Trainer(task, config), at)
    assert first.train().stopped == "interrupted"
    assert first.progress.vector_steps == at
    with other_torch_state():
        second = Trainer(task, config.changed(resume_training=True))
        assert second.train().stopped == "done"
    return second


@pytest.mark.parametrize(
    ("kind", "fields", "at"),
    [
        ("pair", {}, 20),
        ("prioritised n-step", PRIORITISED, 20),
        ("flat", FLAT, 20),
        pytest.param("taught, V alone", TAUGHT, 17, marks=pytest.mark.slow),
        ("taught, all", TAUGHT, 30),
        ("noise", {"hyperparameters": {"exploration": "noise", "dueling": True}}, 13),
        ("cartpole", {"hyperparameters": {"n_step": 3}}, 30),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_interrupted_and_resumed_equals_uninterrupted(atmr_home, kind, fields, at):
    whole = Trainer(task_of(kind), config_of(kind, "whole", **fields))
    assert whole.train().stopped == "done"
    expected = everything(whole)
    halves = resumed(task_of(kind), config_of(kind, "halves", **fields), at)
    assert whole.agent.updates > 20
    assert differences(everything(halves), expected) == []


def test_what_is_compared_can_differ(atmr_home):
    """The comparison above would notice one more update, or another day."""
    one, two = (Trainer("geneva_small", tiny(name)) for name in ("one", "two"))
    one.train()
    two.train()
    assert differences(everything(one), everything(two)) == []
    two.agent.train_step()
    two.stream.reset()
    found = differences(everything(one), everything(two))
    assert {"engine", "random buffer", "steps", "online pair_score.weight"} <= set(found)


def test_how_often_is_saved_changes_nothing(atmr_home):
    rarely = Trainer("geneva_small", tiny("rarely"))
    rarely.train()
    expected = everything(rarely)
    often = Trainer("geneva_small", tiny("often", checkpoints={"save_freq": 3}))
    often.train()
    assert differences(everything(often), expected) == []


def test_one_trainer_may_be_asked_again_after_an_interruption(atmr_home):
    whole = Trainer("geneva_small", tiny("whole"))
    whole.train()
    expected = everything(whole)
    trainer = interrupted_at(Trainer("geneva_small", tiny("asked")), 20)
    assert trainer.train().stopped == "interrupted"
    assert trainer.train().stopped == "done"
    assert differences(everything(trainer), expected) == []


def test_resuming_without_a_saved_buffer_fills_one_first(atmr_home):
    config = tiny(
        hyperparameters={"n_step": 3}, checkpoints={"save_replay_buffer": False}, vector_steps=30
    )
    run = resumed("geneva_small", config, 20)
    assert run.agent.steps == config.total_timesteps
    assert len(run.agent.buffer) < 20 * config.hyperparameters.num_envs
    assert not (run.folder / "replay_buffer_final").exists()


def test_learning_may_start_at_once(atmr_home):
    config = tiny(hyperparameters={"learning_starts": 0, "n_step": 5}, vector_steps=15)
    trainer = Trainer("geneva_small", config)
    trainer.train()
    assert trainer.agent.updates > 0


def test_an_earlier_checkpoint_rewinds_the_run(atmr_home):
    config = tiny(checkpoints={"save_freq": 10, "max_checkpoints": 4})
    trainer = Trainer("geneva_small", config)
    trainer.train()
    expected = everything(trainer)
    first, *later = trainer.latest.all()
    assert len(later) == 3
    back = interrupted_at(Trainer("geneva_small", config.changed(checkpoint_path=first)), 15)
    back.train()
    assert [p.name for p in back.latest.all()] == [first.name, "step_0000000060"]
    again = Trainer("geneva_small", config.changed(resume_training=True))
    again.train()
    assert differences(everything(again), expected) == []


def test_a_checkpoint_starts_a_run_of_another_name(atmr_home):
    config = tiny("old", **TAUGHT)
    old = interrupted_at(Trainer("geneva_small", config), 30)
    old.train()
    new = Trainer(
        "geneva_small",
        config.changed(experiment_name="new", checkpoint_path=old.latest.newest()),
    )
    assert new.train().stopped == "done"
    assert (new.folder / "checkpoints" / "best").is_dir()
    assert (new.folder / "training_config.json").is_file()


def test_a_finished_run_resumed_is_finished(atmr_home):
    config = tiny(polish={"generations": 1, "population": 4, "days": 2})
    trainer = Trainer("geneva_small", config)
    trainer.train()
    expected = everything(trainer)
    again = Trainer("geneva_small", config.changed(resume_training=True))
    assert again.train().stopped == "done"
    assert differences(everything(again), expected) == []


def test_an_interruption_during_polish_leaves_the_state_before_it(atmr_home, monkeypatch):
    config = tiny(polish={"generations": 2, "population": 4, "days": 2})
    whole = Trainer("geneva_small", config.changed(experiment_name="whole"))
    whole.train()
    expected = everything(whole)

    from services.rl.training import polish as room

    trainer = Trainer("geneva_small", config)
    play = room.play_edge_matching

    def pressed(*arguments):
        trainer._interrupted = trainer.progress.vector_steps == 40
        play(*arguments)

    monkeypatch.setattr(room, "play_edge_matching", pressed)
    assert trainer.train().stopped == "interrupted"
    monkeypatch.undo()
    monkeypatch.setenv("ATMR_HOME", str(atmr_home))
    assert trainer.progress.polished_at is None
    again = Trainer("geneva_small", config.changed(resume_training=True))
    again.train()
    assert again.progress.polished_at == again.agent.steps
    assert differences(everything(again), expected) == []


def test_evaluations_before_and_after_an_interruption_lie_in_one_file(atmr_home):
    config = tiny(vector_steps=30)
    run = resumed("geneva_small", config, 15)
    with np.load(run.folder / "eval" / "evaluations.npz") as stored:
        assert stored["timesteps"].tolist() == [0, 80, 120]
        assert stored["results"].shape == (3, config.evaluation.n_eval_episodes)


def test_a_best_model_killed_while_it_was_replaced_is_not_forgotten(atmr_home):
    """Killed between two renames, ``best`` lies under another name: its score still counts."""
    run = interrupted_at(Trainer("geneva_small", tiny()), 12)
    run.train()
    best = run.folder / "checkpoints" / "best"
    best.rename(best.with_name(".best.previous"))
    again = interrupted_at(Trainer("geneva_small", tiny(resume_training=True)), 13)
    again.train()
    assert run.progress.best is not None
    assert again.progress.best == run.progress.best


def test_signals_that_come_together_are_one_request(atmr_home):
    """`timeout` signals a process and its group: twice at once, and the state must be saved."""
    run = Trainer("geneva_small", tiny())
    seen = []

    def look(_steps, _numbers):
        if run.progress.vector_steps == 12:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)
            seen.append(run._interrupted)

    run._on_progress = look
    assert run.train().stopped == "interrupted"
    assert seen == [True]
    assert run.latest.newest().name == "step_0000000048"


def test_a_second_request_leaves_at_once(atmr_home, monkeypatch):
    run = Trainer("geneva_small", tiny())
    run._interrupt(signal.SIGINT, None)
    monkeypatch.setattr(run, "_asked_at", run._asked_at - 5.0)
    with pytest.raises(KeyboardInterrupt):
        run._interrupt(signal.SIGINT, None)
