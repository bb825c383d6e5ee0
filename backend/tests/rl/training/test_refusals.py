"""What cannot be trained or gone on with is refused at the start, in a sentence, at no cost."""

import pytest
import torch

from services.rl.errors import AtmrError, PolicyError, TrainingError
from services.rl.simulation.scenarios import load_scenario
from services.rl.training.task import DispatchTask, GymnasiumTask
from services.rl.training.trainer import Trainer

from .tiny_runs import cartpole, foreign, interrupted_at, tiny


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A home with an interrupted run of the pair network and one of the flat network."""
    home = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATMR_HOME", str(home))
        interrupted_at(Trainer("geneva_small", tiny("pair")), 3).train()
        interrupted_at(Trainer(cartpole(), foreign("foreign")), 3).train()
    return home


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


DIFFERENT = {
    "width": ({"hyperparameters": {"pair_hidden": 16}}, "network hidden is 8, this run has 16"),
    "network": ({"hyperparameters": {"network": "flat"}}, "network .* is"),
    "layout": ({"environment": {"max_bookings": 10}}, "max_bookings is 20, this run has 10"),
    "num_envs": ({"hyperparameters": {"num_envs": 8}}, "num_envs was 4, this run has 8"),
    "buffer": ({"hyperparameters": {"buffer_size": 50}}, "buffer_size was 100, this run has 50"),
    "n_step": ({"hyperparameters": {"n_step": 2}}, "n_step was 1, this run has 2"),
    "gamma": ({"hyperparameters": {"gamma": 0.5}}, "gamma was 0.92, this run has 0.5"),
    "priorities": ({"hyperparameters": {"prioritised": True}}, "prioritised was False"),
    "timing": ({"environment": {"reward_timing": "event"}}, "reward_timing was planned_gain"),
    "judges": ({"evaluation": {"n_eval_episodes": 5}}, "n_eval_episodes was 3, this run has 5"),
    "judged as": ({"evaluation": {"policy": "dqn"}}, "policy was dqn_matching, this run has dqn"),
    "seed": ({"seed": 5}, "seed was 0, this run has 5"),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_a_checkpoint_of_other_settings_is_refused(begun, monkeypatch, what):
    monkeypatch.setenv("ATMR_HOME", str(begun))
    fields, finding = DIFFERENT[what]
    before = contents(begun)
    run = Trainer("geneva_small", tiny("pair", resume_training=True).changed(**fields))
    with pytest.raises(TrainingError, match=finding) as raised:
        run.train()
    assert "\n" not in str(raised.value)
    assert "--name" in str(raised.value)
    assert contents(begun) == before


@pytest.mark.parametrize(
    ("task", "config", "finding"),
    [
        ("geneva", tiny("pair"), "scenario.* is 'geneva_small|num_drivers is 3|num_actions"),
        (GymnasiumTask("Acrobot-v1"), foreign("foreign"), "this run has"),
        (cartpole(), foreign("foreign", hyperparameters={"hidden": (8,)}), "hidden is"),
    ],
    ids=["scenario", "environment", "flat width"],
)
def test_a_checkpoint_of_another_world_is_refused(begun, monkeypatch, task, config, finding):
    monkeypatch.setenv("ATMR_HOME", str(begun))
    with pytest.raises(TrainingError, match=finding):
        Trainer(task, config.changed(resume_training=True)).train()


def test_a_changed_scenario_of_the_same_name_is_refused(begun, monkeypatch):
    monkeypatch.setenv("ATMR_HOME", str(begun))
    raw = load_scenario("geneva_small")
    changed = raw.model_copy(update={"description": "another", "rules": raw.rules})
    reward = raw.reward.model_copy(update={"completion": 11.0})
    changed = raw.model_copy(update={"reward": reward})
    assert changed.sha256 != raw.sha256
    with pytest.raises(TrainingError, match="scenario_hash is"):
        Trainer(DispatchTask(changed), tiny("pair", resume_training=True)).train()


def test_a_model_folder_cannot_be_resumed(begun, monkeypatch):
    monkeypatch.setenv("ATMR_HOME", str(begun))
    best = begun / "results" / "pair" / "checkpoints" / "best"
    with pytest.raises(TrainingError, match="holds no training state"):
        Trainer("geneva_small", tiny("pair", checkpoint_path=best)).train()


def test_resume_with_nothing_to_resume_makes_nothing(atmr_home):
    with pytest.raises(TrainingError, match=r"--resume: there is no checkpoint .*'run' right\?"):
        Trainer("geneva_small", tiny(resume_training=True)).train()
    assert not list(atmr_home.iterdir())


IMPOSSIBLE = {
    "unknown teacher": ({"warm_start": {"teacher": "rollin"}}, "unknown policy 'rollin'"),
    "teacher that needs a model": ({"warm_start": {"teacher": "dqn"}}, "needs a trained network"),
    "missing module": ({"warm_start": {"teacher": "nowhere:Policy"}}, "cannot be imported"),
    "flat network and teacher": (
        {"hyperparameters": {"network": "flat"}, "warm_start": {"teacher": "nearest"}},
        "only the pair network on a scenario can be taught",
    ),
    "flat network and polish": (
        {"hyperparameters": {"network": "flat"}, "polish": {"generations": 1}},
        "only the pair network on a scenario has a part to polish",
    ),
    "judged with exploration": ({"evaluation": {"deterministic": False}}, "judged greedily"),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_the_impossible_is_refused_before_an_earlier_run_is_touched(begun, monkeypatch, what):
    monkeypatch.setenv("ATMR_HOME", str(begun))
    fields, finding = IMPOSSIBLE[what]
    before = contents(begun)
    with pytest.raises((TrainingError, PolicyError), match=finding):
        Trainer("geneva_small", tiny("pair").changed(**fields)).train()
    assert contents(begun) == before


def test_a_foreign_environment_has_no_teachers_and_nothing_to_polish(atmr_home):
    for fields in ({"warm_start": {"teacher": "nearest"}}, {"polish": {"generations": 1}}):
        with pytest.raises(TrainingError, match="only the pair network on a scenario"):
            Trainer(cartpole(), foreign().changed(**fields))
    with pytest.raises(TrainingError, match="needs the flat network"):
        Trainer(cartpole(), tiny())


@pytest.mark.parametrize(
    ("environment", "finding"),
    [
        ("CartPol-v1", "cannot be made"),
        ("nowhere:CartPole-v1", "cannot be made"),
        ("", "cannot be made"),
        ("no such thing", "cannot be made"),
        ("Pendulum-v1", "has actions Box.*needs Discrete"),
        ("FrozenLake-v1", "a vector is needed"),
    ],
)
def test_an_environment_that_cannot_be_learned_is_one_sentence(environment, finding):
    with pytest.raises(TrainingError, match=finding) as raised:
        GymnasiumTask(environment).stream(foreign())
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_one_sentence(atmr_home):
    with pytest.raises(TrainingError, match="--device cuda: Torch finds no GPU"):
        Trainer("geneva_small", tiny(device="cuda"))


def test_a_buffer_beyond_memory_is_one_sentence(atmr_home):
    with pytest.raises(TrainingError, match=r"out of memory .*buffer_size \(10000000000000\)"):
        Trainer("geneva_small", tiny(hyperparameters={"buffer_size": 10**13}))


def test_every_refusal_is_of_the_family():
    assert issubclass(TrainingError, AtmrError)


def test_a_second_run_of_the_same_name_is_refused_while_the_first_goes_on(atmr_home):
    first = Trainer("geneva_small", tiny("same"))
    refused = []

    def look(_steps, _numbers):
        if first.progress.vector_steps == 25:
            before = contents(first.folder)
            for resume in (False, True):
                second = Trainer("geneva_small", tiny("same", resume_training=resume))
                with pytest.raises(TrainingError, match="another process is training") as raised:
                    second.train()
                refused.append(str(raised.value))
            assert contents(first.folder) == before

    first._on_progress = look
    first.train()
    assert len(refused) == 2 and all("--name" in said for said in refused)
    Trainer("geneva_small", tiny("same")).train()  # over: the name is free again


def test_a_new_run_of_an_old_name_leaves_no_model_of_the_old_one(atmr_home, monkeypatch):
    old = Trainer("geneva_small", tiny("reused", warm_start={"teacher": "nearest", "days": 1}))
    old.train()
    new = Trainer("geneva_small", tiny("reused"))

    def stopped():
        raise KeyboardInterrupt

    monkeypatch.setattr(new, "evaluate", stopped)  # before the first evaluation
    with pytest.raises(KeyboardInterrupt):
        new.train()
    left = {str(p.relative_to(new.folder)) for p in new.folder.rglob("*") if p.is_file()}
    assert left == {"training_config.json", "logs/metrics.jsonl", "logs/training.log"}
