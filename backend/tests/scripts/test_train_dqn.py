"""The command line of training, and what it leaves behind."""

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from scripts.rl import evaluate, train_dqn
from scripts.rl.command import exit_code
from services.rl.training import trainer as trainer_module

BACKEND = Path(__file__).resolve().parents[2]
TINY = {
    "hyperparameters": {
        "num_envs": 4, "learning_starts": 40, "batch_size": 16, "buffer_size": 100,
        "pair_hidden": 8, "hidden": [16],
    },
    "warm_start": {"teacher": None},
    "checkpoints": {"save_freq": 10, "min_interval_s": 0},
    "evaluation": {"eval_freq": 10, "n_eval_episodes": 2},
    "sanity": {"enabled": False},
}  # fmt: skip


@pytest.fixture
def tiny_config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.json"
    path.write_text(json.dumps(TINY))
    return str(path)


@pytest.fixture(autouse=True)
def _no_pictures(request, monkeypatch):
    """Drawing takes longer than a tiny run; a test that asks for ``pictures`` gets them."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(trainer_module, "learning_curve", lambda *_: Figure(figsize=(0.1, 0.1)))


@pytest.fixture
def pictures():
    """Draw the learning curve."""


def train(*arguments):
    return exit_code(train_dqn.main, [*arguments])


def sentence(capsys):
    """The one line on stderr."""
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1, captured.err
    return captured.err


# --- modes and layout ----------------------------------------------------------------------------


def test_sanity_mode_leaves_the_documented_files(atmr_home, capsys, pictures):
    assert train("--mode", "sanity", "--scenario", "geneva_small", "--name", "first") == 0
    said = capsys.readouterr().out
    assert said.count("sanity: ") == 5
    assert "evaluate.py --scenario geneva_small --policies nearest,matching,dqn" in said
    assert said.rstrip().endswith("--first-day 4"), "the days that chose the model would flatter it"
    run = atmr_home / "results" / "first"
    for name in (
        "training_config.json",
        "checkpoints/best/model.safetensors",
        "checkpoints/best/manifest.json",
        "checkpoints/latest/step_0000000050/ring_state.npy",
        "checkpoints/latest/step_0000000100/training.safetensors",
        "dqn_model_final/model.safetensors",
        "replay_buffer_final/buffer.json",
        "eval/evaluations.npz",
        "logs/training.log",
        "logs/metrics.jsonl",
        "learning_curve.png",
    ):
        assert (run / name).stat().st_size > 0, name
    assert not list(run.rglob(".*"))
    document = json.loads((run / "training_config.json").read_text())
    assert document["config"]["experiment_name"] == "first"
    assert {"environment", "versions", "commit", "command"} <= set(document)
    assert len(document["environment"]["scenario_hash"]) == 64
    with np.load(run / "eval" / "evaluations.npz") as stored:
        assert stored["timesteps"].tolist() == [0, 50, 100]
        assert stored["results"].shape == (3, 4)
        best = stored["scores"].max()
    manifest = json.loads((run / "dqn_model_final" / "manifest.json").read_text())
    assert manifest["metrics"]["score"] == best, "the final model is the best, not the last"
    assert_events(atmr_home / "data" / "rl" / "tensorboard" / "first")


def assert_events(folder):
    """TensorBoard finds rewards, losses, every KPI, the table of hyper-parameters, the curve."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from services.rl.simulation.kpis import KPIS

    tags = {"scalars": set(), "images": set()}
    table = False
    for path in folder.glob("events.out.tfevents.*"):
        events = EventAccumulator(str(path))
        events.Reload()
        tags["scalars"] |= set(events.Tags()["scalars"])
        tags["images"] |= set(events.Tags()["images"])
        table |= b"hparams" in path.read_bytes()
    assert {f"eval/{name}" for name in KPIS} <= tags["scalars"]
    assert "eval/score" in tags["scalars"]
    assert "learning_curve" in tags["images"]
    assert table


@pytest.mark.parametrize(
    "where", [["--env", "CartPole-v1"], ["--scenario", "geneva_small", "--network", "flat"]]
)
def test_sanity_mode_is_a_hundred_learning_steps_for_every_network(atmr_home, where):
    result = atmr_home / "result.json"
    asked = ["--mode", "sanity", *where, "--name", "short", "--json", str(result), "--quiet"]
    assert train(*asked) == 0
    assert json.loads(result.read_text())["steps"] == 100
    run = atmr_home / "results" / "short"
    state = run / "checkpoints" / "latest" / "step_0000000100" / "state.json"
    assert json.loads(state.read_text())["updates"] > 50
    assert (run / "checkpoints" / "latest" / "step_0000000050").is_dir()


def test_training_numbers_are_logged(atmr_home, monkeypatch, tiny_config):
    monkeypatch.setattr(trainer_module, "_LOG_EVERY", 5)
    run = ["--scenario", "geneva_small", "--config", tiny_config, "--name", "logged"]
    assert train(*run, "--timesteps", "800", "--quiet") == 0
    folder = atmr_home / "results" / "logged"
    lines = [json.loads(x) for x in (folder / "logs" / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["group"] == "train"]
    assert {"loss", "q_mean", "epsilon", "gradient_norm", "episode_reward"} <= set(trained[-1])
    judged = [line for line in lines if line["group"] == "eval"]
    assert {"score", "completion_pct", "deadhead_km_per_trip"} <= set(judged[-1])


def test_episodes_leave_numbered_checkpoints(atmr_home, tiny_config, monkeypatch):
    """CartPole ends an episode in about 20 steps."""
    arguments = ["--env", "CartPole-v1", "--config", tiny_config, "--name", "poles", "--quiet"]
    assert train(*arguments, "--episodes", "205", "--json", str(atmr_home / "poles.json")) == 0
    numbered = sorted((atmr_home / "results" / "poles" / "checkpoints").glob("episode_*"))
    assert [p.name for p in numbered] == ["episode_000100", "episode_000200"]
    assert all((p / "model.safetensors").is_file() for p in numbered)
    result = json.loads((atmr_home / "poles.json").read_text())
    assert result["stopped"] == "done"
    assert "commit" in result


def test_no_progress_stops_early(atmr_home, tiny_config, tmp_path):
    patient = tmp_path / "patient.json"
    patient.write_text(json.dumps({**TINY, "evaluation": {
        "eval_freq": 1, "n_eval_episodes": 2, "patience": 2,
    }, "hyperparameters": {**TINY["hyperparameters"], "learning_starts": 10_000}}))  # fmt: skip
    result = tmp_path / "result.json"
    arguments = ["--scenario", "geneva_small", "--config", str(patient), "--json", str(result)]
    assert train(*arguments, "--quiet") == 0
    found = json.loads(result.read_text())
    assert (found["stopped"], found["steps"]) == ("early", 8)


def test_names_of_the_roadmap_are_importable(atmr_home):
    from services.rl.training.config import (
        production_config,
        sanity_check_config,
    )
    from services.rl.training.sanity import run_sanity_checks
    from services.rl.training.trainer import Trainer, train_model

    assert production_config().total_timesteps > sanity_check_config().total_timesteps
    config = sanity_check_config().changed(total_timesteps=5, warm_start={"teacher": None})
    result = train_model("geneva_small", config)
    assert (result.stopped, result.steps) == ("done", 5)
    assert callable(run_sanity_checks)
    assert all(callable(getattr(Trainer, name)) for name in ("train", "evaluate", "cleanup"))


def test_help_is_also_a_module(atmr_home):
    done = subprocess.run(
        [sys.executable, "-m", "services.rl.training.train", "--help"],
        cwd=BACKEND, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "--no-sanity-checks" in done.stdout
    assert "examples:" in done.stdout


# --- train, evaluate -----------------------------------------------------------------------------


def test_a_trained_network_is_evaluated(atmr_home, tiny_config, capsys):
    arguments = ["--scenario", "geneva_small", "--config", tiny_config, "--name", "mine"]
    assert train(*arguments, "--timesteps", "200") == 0
    model = atmr_home / "results" / "mine" / "checkpoints" / "best"
    out = atmr_home / "table.json"
    asked = ["--scenario", "geneva_small", "--days", "2", "--jobs", "1", "--json", str(out)]
    named = ["--policies", "nearest,dqn,dqn_matching", "--model", str(model)]
    assert exit_code(evaluate.main, [*asked, *named]) == 0
    table = json.loads(out.read_text())
    scores = {p["name"]: p["mean"]["reward"] for p in table["policies"]}
    sha = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    assert [p["model_sha"] for p in table["policies"]] == [None, sha, sha]
    assert set(scores) == {"nearest", "dqn", "dqn_matching"}
    with np.load(atmr_home / "results" / "mine" / "eval" / "evaluations.npz") as stored:
        assert scores["dqn_matching"] == pytest.approx(stored["scores"].max())
    # The seeds of the quick validation are those of the evaluation, so the numbers agree.
    named = ["--policies", "dqn,dqn_matching", "--model", str(model.parent)]
    capsys.readouterr()
    assert exit_code(evaluate.main, [*asked, *named]) == 2
    assert "there is no manifest.json" in sentence(capsys)


def test_a_report_draws_the_trained_policy(atmr_home, tiny_config, tmp_path):
    """It plays the best policy's day again for the figures: the network must be at hand."""
    where = ["--scenario", "geneva_small", "--config", str(tiny_config), "--name", "drawn"]
    assert train(*where, "--timesteps", "200", "--quiet") == 0
    best = atmr_home / "results" / "drawn" / "checkpoints" / "best"
    asked = ["--scenario", "geneva_small", "--policies", "dqn_matching", "--model", str(best)]
    report = tmp_path / "report"
    assert exit_code(evaluate.main, [*asked, "--days", "2", "--report", str(report)]) == 0
    assert (report / "gantt.png").is_file()


def test_a_flat_network_is_evaluated(atmr_home, tiny_config, capsys):
    arguments = ["--scenario", "geneva_small", "--network", "flat", "--config", tiny_config]
    assert train(*arguments, "--name", "flat", "--timesteps", "200", "--quiet") == 0
    model = str(atmr_home / "results" / "flat" / "checkpoints" / "best")
    asked = ["--days", "2", "--jobs", "1", "--quiet", "--model", model]
    small = ["--scenario", "geneva_small", *asked]
    assert exit_code(evaluate.main, [*small, "--policies", "nearest,dqn"]) == 0
    capsys.readouterr()
    assert exit_code(evaluate.main, [*small, "--policies", "dqn_matching"]) == 2
    assert "holds a flat network" in sentence(capsys)
    assert exit_code(evaluate.main, ["--scenario", "geneva", *asked, "--policies", "dqn"]) == 2
    assert "trained for 3 drivers" in sentence(capsys)


# --- interrupted ---------------------------------------------------------------------------------


def test_ctrl_c_saves_and_resume_goes_on(atmr_home, tiny_config, capsys):
    arguments = ["--scenario", "geneva_small", "--config", tiny_config, "--name", "long"]
    program = [sys.executable, str(BACKEND / "scripts" / "rl" / "train_dqn.py"), *arguments]
    child = subprocess.Popen(
        [*program, "--timesteps", "100000000"],
        env={**os.environ, "PYTHONPATH": str(BACKEND)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    latest = atmr_home / "results" / "long" / "checkpoints" / "latest"
    until = time.monotonic() + 300
    while not list(latest.glob("step_*")) and child.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    said, error = child.communicate(timeout=120)
    assert child.returncode == 130, error
    assert "step 0: score" in said  # the terminal shows what the log says
    assert len(error.splitlines()) == 1
    step = int(error.split("interrupted at step ")[1].split(";")[0])
    again = shlex.split(error.split("go on with train_dqn.py ")[1])
    assert again == [*arguments, "--timesteps", "100000000", "--resume"]
    newest = sorted(latest.glob("step_*"))[-1]
    assert newest.name == f"step_{step:010d}"
    assert train(*arguments, "--timesteps", "100000000", "--checkpoint", str(latest)) == 2
    assert "no manifest.json" in sentence(capsys)
    capsys.readouterr()
    assert train(*arguments, "--timesteps", str(step + 8), "--resume") == 0
    assert "8 steps in" in (told := capsys.readouterr().out)
    assert f"({step + 8:,} in all)" in told
    assert (latest / f"step_{step + 8:010d}").is_dir()
    assert train(*arguments, "--timesteps", "8") == 0
    assert "replaces an earlier run of this name" in capsys.readouterr().out


# --- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "finding"),
    [
        (["--resume"], "there is no checkpoint under"),
        (["--env", "CartPol-v1"], "'CartPol-v1' cannot be made"),
        (["--env", "Pendulum-v1"], "needs Discrete"),
        (["--env", "CartPole-v1", "--teacher", "nearest"], "has no dispatch policies"),
        (["--env", "CartPole-v1", "--network", "pair"], "has no driver-booking pairs"),
        (["--json", "/dev/null/x.json"], "folder /dev/null cannot be made"),
        (["--teacher", "rollin"], "unknown policy 'rollin'"),
        (["--scenario", "genva"], "genva"),
        (["--name", "../x"], "experiment_name"),
        (["--config", "/"], "cannot be read: Is a directory"),
        (["--config", __file__], "neither JSON nor YAML|must hold a mapping"),
        (["--checkpoint", "/nowhere"], "there is no manifest"),
    ],
)
def test_a_wrong_argument_is_one_sentence_and_exit_code_2(atmr_home, capsys, arguments, finding):
    import re

    base = [] if "--scenario" in arguments or "--env" in arguments else ["--scenario", "geneva"]
    assert train(*base, "--no-sanity-checks", *arguments) == 2
    assert re.search(finding, sentence(capsys))
    assert not (atmr_home / "results").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--mode", "fast"],
        ["--env", "CartPole-v1", "--scenario", "geneva"],
        ["--episodes", "3", "--timesteps", "3"],
        ["--episodes", "0"],
        ["--seed", "-1"],
        ["--device", "tpu"],
    ],
)
def test_options_that_do_not_exist_or_go_together_are_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        train(*arguments)
    assert left.value.code == 2
    assert "--help" in sentence(capsys)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    "arguments", [["--device", "cuda"], ["--mode", "gpu"], ["--mode", "kaggle"]]
)
def test_no_gpu_is_wrong_usage_not_a_failed_check(atmr_home, capsys, arguments):
    assert train("--scenario", "geneva_small", *arguments) == 2
    assert "Torch finds no GPU on this machine; use cpu" in sentence(capsys)


def test_a_failed_sanity_check_is_exit_code_1(atmr_home, capsys):
    quiet = atmr_home / "quiet.yaml"
    quiet.write_text("extends: geneva_small\nname: quiet\ndemand: {bookings_per_day: 1}\n")
    assert train("--mode", "sanity", "--scenario", str(quiet), "--quiet") == 1
    said = sentence(capsys)
    assert said.startswith("sanity check failed: ")
    assert "raise demand.bookings_per_day" in said
    assert not (atmr_home / "results").exists()


def test_a_wrong_field_is_named(atmr_home, capsys, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("hyperparameters: {learnin_rate: 0.1}\n")
    assert train("--scenario", "geneva_small", "--config", str(path)) == 2
    assert "hyperparameters.learnin_rate: Extra inputs are not permitted" in sentence(capsys)
