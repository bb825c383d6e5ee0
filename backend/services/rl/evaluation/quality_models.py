"""Trained models that the quality benchmark measures: several seeds of a kind in a world."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from services.rl.errors import UsageError
from services.rl.policies.model_files import MANIFEST, read_manifest
from services.rl.policies.planner_values import VALUES_FILE

PLANNER, NETWORK, MATCHING_VALUES = "planner", "dqn_matching", "matching_values"
KINDS: Final = (PLANNER, NETWORK, MATCHING_VALUES)
"""Kinds of trained models."""

Models = Mapping[tuple[str, str], Sequence[Path]]
"""Folders of trained models, one per training seed, by (kind, scenario name)."""

_NAME = re.compile(rf"^({'|'.join(KINDS)})_(.+)_s(\d+)$")


def models_in(folder: Path) -> dict[tuple[str, str], list[Path]]:
    """Trained models named ``<kind>_<scenario>_s<seed>`` in a folder, in order of the seeds.

    Raises:
        UsageError: If the folder does not exist or holds none.
    """
    if not folder.is_dir():
        raise UsageError(f"--models {folder}: there is no such folder")
    found: dict[tuple[str, str], list[tuple[int, Path]]] = {}
    for entry in folder.iterdir():
        match = _NAME.match(entry.name)
        if match and entry.is_dir():
            best = entry / "checkpoints" / "best"
            place = best if best.is_dir() else entry
            found.setdefault((match[1], match[2]), []).append((int(match[3]), place))
    if not found:
        raise UsageError(
            f"--models {folder} holds no models: folders named <kind>_<scenario>_s<seed> are "
            f"expected, with a kind of {', '.join(KINDS)}"
        )
    return {key: [path for _, path in sorted(seeds)] for key, seeds in found.items()}


def model_of(folder: Path) -> tuple[tuple[str, str], Path]:
    """Kind and scenario of a model, by what its files say; and the folder that holds them.

    Args:
        folder: Of a training run, or of the model itself.

    Raises:
        UsageError: If it holds no planner values and no network.
        PolicyError: If the network is damaged.
    """
    best = folder / "checkpoints" / "best"
    place = best if best.is_dir() else folder
    if (place / VALUES_FILE).is_file():
        try:
            scenario = json.loads((place / VALUES_FILE).read_text(encoding="utf-8"))["scenario"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{place / VALUES_FILE} cannot be read: {error}") from error
        return (PLANNER, str(scenario)), place
    if (place / MANIFEST).is_file():
        return (NETWORK, str(read_manifest(place).environment.get("scenario"))), place
    raise UsageError(f"{folder} holds no trained model: there is no {VALUES_FILE}, no {MANIFEST}")


def grouped(folders: Iterable[Path]) -> dict[tuple[str, str], list[Path]]:
    """Models by kind and scenario, in the order given; see `model_of`."""
    found: dict[tuple[str, str], list[Path]] = {}
    for folder in folders:
        key, place = model_of(folder)
        found.setdefault(key, []).append(place)
    return found
