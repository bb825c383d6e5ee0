"""Trainings of the quality benchmark: ``train_dqn.py``, a process per model, resumable."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.rl.command import provenance, write_json
from services.rl import paths
from services.rl.errors import UsageError
from services.rl.evaluation.quality_cells import model_sha256

_SCRIPT = Path(__file__).with_name("train_dqn.py")


@dataclass(frozen=True)
class Training:
    """One model to train.

    Attributes:
        benchmark: Name of the benchmark; its models do not touch those of others.
        kind: ``planner`` or ``dqn_matching``.
        scenario: Name or file.
        seed: Of everything random.
        mode: As of ``train_dqn.py``.
    """

    benchmark: str
    kind: str
    scenario: str
    seed: int
    mode: str

    @property
    def name(self) -> str:
        """Folder under ``results/``."""
        return f"{self.benchmark}_{self.kind}_{Path(self.scenario).stem}_s{self.seed}"

    @property
    def model(self) -> Path:
        """Where the trained model lies."""
        return paths.results_dir() / self.name / "checkpoints" / "best"

    @property
    def _record(self) -> Path:
        return paths.results_dir() / self.benchmark / "training" / f"{self.name}.json"

    def finished(self) -> dict[str, Any] | None:
        """What is known of the finished training; None where it has to run."""
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
            same = {name: record[name] for name in asdict(self)} == asdict(self)
            if same and record["model_sha"] == model_sha256(self.model):
                return dict(record)
        except (OSError, ValueError, KeyError, TypeError, UsageError):
            pass  # not finished, altered, or of other settings
        return None

    def run(self) -> dict[str, Any]:
        """Train, or go on with a training that was cut off.

        Raises:
            UsageError: If the training fails; with its last words.
            KeyboardInterrupt: After the training has saved its state.
        """
        latest = paths.results_dir() / self.name / "checkpoints" / "latest"
        going_on = self._begun() and latest.is_dir() and any(latest.iterdir())
        self._note("begun", None, whole=not going_on)
        command = [
            sys.executable, str(_SCRIPT), "--mode", self.mode, "--policy", self.kind,
            "--scenario", self.scenario, "--seed", str(self.seed), "--name", self.name, "--quiet",
        ]  # fmt: skip
        if going_on:
            command.append("--resume")
        begun = time.monotonic()
        log = self._record.with_suffix(".log")
        with log.open("w", encoding="utf-8") as stream:
            # A session of its own: Ctrl-C reaches it once, from here.
            child = subprocess.Popen(  # noqa: S603 - our own script
                command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                code = child.wait()
            except KeyboardInterrupt:
                child.send_signal(signal.SIGINT)
                child.wait()
                raise
        if code != 0:
            words = log.read_text(encoding="utf-8").strip().splitlines() or ["it said nothing"]
            raise UsageError(f"training {self.name} failed (exit code {code}): {words[-1]}")
        return self._note("finished", time.monotonic() - begun, whole=not going_on)

    def _begun(self) -> bool:
        """Whether a checkpoint that lies there is of this very training."""
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(record, dict) and all(
            record.get(name) == value for name, value in asdict(self).items()
        )

    def _note(self, state: str, seconds: float | None, *, whole: bool) -> dict[str, Any]:
        record = {
            **asdict(self),
            "state": state,
            "model_sha": None if seconds is None else model_sha256(self.model),
            "seconds": seconds,
            "whole": whole,  # trained in one go: only then the seconds say how long it takes
            **provenance(),
        }
        write_json(self._record, record)
        return record


def train_all(
    trainings: list[Training], say: Callable[[str], None]
) -> tuple[dict[tuple[str, str], list[Path]], list[dict[str, Any]]]:
    """Models by (kind, scenario's file stem), and the records of their trainings."""
    models: dict[tuple[str, str], list[Path]] = {}
    records = []
    for training in trainings:
        record = training.finished()
        if record is None:
            say(f"training {training.name} ...")
            record = training.run()
        records.append(record)
        key = (training.kind, Path(training.scenario).stem)
        models.setdefault(key, []).append(training.model)
    return models, records
