"""What a run of ``--policy auto`` has done so far, on disk: written whole, after every step."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from services.rl.errors import TrainingError
from services.rl.evaluation.runner import DayResults

from .auto_choice import KEPT, Judged

STATE_SCHEMA: Final = 1
STATE_FILE: Final = "auto_state.json"


@dataclass
class Entry:
    """One candidate.

    Attributes:
        status: ``waiting``, ``training``, ``trained``, ``done``, ``not tried`` or ``failed``.
        why: Of ``not tried`` and ``failed``.
        plan: Of its training.
        seconds: Spent on it: training and judging.
        estimate_s: What was expected.
        played: Its results on validation days, see `judged_json`.
    """

    status: str = "waiting"
    why: str = ""
    plan: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    estimate_s: float | None = None
    played: dict[str, Any] | None = None


@dataclass
class AutoState:
    """A run.

    Attributes:
        scenario: Name of the scenario.
        scenario_hash: Its hash.
        seed: Of everything random.
        spent_s: Seconds, over all processes.
        validation: Labels of the days that decide; empty until they are chosen.
        test: Labels of the days that are reported.
        day_s: Seconds per played day, by policy, as measured.
        entries: By candidate.
        tested: Results on test days, by policy.
    """

    scenario: str
    scenario_hash: str
    seed: int
    spent_s: float = 0.0
    validation: list[str] = field(default_factory=list)
    test: list[str] = field(default_factory=list)
    day_s: dict[str, float] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    tested: dict[str, dict[str, Any]] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write the state, atomically."""
        write_json(folder / STATE_FILE, {"schema": STATE_SCHEMA, **asdict(self)})

    @classmethod
    def load(cls, folder: Path) -> "AutoState":
        """Read what `save` wrote.

        Raises:
            TrainingError: If it is missing or damaged.
        """
        path = folder / STATE_FILE
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            schema = raw.pop("schema")
            raw["entries"] = {name: Entry(**entry) for name, entry in raw["entries"].items()}
            state = cls(**raw)
        except FileNotFoundError as error:
            raise TrainingError(f"--resume: there is nothing to resume in {folder}") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise TrainingError(f"{path} cannot be read: {error}") from error
        if schema != STATE_SCHEMA:
            raise TrainingError(f"{path}: schema {schema} is not {STATE_SCHEMA}; start again")
        return state


def judged_json(results: DayResults, trained: bool) -> dict[str, Any]:
    """What is kept of a policy's days."""
    return {
        "policy": results.policy,
        "trained": trained,
        "kpis": {kpi: [round(float(v), 6) for v in results.kpi(kpi)] for kpi in KEPT},
        "p50_ms": round(float(np.percentile(results.decision_ms, 50)), 4),
        "p99_ms": round(float(np.percentile(results.decision_ms, 99)), 4),
        "refused": results.refused,
        "model_sha": results.model_sha,
    }


def judged_of(name: str, played: dict[str, Any]) -> Judged:
    """The same as what the rule compares."""
    return Judged(
        name=name,
        trained=bool(played["trained"]),
        kpis={kpi: np.array(values, dtype=float) for kpi, values in played["kpis"].items()},
        p50_ms=float(played["p50_ms"]),
        p99_ms=float(played["p99_ms"]),
        model_sha=played["model_sha"],
    )


def document_sha256(document: dict[str, Any]) -> str:
    """Hash of plain data."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write JSON under a hidden name, then rename."""
    write_text(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text under a hidden name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.partial")
    hidden.write_text(text, encoding="utf-8")
    hidden.replace(path)
