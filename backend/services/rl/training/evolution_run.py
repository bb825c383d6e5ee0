"""The folder of a run that evolves a few numbers: ``results/<name>``.

Laid out as that of a network: ``training_config.json``, ``checkpoints/best``, ``eval/``. A killed
run goes on from the evolution's journal, ``checkpoints/latest/evolution.jsonl``.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services.rl.errors import TrainingError

from .checkpoints import disk_reason, forget_run, sole_writer


@contextmanager
def evolution_run(
    folder: Path, resume: bool, config: dict[str, Any]
) -> Iterator[tuple[Path, Path]]:
    """Hold a run's folder; gives the journal's place and the folder of the best model.

    Args:
        folder: ``results/<name>``.
        resume: Go on from the folder's journal; else an earlier run of the name is forgotten.
        config: For ``training_config.json``.

    Raises:
        TrainingError: If there is nothing to resume, another process trains under this name, or a
            file cannot be written.
    """
    journal = folder / "checkpoints" / "latest" / "evolution.jsonl"
    best = folder / "checkpoints" / "best"
    if resume and not any(journal.parent.glob("evolution*.jsonl")):
        raise TrainingError(f"--resume: there is nothing to resume in {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with sole_writer(folder):
            if not resume:
                for old in journal.parent.glob("evolution*.jsonl"):
                    old.unlink()
                forget_run(folder)  # a network's too: its model must not pass for this run's
            for part in (journal.parent, best):
                part.mkdir(parents=True, exist_ok=True)
            if not resume:
                write_document(folder / "training_config.json", config)
            yield journal, best
            if resume:  # not before: the journal may be refused, and the run's settings stay
                write_document(folder / "training_config.json", config)
    except OSError as error:
        where = error.filename or folder
        raise TrainingError(f"{where} cannot be written: {disk_reason(error)}") from error


def write_document(path: Path, document: dict[str, Any]) -> None:
    """Write JSON, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.partial")
    hidden.write_text(json.dumps(document, indent=2, default=str) + "\n", encoding="utf-8")
    hidden.replace(path)
