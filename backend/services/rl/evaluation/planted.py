"""Bundles that are bad on purpose: what the gate and the guardrails must stop.

``shuffled``: the model's numbers in another order, as after a file was mixed up. It loads, it
answers in time, every answer is feasible; they are merely poor.

``far``: bookings far from every driver are refused: an empty kilometre costs so much that only
near ones are worth while. What it serves it serves in time, so its late rate looks splendid.

Each is the champion in all else, with a manifest of its own: hashes fit, `read_bundle` admits it.
"""

import json
import shutil
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from services.rl.errors import BundleError
from services.rl.policies.model_files import (
    MANIFEST,
    MODEL_FILE,
    file_sha256,
    read_arrays,
    read_manifest,
)
from services.rl.policies.planner_values import VALUES_FILE, PlannerValues
from services.rl.policies.route_clock import TERM
from services.rl.policies.tuning import MatchingWeights
from services.rl.policies.weight_files import save_json
from services.rl.serving.bundle import (
    LINEAR,
    LINEAR_FILE,
    MATCHING,
    MATCHING_FILE,
    NETWORK,
    NETWORK_FOLDER,
    PLANNER,
    Bundle,
    hashes_of,
    read_bundle,
)
from services.rl.serving.onnx_network import MODEL_FILES
from services.rl.serving.policies import NUMBA
from services.rl.simulation.edges import EDGE

PlantedKind = Literal["shuffled", "far"]
PLANTED: Final = get_args(PlantedKind)

PER_EMPTY_KM: Final = 6.0
"""Price that ``far`` adds to an empty kilometre of the planner, in reward: of a booking of priority
3, worth 12 and 12 more for not being left, nothing is left beyond 4 km."""
PER_EMPTY_MIN: Final = 4.0
"""The same for matchers, per minute of the way there."""

_SEED: Final = 20_260_301


def planted_bundle(kind: PlantedKind, champion: Bundle, folder: Path) -> Bundle:
    """A bad bundle made of a good one.

    Args:
        kind: ``shuffled`` or ``far``; see the module.
        champion: The good one; it stays as it is.
        folder: Where the bad one will lie; it must not exist.

    Raises:
        BundleError: If the kind is unknown, the folder exists or cannot be written.
    """
    if kind not in PLANTED:
        raise BundleError(f"unknown kind of planted bundle {kind!r}: choose {', '.join(PLANTED)}")
    if folder.exists():
        raise BundleError(f"{folder} exists; a bundle is never overwritten")
    hidden = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        shutil.copytree(champion.path, hidden)
        spoil = _SHUFFLE if kind == "shuffled" else _REFUSE_FAR
        spoil[champion.kind](hidden)
        _write_manifest(hidden, champion)
        read_bundle(hidden)
        hidden.rename(folder)
    except OSError as error:
        raise BundleError(
            f"bundle {folder} cannot be written: {error.strerror or error}"
        ) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return read_bundle(folder)


def _write_manifest(hidden: Path, champion: Bundle) -> None:
    (hidden / MANIFEST).unlink()
    manifest = replace(
        champion.manifest,
        parent=champion.version,
        files=hashes_of(hidden),
        # Graphs of the good network are gone: compiled code runs the numbers as they are.
        backend=NUMBA if champion.kind == NETWORK else champion.manifest.backend,
    )
    text = json.dumps(manifest.to_json(), indent=2) + "\n"
    (hidden / MANIFEST).write_text(text, encoding="utf-8")


def _shuffled(numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The numbers in another order, the same for the same count."""
    order = np.random.default_rng([_SEED, numbers.size]).permutation(numbers.size)
    mixed: npt.NDArray[Any] = numbers.reshape(-1)[order].reshape(numbers.shape)
    return np.ascontiguousarray(mixed)


# --- planner -------------------------------------------------------------------------------------


def _values(hidden: Path, change: Callable[[PlannerValues], tuple[float, ...]]) -> None:
    values = PlannerValues.load(hidden / VALUES_FILE)
    replace(values, weights=change(values)).save(hidden / VALUES_FILE)


def _shuffle_values(hidden: Path) -> None:
    _values(hidden, lambda v: tuple(_shuffled(np.array(v.weights)).tolist()))


def _far_values(hidden: Path) -> None:
    at = TERM.index("deadhead")
    _values(hidden, lambda v: (*v.weights[:at], v.weights[at] + PER_EMPTY_KM, *v.weights[at + 1 :]))


# --- matchers ------------------------------------------------------------------------------------


def _weights(file: str, far: bool) -> Callable[[Path], None]:
    def change(hidden: Path) -> None:
        path = hidden / file
        weights = (
            MatchingWeights.load(path, EDGE) if file == LINEAR_FILE else MatchingWeights.load(path)
        )
        numbers = np.array(weights.weights)
        if far:
            numbers[weights.features.index("travel_min")] -= 10.0 * PER_EMPTY_MIN
        else:
            numbers = _shuffled(numbers)
        replace(weights, weights=tuple(numbers.tolist())).save(path)

    return change


# --- networks ------------------------------------------------------------------------------------


def _network(
    change: Callable[[dict[str, npt.NDArray[Any]], float], None],
) -> Callable[[Path], None]:
    def spoil(hidden: Path) -> None:
        folder = hidden / NETWORK_FOLDER
        manifest = read_manifest(folder)
        if not manifest.network.get("edges", True):
            raise BundleError(f"{folder}: a network without edges cannot be planted")
        arrays = read_arrays(folder)
        change(arrays, manifest.reward_scale)
        save_file(arrays, folder / MODEL_FILE)
        renewed = manifest.with_files({MODEL_FILE: file_sha256(folder / MODEL_FILE)})
        save_json(folder / MANIFEST, renewed.to_json())
        for graph in MODEL_FILES.values():
            (hidden / graph).unlink(missing_ok=True)

    return spoil


def _shuffle_arrays(arrays: dict[str, npt.NDArray[Any]], _scale: float) -> None:
    for name, array in arrays.items():
        arrays[name] = _shuffled(array)


def _far_arrays(arrays: dict[str, npt.NDArray[Any]], scale: float) -> None:
    score = arrays["edge_score.weight"].copy()
    score[..., EDGE.index("travel_min")] -= np.float32(10.0 * PER_EMPTY_MIN * scale)
    arrays["edge_score.weight"] = score


_SHUFFLE: Final[dict[str, Callable[[Path], None]]] = {
    PLANNER: _shuffle_values,
    NETWORK: _network(_shuffle_arrays),
    LINEAR: _weights(LINEAR_FILE, far=False),
    MATCHING: _weights(MATCHING_FILE, far=False),
}
_REFUSE_FAR: Final[dict[str, Callable[[Path], None]]] = {
    PLANNER: _far_values,
    NETWORK: _network(_far_arrays),
    LINEAR: _weights(LINEAR_FILE, far=True),
    MATCHING: _weights(MATCHING_FILE, far=True),
}
