"""Where learned numbers of policies lie: model folders, the company's own, the shipped ones."""

import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, Final

from services.rl import paths
from services.rl.errors import PolicyError
from services.rl.simulation.scenarios import Scenario

from .model_files import MANIFEST

_SHIPPED: Final = Path(str(resources.files(__package__) / "weights"))


def names_of(scenario: Scenario) -> list[str]:
    """Under which names a scenario's numbers are filed: a resized one finds its origin's."""
    return list(dict.fromkeys([scenario.name, scenario.name.split("-")[0]]))


def filed(policy: str, names: Iterable[str]) -> Path | None:
    """``<policy>_<name>.json`` of the first name that has one: the company's own, or shipped."""
    for name in dict.fromkeys(names):
        for folder in (paths.data_dir() / "weights", _SHIPPED):
            if (folder / f"{policy}_{name}.json").is_file():
                return folder / f"{policy}_{name}.json"
    return None


def values_file(
    policy: str, file: str, names: Iterable[str], model: Path | None, missing: str
) -> Path:
    """The file of a model folder, or where none is given the filed one.

    A folder with a network and no values is no answer to this policy: the filed ones are taken,
    so that several policies can be evaluated with one folder.

    Args:
        policy: As on the command line.
        file: Its name in a model folder.
        names: To look under among the filed ones.
        model: A model folder, or None.
        missing: What to say where there are none.

    Raises:
        PolicyError: If there are none, or the folder holds neither values nor a network.
    """
    if model is not None:
        if (model / file).is_file():
            return model / file
        if not (model / MANIFEST).is_file():  # others' values would pass for this folder's
            raise PolicyError(
                f"--model {model} holds no {file} for policy {policy!r}: fit them (train_dqn.py "
                f"--policy {policy})"
            )
    path = filed(policy, names)
    if path is None:
        raise PolicyError(missing)
    return path


def admitted(
    path: Path, fitted_on: str, fitted_hash: str, scenario: Scenario, *, transfer: bool
) -> str:
    """A note on where values come from.

    Raises:
        PolicyError: If they are of another scenario, unless ``transfer``.
    """
    note = f"{'shipped ' if path.parent == _SHIPPED else ''}values fitted on {fitted_on}"
    if fitted_hash == scenario.sha256:
        return note
    if not transfer:
        raise PolicyError(
            f"{path}: the values were fitted on {fitted_on} (or another version of it), "
            f"not on {scenario.name}: fit them again, or admit them with --transfer"
        )
    return note + " (another scenario, or another version of it)"


def save_json(path: Path, document: dict[str, Any], *, indent: int | None = 2) -> None:
    """Write JSON, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(json.dumps(document, indent=indent) + "\n", encoding="utf-8")
    temporary.replace(path)
