"""Checkpoints: folders of safetensors, ``.npy`` and JSON files under a manifest with their hashes.

A checkpoint is written under a hidden name and renamed when it is complete, so that a process
killed at any moment leaves the previous ones whole. Nothing in it is pickled. A *model* folder
(``best/``, ``dqn_model_final``) holds the online network only; a rotating one also the target
network, the optimiser, the replay buffer, the environments and every random state.
"""

import errno
import fcntl
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from services.rl.errors import TrainingError
from services.rl.policies.model_files import (
    MANIFEST,
    MODEL_FILE,
    ModelManifest,
    file_sha256,
    read_manifest,
    settled,
)

TRAINING_FILE = "training.safetensors"
STATE_FILE = "state.json"

logger = logging.getLogger(__name__)


def write_checkpoint(
    folder: Path, manifest: ModelManifest, model: dict[str, Tensor], fill: Callable[[Path], None]
) -> None:
    """Write a checkpoint folder, replacing an older one of the same name.

    Args:
        folder: Where it will lie.
        manifest: What it holds; the files' hashes are added.
        model: Parameters of the online network.
        fill: Writes whatever else belongs to it into the folder it is given.

    Raises:
        TrainingError: If the disk is full or cannot be written; older checkpoints stay whole.
    """
    hidden = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        hidden.mkdir(parents=True)
        save_file({k: v.detach().cpu().contiguous() for k, v in model.items()}, hidden / MODEL_FILE)
        fill(hidden)
        files = {p.name: file_sha256(p) for p in sorted(hidden.iterdir())}
        document = manifest.with_files(files).to_json()
        _write_synced(hidden / MANIFEST, json.dumps(document, indent=2) + "\n")
        _swap(hidden, folder)
        _sweep(folder.parent, folder.name)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(hidden, ignore_errors=True)
        raise TrainingError(
            f"checkpoint {folder} cannot be written: {disk_reason(error)}"
        ) from error
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise


def disk_reason(error: Exception) -> str:
    """Why a file could not be written, and what to do about it where the disk is full."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    # NumPy reports a short write without an error number, safetensors its own kind of error.
    if full or "No space left" in reason or re.fullmatch(r"\d+ requested and \d+ written", reason):
        return "no space left on the disk; free some and --resume"
    return reason


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _swap(hidden: Path, folder: Path) -> None:
    """Put a complete folder in its place; `settled` mends what a kill in between leaves."""
    previous = folder.parent / f".{folder.name}.previous"
    if folder.exists():
        shutil.rmtree(previous, ignore_errors=True)
        folder.rename(previous)
    hidden.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)


def read_model(folder: Path) -> tuple[ModelManifest, dict[str, Tensor]]:
    """Manifest and online parameters of a checkpoint or model folder, hashes checked.

    Raises:
        TrainingError: If it is missing, incomplete, damaged or altered.
    """
    manifest = read_manifest(folder)
    return manifest, read_tensors(settled(folder) / MODEL_FILE)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file.

    Raises:
        TrainingError: If it is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"checkpoint file {path} cannot be read: {error}") from error


class RotatingCheckpoints:
    """The newest few checkpoints of a run, ``latest/step_<steps>``.

    Args:
        folder: ``checkpoints/latest``.
        keep: How many stay.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def write(
        self,
        step: int,
        manifest: ModelManifest,
        model: dict[str, Tensor],
        fill: Callable[[Path], None],
    ) -> Path:
        """Add a checkpoint, then drop the oldest beyond ``keep``."""
        target = self.folder / f"step_{step:010d}"
        write_checkpoint(target, manifest, model, fill)
        present = self.all()
        # Later ones are of a run that was taken back to an earlier checkpoint.
        later = [old for old in present if old.name > target.name]
        for old in [*later, *present[: len(present) - len(later)][: -self.keep]]:
            _discard(old)
        _sweep(self.folder, "step_*")
        return target

    def all(self) -> list[Path]:
        """Complete checkpoints, the oldest first."""
        for previous in self.folder.glob(".step_*.previous"):
            target = self.folder / previous.name[1 : -len(".previous")]
            if settled(target) == previous:  # killed while it was being replaced
                previous.rename(target)
        return sorted(p for p in self.folder.glob("step_*") if (p / MANIFEST).is_file())

    def newest(self) -> Path | None:
        """The newest complete checkpoint."""
        found = self.all()
        return found[-1] if found else None

    def clear(self) -> None:
        """Forget the checkpoints of an earlier run of the same name."""
        if self.folder.exists():
            _discard(self.folder)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold a run's folder; another process that trains under the same name is refused.

    The lock is on the folder itself (nothing is left behind) and ends with the process.

    Raises:
        TrainingError: If another process holds it.
    """
    place = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TrainingError(
                f"{folder}: another process is training under this name; wait for it, or choose "
                "another --name"
            ) from error
        except OSError as error:  # a file system without locks
            logger.warning("%s cannot be locked: %s", folder, error.strerror)
        yield
    finally:
        os.close(place)


def forget_run(folder: Path) -> None:
    """Remove what an earlier run of the same name left: its models must not pass for this one's."""
    for name in (
        "checkpoints/best",
        "checkpoints/failed",
        "dqn_model_final",
        "replay_buffer_final",
    ):
        for place in (folder / name, (folder / name).with_name(f".{Path(name).name}.previous")):
            if place.exists():
                _discard(place)
    for numbered in (folder / "checkpoints").glob("episode_*"):
        _discard(numbered)
    for name in ("eval/evaluations.npz", "learning_curve.png", "demonstrations.npz"):
        (folder / name).unlink(missing_ok=True)


def _discard(folder: Path) -> None:
    """Remove a checkpoint; killed in between, no half of it can be taken for a whole one."""
    hidden = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.partial"
    folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _sweep(parent: Path, name: str) -> None:
    """Remove what killed processes left half-written under a name."""
    for stale in parent.glob(f".{name}.*.partial"):
        shutil.rmtree(stale, ignore_errors=True)


def read_state(folder: Path) -> dict[str, Any]:
    """The counters and random states of a checkpoint.

    Raises:
        TrainingError: If the file is missing or damaged.
    """
    try:
        state: dict[str, Any] = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"checkpoint {folder} holds no training state (a model folder cannot be resumed): "
            f"{error}"
        ) from error
    return state
