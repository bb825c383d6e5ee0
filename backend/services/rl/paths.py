"""Where outputs go: everything lies under ``ATMR_HOME``.

The default is the repository root (``/app`` in the container sets the variable), so that a
command started from any folder writes to the same place.
"""

import os
from pathlib import Path
from typing import Final

NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""Names of folders under `results_dir`: of trainings, studies and protocols."""
_REPOSITORY_ROOT = Path(__file__).resolve().parents[3]


def home() -> Path:
    """Root of everything the programs write: ``$ATMR_HOME`` or the repository root."""
    configured = os.environ.get("ATMR_HOME")
    return Path(configured).expanduser().resolve() if configured else _REPOSITORY_ROOT


def data_dir() -> Path:
    """Histories, data sets, caches and TensorBoard events: ``<home>/data/rl``."""
    return home() / "data" / "rl"


def results_dir() -> Path:
    """Reports and training results: ``<home>/results``."""
    return home() / "results"


def cache_dir() -> Path:
    """Recomputable results, keyed by hash; deleting it costs time only."""
    return data_dir() / "cache"
