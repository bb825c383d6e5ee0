"""What a run began with: it is never written over unasked, and goes on only as it began.

A file of the run's folder says it, written before the first configuration. A run of an older
version has none; its report tells the same.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from services.rl.errors import UsageError

from .bench import RESULT_FILE, write_text
from .dataset import DataOrder
from .fit import FitOptions
from .protocol import PHASES
from .report import JSON_FILE

BEGUN_FILE: Final = "begun.json"
_OPTIONS: Final = {
    "scenario": "--scenario",
    "teacher": "--teacher",
    "seed": "--seed",
    "days": "--days",
    "val_days": "--val-days",
    "judge_days": "--judge-days",
    "batch_size": "--batch-size",
    "learning_rate": "--lr",
    "epochs": "--epochs",
    "patience": "--early-stop-patience",
    "w_policy": "--w-policy",
    "w_value": "--w-value",
}
_HASH: Final = "scenario_hash"
_CODE: Final = ("schema", "layout_version", "edges_version", "code_hash")
"""Of other code: the arrays' own hash tells whether it made other data (`dataset.data_set`)."""
_DIGITS = 12


def recipe(
    identity: Mapping[str, Any], start: Mapping[str, Any], judge_days: int
) -> dict[str, Any]:
    """Plain data that a run may not change on its way; the phases are not part of it.

    Args:
        identity: `DataOrder.identity`.
        start: `FitOptions.document` of the default configuration.
        judge_days: Days that are played.
    """
    data = {name: value for name, value in identity.items() if name not in _CODE}
    return {**data, "judge_days": judge_days, **start}


def write_begun(folder: Path, order: DataOrder, start: FitOptions, judge_days: int) -> None:
    """Leave word of what a run begins with.

    Raises:
        TrainingError: If it cannot be written.
    """
    found = recipe(order.identity(), start.document(), judge_days)
    write_text(folder / BEGUN_FILE, json.dumps(found, indent=1, allow_nan=False) + "\n")


def refuse_again(folder: Path) -> None:
    """Let nobody redo what is finished without a question.

    Raises:
        UsageError: If the folder holds finished configurations, or a report.
    """
    count = len(list((folder / "configurations").glob(f"*/{RESULT_FILE}")))
    if count or (folder / JSON_FILE).exists():
        raise UsageError(
            f"--name {folder.name}: it has {count} finished configuration{'s' * (count != 1)} "
            "already; go on with --resume, or choose another --name"
        )


def refuse_other(folder: Path, order: DataOrder, start: FitOptions, judge_days: int) -> None:
    """Let a run go on only as it began; one that had not come to its first configuration may.

    Raises:
        UsageError: If it began with something else, saying what, there and now; or if what it
            left cannot be read.
    """
    there = _began(folder)
    if there is None:
        return
    now = recipe(order.identity(), start.document(), judge_days)
    other = [
        f"{_OPTIONS.get(name, name)} {_told(name, there[name])} there, {_told(name, value)} now"
        for name, value in now.items()
        if name in there
        and there[name] != value
        # Other worlds have other hashes: their names say more.
        and (name != _HASH or there["scenario"] == now["scenario"])
    ]
    if other:
        raise UsageError(
            f"--resume: {folder.name} began with something else: {'; '.join(other)}; give what it "
            "began with, or choose another --name"
        )


def with_finished(folder: Path, phases: tuple[str, ...]) -> tuple[str, ...]:
    """The phases asked for, and those a run has finished that come before what is new of them.

    A phase begins where those before it ended: C of a run whose A and B are finished confirms
    what these chose. Later ones would have to be run again, and were not asked for.

    Raises:
        UsageError: If the report cannot be read.
    """
    report = _document(folder / JSON_FILE) or {}
    finished = [*report.get("chosen", {}), *(["C"] if report.get("findings") else [])]
    new = [phase for phase in phases if phase not in finished]
    kept = [phase for phase in finished if not new or phase < new[0]]
    return tuple(phase for phase in PHASES if phase in phases or phase in kept)


def data_begun_on(folder: Path) -> str | None:
    """SHA-256 of the data set that a run began on; None: it had not come so far.

    Raises:
        UsageError: If the report cannot be read.
    """
    report = _document(folder / JSON_FILE)
    if report is None:
        return None
    try:
        return str(report["hashes"]["data"])
    except (KeyError, TypeError) as error:
        raise _unreadable(folder / JSON_FILE, error) from error


def _began(folder: Path) -> dict[str, Any] | None:
    found = _document(folder / BEGUN_FILE)
    if found is not None:
        return found
    report = _document(folder / JSON_FILE)
    if report is None:
        return None
    try:
        return recipe(report["identity"], report["plan"]["start"], report["judging_days"][2])
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise _unreadable(folder / JSON_FILE, error) from error


def _document(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no object")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    return found


def _unreadable(path: Path, error: Exception) -> UsageError:
    return UsageError(f"--resume: {path} cannot be read: {error}")


def _told(name: str, value: Any) -> str:
    return str(value)[:_DIGITS] if name == _HASH else str(value)
