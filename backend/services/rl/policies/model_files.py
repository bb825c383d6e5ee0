"""Folders that hold a trained network: manifest, hashes, arrays. Reading them needs no Torch."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from services.rl.errors import PolicyError

MANIFEST = "manifest.json"
MODEL_FILE = "model.safetensors"
TRAINING_CONFIG = "training_config.json"
MODEL_SCHEMA = 1


@dataclass(frozen=True)
class ModelManifest:
    """What a model or checkpoint folder holds.

    Attributes:
        network: `QFunction.architecture` of the network.
        environment: Scenario name and hash, observation layout; or a foreign environment's id.
        reward_scale: Q in the files is in reward units times this.
        decision: ``dqn_matching`` or ``dqn``: how it was judged best.
        step: Environment steps trained.
        metrics: Scores on validation days.
        provenance: Commit, versions, seed, command.
        files: SHA-256 of each file.
        schema: Version of this manifest.
    """

    network: dict[str, Any]
    environment: dict[str, Any]
    reward_scale: float
    decision: str
    step: int
    metrics: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    schema: int = MODEL_SCHEMA

    def with_files(self, files: dict[str, str]) -> "ModelManifest":
        """The same with hashes."""
        return replace(self, files=files)

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the hash of all of it under ``sha256``."""
        plain = asdict(self)
        return {**plain, "sha256": _document_sha256(plain)}


def _document_sha256(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def experiment_folder(folder: Path) -> Path:
    """The experiment's folder that a model or checkpoint folder lies in; itself if in none."""
    place = folder.resolve()
    for above in (place, *place.parents[:3]):
        if (above / TRAINING_CONFIG).is_file():
            return above
    for above in place.parents[:2]:
        if above.name == "checkpoints":
            return above.parent
    return place


def trained_as(folder: Path, manifest: ModelManifest) -> str:
    """Which training a model comes from, as notes name it: ``first at step 48,000``."""
    return f"{experiment_folder(folder).name} at step {manifest.step:,}"


def settled(folder: Path) -> Path:
    """The folder, or its predecessor where a process was killed while replacing it."""
    previous = folder.parent / f".{folder.name}.previous"
    if not folder.exists() and (previous / MANIFEST).is_file():
        return previous
    return folder


def read_manifest(folder: Path) -> ModelManifest:
    """The manifest of a folder, with all its files checked against their hashes.

    Raises:
        PolicyError: If the folder is no model, incomplete, damaged or altered; naming the file.
    """
    place = settled(folder)
    try:
        raw = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        manifest = _checked_manifest(raw)
    except FileNotFoundError as error:
        raise PolicyError(
            f"{folder} holds no model: there is no {MANIFEST} (expected a folder such as "
            "results/<name>/checkpoints/best)"
        ) from error
    except NotADirectoryError as error:
        raise PolicyError(f"{folder} is a file: give the folder of the checkpoint") from error
    except (OSError, ValueError, TypeError) as error:
        raise PolicyError(f"{place / MANIFEST} cannot be read: {error}") from error
    if manifest.schema != MODEL_SCHEMA:
        raise PolicyError(
            f"{folder}: manifest schema {manifest.schema} is not {MODEL_SCHEMA}; train again"
        )
    if MODEL_FILE not in manifest.files:
        raise PolicyError(f"{place / MANIFEST} names no {MODEL_FILE}")
    for name, expected in manifest.files.items():
        if Path(name).name != name:
            raise PolicyError(f"{place / MANIFEST} names a file outside its folder: {name!r}")
        path = place / name
        try:
            found = file_sha256(path)
        except OSError as error:
            raise PolicyError(f"{path} is missing or cannot be read") from error
        if found != expected:
            raise PolicyError(
                f"{path} is not the file that was saved (its SHA-256 differs): truncated or altered"
            )
    return manifest


def _checked_manifest(raw: Any) -> ModelManifest:
    if not isinstance(raw, dict):
        raise ValueError("it is no JSON object")
    fields = {name: value for name, value in raw.items() if name != "sha256"}
    if "sha256" in raw and raw["sha256"] != _document_sha256(fields):
        raise ValueError("it is not as it was saved (its SHA-256 differs)")
    manifest = ModelManifest(**fields)
    for name in ("network", "environment", "metrics", "files"):
        if not isinstance(getattr(manifest, name), dict):
            raise ValueError(f"{name} is no JSON object")
    scale = manifest.reward_scale
    if not isinstance(scale, int | float) or not 0.0 < scale < float("inf"):
        raise ValueError(f"reward_scale is {scale!r}")
    return manifest


def read_arrays(folder: Path) -> dict[str, npt.NDArray[Any]]:
    """The online network's parameters.

    Raises:
        PolicyError: If the file is damaged, or holds numbers that are not finite.
    """
    path = settled(folder) / MODEL_FILE
    try:
        arrays: dict[str, npt.NDArray[Any]] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise PolicyError(f"{path} cannot be read: {error}") from error
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise PolicyError(f"{path}: parameter {name} is not finite")
    return arrays
