"""Configurations: the modes, files laid over them, and values that are refused by name."""

import json

import pytest
import yaml

from services.rl.errors import TrainingError
from services.rl.training.config import (
    CheckpointStrategy,
    DQNHyperparameters,
    EvaluationStrategy,
    SanityCheckConfig,
    TrainingConfig,
    config_json,
    load_config,
    mode_config,
    production_config,
    sanity_check_config,
)


@pytest.mark.parametrize(
    ("mode", "save_freq"), [("sanity", 50), ("quick", 500), ("production", 1_000), ("gpu", 2_000)]
)
def test_a_mode_says_how_often_is_saved(mode, save_freq):
    assert mode_config(mode).checkpoints.save_freq == save_freq


def test_modes():
    assert mode_config("kaggle") == mode_config("gpu")
    assert mode_config("gpu").device == "cuda"
    assert mode_config("production") == production_config()
    assert mode_config("sanity") == sanity_check_config()
    assert sanity_check_config().total_timesteps == 100
    for mode in ("quick", "production", "gpu"):  # outside sanity a checkpoint also waits
        assert mode_config(mode).checkpoints.min_interval_s == 60
    with pytest.raises(TrainingError, match="unknown mode 'fast': choose among sanity, quick"):
        mode_config("fast")


def test_the_roadmaps_fields_are_there():
    for group, names in {
        DQNHyperparameters: "learning_rate buffer_size learning_starts batch_size tau gamma "
        "train_freq gradient_steps target_update_interval exploration_fraction "
        "exploration_initial_eps exploration_final_eps",
        CheckpointStrategy: "save_freq max_checkpoints save_replay_buffer",
        EvaluationStrategy: "eval_freq n_eval_episodes deterministic",
        SanityCheckConfig: "enabled num_steps min_unique_rewards min_max_queue "
        "check_action_mapping check_flux_config check_control_interval",
        TrainingConfig: "experiment_name resume_training checkpoint_path",
    }.items():
        assert set(names.split()) <= set(group.model_fields), group


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hyperparameters.learning_rate", -1),
        ("hyperparameters.learning_rate", "fast"),
        ("hyperparameters.learning_rate", float("nan")),
        ("hyperparameters.gamma", 1.5),
        ("hyperparameters.noise_scale", float("inf")),
        ("hyperparameters.batch_size", 0),
        ("hyperparameters.hidden", [512, 0]),
        ("hyperparameters.network", "transformer"),
        ("hyperparameters.learnin_rate", 0.1),
        ("hyperparameters", 5),
        ("environment.reward_timing", "later"),
        ("evaluation.policy", "matching"),
        ("checkpoints.min_interval_s", float("inf")),
        ("checkpoints.save_freq", 0.5),
        ("warm_start.days", None),
        ("polish.population", 1),
        ("experiment_name", "../elsewhere"),
        ("experiment_name", ""),
        ("seed", -1),
        ("device", "tpu"),
        ("colour", "red"),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_the_field(tmp_path, field, value):
    fields = value
    for name in reversed(field.split(".")):
        fields = {name: fields}
    with pytest.raises(TrainingError, match=field.replace(".", r"\.")) as raised:
        TrainingConfig().changed(**fields)
    assert "\n" not in str(raised.value)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(fields))
    with pytest.raises(TrainingError, match=field.replace(".", r"\.")) as raised:
        load_config(path, TrainingConfig())
    assert str(raised.value).startswith(f"--config {path}: ")
    assert "\n" not in str(raised.value)


def test_values_that_do_not_go_together_are_named():
    with pytest.raises(TrainingError, match=r"batch_size \(256\) must not exceed buffer_size"):
        TrainingConfig().changed(hyperparameters={"buffer_size": 100})
    with pytest.raises(TrainingError, match="exploration_final_eps must not exceed"):
        TrainingConfig().changed(hyperparameters={"exploration_final_eps": 0.9})
    with pytest.raises(TrainingError, match="hidden needs at least one layer"):
        TrainingConfig().changed(hyperparameters={"hidden": []})


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (b"", "must hold a mapping"),
        (b"- 1\n- 2\n", "must hold a mapping"),
        (b"seed: [1, 2\ndevice: cpu\n", "is neither JSON nor YAML: line"),
        (b"seed: 2001-99-99\n", "neither JSON nor YAML"),
        (b"\x00\x01\x02", "neither JSON nor YAML"),
        (b"\xff\xfe\x80", "is no text"),
        (b"[" * 1_500, "neither JSON nor YAML"),
        (b"1: 2\n", "1"),
    ],
    ids=["empty", "list", "bracket", "date", "control", "binary", "deep", "number"],
)
def test_a_file_that_is_no_configuration_is_one_sentence(tmp_path, content, finding):
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(TrainingError, match=finding) as raised:
        load_config(path, TrainingConfig())
    assert "\n" not in str(raised.value)


def test_a_missing_file_and_a_folder_are_one_sentence(tmp_path):
    with pytest.raises(TrainingError, match="cannot be read: No such file"):
        load_config(tmp_path / "none.yaml", TrainingConfig())
    with pytest.raises(TrainingError, match="cannot be read: Is a directory"):
        load_config(tmp_path, TrainingConfig())


def test_a_file_changes_only_what_it_names(tmp_path):
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"seed": 3, "hyperparameters": {"n_step": 2, "hidden": [8]}}))
    config = load_config(path, production_config())
    assert (config.seed, config.hyperparameters.n_step, config.hyperparameters.hidden) == (
        3, 2, (8,),
    )  # fmt: skip
    same = config.changed(seed=0, hyperparameters=production_config().hyperparameters.model_dump())
    assert same == production_config()


def test_the_configuration_of_an_earlier_run_serves_as_a_file(tmp_path):
    config = production_config().changed(seed=9, polish={"generations": 3})
    path = tmp_path / "training_config.json"
    path.write_text(json.dumps({"config": config_json(config), "versions": {}, "environment": {}}))
    assert load_config(path, sanity_check_config()) == config
