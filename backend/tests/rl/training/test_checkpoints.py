"""Checkpoints: whole or not there, whatever happens while they are written."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from services.rl import replay_buffer
from services.rl.errors import AtmrError, PolicyError, TrainingError
from services.rl.policies.model_files import ModelManifest, read_arrays, read_manifest
from services.rl.training import checkpoints, run_state, trainer
from services.rl.training.checkpoints import (
    RotatingCheckpoints,
    disk_reason,
    read_model,
    write_checkpoint,
)
from services.rl.training.trainer import Trainer

from .tiny_runs import differences, everything, interrupted_at, tiny

BACKEND = Path(__file__).resolve().parents[3]
MANIFEST = ModelManifest({"network": "flat"}, {"environment": "E"}, 0.1, "dqn", 7)


def write(folder, fill=lambda _folder: None):
    import torch

    write_checkpoint(folder, MANIFEST, {"w": torch.ones(3)}, fill)


def visible(folder):
    return sorted(p.name for p in folder.iterdir())


# --- killed --------------------------------------------------------------------------------------


def killed_runs(home, kills, seed):
    done = subprocess.run(
        [sys.executable, "-m", "tests.rl.training.killed_runs", str(kills), str(seed)],
        cwd=BACKEND,
        env={**os.environ, "ATMR_HOME": str(home), "PYTHONPATH": str(BACKEND)},
        capture_output=True,
        text=True,
        timeout=1_500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    report = json.loads(done.stdout)
    steps = [kill["steps"] for kill in report["kills"]]
    assert steps == sorted(set(steps)), "every run goes on where the killed one had got to"
    assert report["stopped"] == "interrupted"
    assert len(report["left"]) == 2, "what killed runs left half-written is gone"
    return report


def test_kill_9_leaves_checkpoints_that_are_gone_on_with(atmr_home):
    assert len(killed_runs(atmr_home, 2, seed=1)["kills"]) == 2


@pytest.mark.slow
def test_kill_9_many_times(atmr_home):
    report = killed_runs(atmr_home, 60, seed=2)
    assert any(kill["hidden"] for kill in report["kills"]), "no kill fell into a save"


def test_a_folder_killed_while_it_was_replaced_is_still_read(tmp_path):
    write(tmp_path / "best")
    (tmp_path / "best").rename(tmp_path / ".best.previous")  # where a kill may fall in `_swap`
    assert read_manifest(tmp_path / "best").step == 7
    assert read_arrays(tmp_path / "best")["w"].tolist() == [1, 1, 1]
    write(tmp_path / "best")
    assert visible(tmp_path) == ["best"]


def test_a_rotating_checkpoint_killed_while_it_was_replaced_is_found(tmp_path):
    rotating = RotatingCheckpoints(tmp_path, 1)
    write(tmp_path / "step_0000000005")
    (tmp_path / "step_0000000005").rename(tmp_path / ".step_0000000005.previous")
    assert rotating.newest() == tmp_path / "step_0000000005"
    read_model(tmp_path / "step_0000000005")


def test_half_written_and_half_removed_folders_are_no_checkpoints(tmp_path):
    rotating = RotatingCheckpoints(tmp_path, 2)
    write(tmp_path / "step_0000000001")
    (tmp_path / ".step_0000000002.12345678.partial").mkdir()
    shutil.copytree(tmp_path / "step_0000000001", tmp_path / ".step_0000000000.abc.partial")
    (tmp_path / "step_0000000009").mkdir()  # without a manifest
    assert [p.name for p in rotating.all()] == ["step_0000000001"]
    rotating.write(3, MANIFEST, {}, lambda _: None)
    assert not list(tmp_path.glob(".*"))


def test_old_checkpoints_leave_under_another_name(tmp_path, monkeypatch):
    """Killed while it is removed, a folder is not half a checkpoint."""
    rotating = RotatingCheckpoints(tmp_path, 1)
    removed = []
    rmtree = shutil.rmtree

    def watch(path, ignore_errors=False):
        removed.append(Path(path).name)
        rmtree(path, ignore_errors=ignore_errors)

    rotating.write(1, MANIFEST, {}, lambda _: None)
    monkeypatch.setattr(checkpoints.shutil, "rmtree", watch)
    rotating.write(2, MANIFEST, {}, lambda _: None)
    rotating.clear()
    assert not tmp_path.exists()
    assert removed and all(name.startswith(".") for name in removed)


# --- the disk ------------------------------------------------------------------------------------


def no_space(*_arguments, **_options):
    raise OSError(errno.ENOSPC, "No space left on device")


def no_space_in_rust(*_arguments, **_options):
    raise SafetensorError("Error while serializing: I/O error: No space left on device")


def short_write(*_arguments, **_options):
    raise OSError("8192 requested and 512 written")  # NumPy's words, without a number


FULL = {
    "the network": (checkpoints, "save_file", no_space_in_rust),
    "optimiser and target": (run_state, "save_file", no_space),
    "the buffer": (replay_buffer.np, "save", short_write),
    "the manifest": (checkpoints, "_write_synced", no_space),
    "evaluations": (trainer.np, "savez", no_space),
}


@pytest.mark.parametrize("where", FULL)
def test_a_full_disk_is_one_sentence_and_costs_nothing(atmr_home, monkeypatch, where):
    config = tiny(checkpoints={"save_freq": 10}, vector_steps=21)
    run = Trainer("geneva_small", config)
    module, name, failing = FULL[where]
    real = getattr(module, name)

    def later(*arguments, **options):
        if run.progress.vector_steps >= 20:
            return failing()
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, later)
    with pytest.raises(TrainingError, match=r"no space left on the disk; free some and --resume"):
        run.train()
    monkeypatch.setattr(module, name, real)
    kept = run.latest.newest()
    assert kept is not None and kept.name.endswith("40")
    read_model(kept)
    read_manifest(run.folder / "checkpoints" / "best")
    assert not list(run.folder.rglob(".*.partial"))


def test_a_run_goes_on_after_the_disk_was_full(atmr_home, monkeypatch):
    config = tiny(checkpoints={"save_freq": 10}, vector_steps=30)
    whole = Trainer("geneva_small", config.changed(experiment_name="whole"))
    whole.train()
    expected = everything(whole)
    run = Trainer("geneva_small", config)
    real = checkpoints.save_file
    monkeypatch.setattr(
        checkpoints,
        "save_file",
        lambda *a: no_space() if run.progress.vector_steps == 20 else real(*a),
    )
    with pytest.raises(TrainingError, match="no space left"):
        run.train()
    again = Trainer("geneva_small", config.changed(resume_training=True))
    monkeypatch.setattr(checkpoints, "save_file", real)
    again.train()
    assert differences(everything(again), expected) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_numpy_on_a_disk_that_is_really_full_is_recognised():
    with pytest.raises(OSError) as raised, Path("/dev/full").open("wb", buffering=0) as file:
        np.save(file, np.zeros(100_000))
    assert "no space left" in disk_reason(raised.value)


def test_a_folder_that_cannot_be_made_is_one_sentence(atmr_home):
    (atmr_home / "results").write_text("a file")
    with pytest.raises(TrainingError, match=r"results.* cannot be written: "):
        Trainer("geneva_small", tiny()).train()


# --- damage --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run of 12 vector steps, interrupted; its home."""
    home = tmp_path_factory.mktemp("interrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATMR_HOME", str(home))
        config = tiny(hyperparameters={"prioritised": True}, checkpoints={"save_freq": 10})
        interrupted_at(Trainer("geneva_small", config), 12).train()
    return home


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, empty, Path.unlink], ids=lambda f: f.__name__)
def test_damage_to_any_file_is_found_before_anything_changes(
    interrupted, tmp_path, monkeypatch, damage
):
    shutil.copytree(interrupted, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("ATMR_HOME", str(tmp_path))
    config = tiny(hyperparameters={"prioritised": True}, resume_training=True)
    run = Trainer("geneva_small", config)
    newest = run.latest.newest()
    metrics = run.folder / "logs" / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + "\n")
    names = sorted(p.name for p in newest.iterdir())
    assert {"model.safetensors", "training.safetensors", "state.json", "engine.npy"} < set(names)
    for name in names:
        if name == "manifest.json" and damage is Path.unlink:
            continue  # then it is no checkpoint at all: the next test
        path = newest / name
        content = path.read_bytes()
        damage(path)
        with pytest.raises(TrainingError) as raised:
            run.train()
        sentence = str(raised.value)
        assert name in sentence and "\n" not in sentence
        assert "an older one can be given: --checkpoint" in sentence
        path.write_bytes(content)
    assert metrics.read_text().endswith("\n\n"), "a failed resume cut the metrics"
    assert interrupted_at(run, 14).train().stopped == "interrupted"


def test_without_its_manifest_a_folder_is_no_checkpoint(interrupted, tmp_path, monkeypatch):
    shutil.copytree(interrupted, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("ATMR_HOME", str(tmp_path))
    config = tiny(hyperparameters={"prioritised": True}, resume_training=True)
    run = Trainer("geneva_small", config)
    newest = run.latest.newest()
    (newest / "manifest.json").unlink()
    assert run.latest.newest().name == "step_0000000040"
    run = Trainer("geneva_small", config.changed(checkpoint_path=newest))
    with pytest.raises(TrainingError, match=r"there is no manifest\.json"):
        run.train()


def test_demonstrations_that_are_damaged_are_one_sentence(atmr_home):
    config = tiny(warm_start={"teacher": "nearest", "days": 1, "epochs": 1})
    interrupted_at(Trainer("geneva_small", config), 2).train()
    again = Trainer("geneva_small", config.changed(resume_training=True))
    shown = again.folder / "demonstrations.npz"
    for damage in (cut, flip, empty, Path.unlink):
        content = shown.read_bytes()
        damage(shown)
        with pytest.raises(
            TrainingError, match=r"demonstrations\.npz (cannot be read|are not those)"
        ):
            again.train()
        shown.write_bytes(content)


def test_any_change_of_a_manifest_is_found(tmp_path):
    write(tmp_path / "model")
    path = tmp_path / "model" / "manifest.json"
    document = json.loads(path.read_text())
    assert read_manifest(tmp_path / "model").reward_scale == 0.1
    for name in document:
        path.write_text(json.dumps({**document, name: "x"}))
        with pytest.raises(PolicyError, match=r"manifest\.json cannot be read: .*SHA-256"):
            read_manifest(tmp_path / "model")


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"schema": 99}, "schema 99 is not 1"),
        ({"files": {}}, r"names no model\.safetensors"),
        ({"files": []}, "files is no JSON object"),
        ({"network": "flat"}, "network is no JSON object"),
        ({"reward_scale": 0}, "reward_scale is 0"),
        ({"reward_scale": "x"}, "reward_scale is 'x'"),
        ({"colour": "red"}, "colour"),
        ({"files": {"model.safetensors": "0", "../x": "0"}}, "SHA-256 differs"),
    ],
)
def test_a_manifest_by_hand_is_checked(tmp_path, change, finding):
    write(tmp_path / "model")
    path = tmp_path / "model" / "manifest.json"
    document = json.loads(path.read_text())
    del document["sha256"]
    path.write_text(json.dumps({**document, **change}))
    with pytest.raises(PolicyError, match=finding) as raised:
        read_manifest(tmp_path / "model")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("make", "finding"),
    [
        (lambda p: p.write_text("x"), "is a file: give the folder"),
        (lambda p: p.mkdir(), r"there is no manifest\.json"),
        (lambda p: None, r"there is no manifest\.json"),
        (lambda p: (p.mkdir(), (p / "manifest.json").write_text("[1]")), "no JSON object"),
        (lambda p: (p.mkdir(), (p / "manifest.json").write_bytes(b"\xff")), "cannot be read"),
        (lambda p: (p.mkdir(), (p / "manifest.json").mkdir()), "cannot be read"),
    ],
)
def test_what_is_no_model_folder_is_one_sentence(tmp_path, make, finding):
    make(tmp_path / "model")
    with pytest.raises(AtmrError, match=finding):
        read_manifest(tmp_path / "model")
