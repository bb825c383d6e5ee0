"""From a raw history to a finished folder: data set, rejections, fit, scenarios, report.

Everything is written into a temporary folder beside the target, which is renamed when complete;
a data set already there stays until then, and survives any failure.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.rl.errors import DataError, UsageError
from services.rl.simulation.scenarios import Split, file_sha256, save_scenario

from .building import DayRules, build_days
from .dataset import HistoryDays
from .demand_fit import fit_demand, regular_days
from .fitted_scenarios import fitted_scenario, replay_scenario
from .goodness import goodness_of_fit
from .history import RawHistory
from .report import Fit, write_rejected, write_report
from .roster import known_drivers
from .service import service_of
from .travel_fit import fit_travel
from .validation import validate

_OURS = "dataset.json"


@dataclass(frozen=True)
class Collected:
    """What a collection made.

    Attributes:
        folder: The finished data set.
        history: Its days.
        fit: None with ``fit=False``.
    """

    folder: Path
    history: HistoryDays
    fit: Fit | None

    def summary(self) -> dict[str, Any]:
        """Plain values for JSON."""
        history = self.history
        return {
            "folder": str(self.folder),
            "days": len(history.dates),
            "first_day": history.dates[0],
            "last_day": history.dates[-1],
            "day_start": history.day_start,
            "horizon_min": history.horizon_min,
            "counts": history.facts["counts"],
            "service": service_of(history).shares_of_due(),
            "fit": None
            if self.fit is None
            else {
                "zones": len(self.fit.model.site_name),
                "bookings_mean": self.fit.model.bookings_mean,
                "bookings_cv": self.fit.model.bookings_cv,
                "drives": self.fit.travel.trips,
                "goodness": [comparison.as_dict() for comparison in self.fit.goodness],
            },
        }


def collect(
    raw: RawHistory,
    folder: Path,
    rules: DayRules,
    *,
    name: str,
    company_id: str | None = None,
    strict: bool = False,
    fit: bool = True,
    seed: int = 0,
) -> Collected:
    """Validate a history, group it into days, fit, and write the folder.

    Args:
        raw: What a source gave.
        folder: Where the data set goes; replaced if it is a data set.
        rules: How bookings become days.
        name: Of the data set and its scenarios.
        company_id: Only this company's rows.
        strict: Refuse the whole history on the first rejected row.
        fit: Also fit demand and travel, and write scenarios.
        seed: Of the zones and of the goodness of fit.

    Raises:
        DataError: If nothing valid is left (or, when strict, anything was rejected).
        UsageError: If the folder is something else than a data set, or cannot be written.
    """
    check_target(folder)
    history = validate(raw, company_id)
    drivers = known_drivers(raw, history, company_id)
    days = build_days(history, drivers, rules, name=name, source=raw.source)
    if strict and history.rejections.entries:
        row, (why, detail) = min(history.rejections.entries.items())
        raise DataError(
            f"{raw.source}: {raw.where[row]}: {detail} ({why.value}); "
            f"{len(history.rejections.entries)} of {len(raw)} rows are invalid, and --strict is on"
        )
    temporary = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        fitted = _write(temporary, raw, days, history.rejections, fit, seed)
        _swap(temporary, folder)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Collected(folder, days, fitted)


def check_target(folder: Path) -> None:
    """Refuse to replace a folder that is no data set.

    Raises:
        UsageError: Naming the folder.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _OURS).is_file():
        raise UsageError(f"{folder} is not empty and no data set; choose another --out")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; choose another --out")


def _write(
    folder: Path, raw: RawHistory, days: HistoryDays, rejections: Any, fit: bool, seed: int
) -> Fit | None:
    sha256 = days.write(folder)
    write_rejected(folder / "rejected.csv", raw, rejections)
    fitted = _fit(days, seed) if fit else None
    if fitted is not None:
        model_path = folder / "demand.npz"
        fitted.model.save(model_path)
        travel = fitted.travel.travel
        save_scenario(
            fitted_scenario(
                days,
                fitted.model,
                travel,
                model_file=model_path.name,
                model_sha256=file_sha256(model_path),
            ),
            folder / "scenario.yaml",
        )
        save_scenario(
            replay_scenario(days, fitted.model, travel, dataset_folder=".", dataset_sha256=sha256),
            folder / "replay.yaml",
        )
    write_report(folder, days, fitted, seed)
    return fitted


def _fit(days: HistoryDays, seed: int) -> Fit:
    training = days.days(Split.TRAIN)
    model = fit_demand(training, horizon_min=days.horizon_min, seed=seed)
    held_out = days.days(Split.VALIDATION) if (days.split == 1).any() else []
    return Fit(
        model=model,
        travel=fit_travel(days, list(days.labels(Split.TRAIN))),
        goodness=goodness_of_fit(model, held_out, seed) if held_out else [],
        light_days=len(training) - len(regular_days(training)),
    )


def _swap(new: Path, folder: Path) -> None:
    """Put the finished folder in place of the old one."""
    if not folder.exists():
        new.rename(folder)
        return
    old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
