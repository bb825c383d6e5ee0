"""Experiments and units in the database, as the A/B dispatcher takes them."""

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import bindparam, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from extensions import Database
from models import Experiment, ExperimentEvent, ExperimentUnit
from services.rl.ab_dispatcher import ExperimentConfig, ExperimentError, UnitKind, parse_experiment
from services.rl.experiments.config import check_person
from services.rl.experiments.units import UnitArm

logger = logging.getLogger(__name__)

DISPATCH: Final = "dispatch"
"""Name of the experiment that decides about dispatching."""

_TABLE = ExperimentUnit.__table__
_KEEP = {
    "sqlite": sqlite.insert(_TABLE).on_conflict_do_nothing(),  # type: ignore[arg-type]
    "postgresql": postgresql.insert(_TABLE).on_conflict_do_nothing(),  # type: ignore[arg-type]
}


# Built once, and read as plain columns: it runs at every decision.
_CURRENT = (
    select(Experiment.__table__)
    .where(
        Experiment.name == bindparam("experiment"),
        (Experiment.company_id == bindparam("company")) | Experiment.company_id.is_(None),
    )
    .order_by(Experiment.company_id.is_(None))
    .limit(1)
)


def experiment_row(session: Session, company_id: int, name: str = DISPATCH) -> Experiment | None:
    """The company's own experiment of this name, else the default one, else None."""
    rows = session.scalars(
        select(Experiment).where(
            Experiment.name == name,
            (Experiment.company_id == company_id) | Experiment.company_id.is_(None),
        )
    ).all()
    return min(rows, key=lambda row: row.company_id is None, default=None)


def config_of(row: Any, company_id: int) -> ExperimentConfig:
    """The settings of a row (with the columns of `Experiment`); None: off, the heuristic alone.

    Raises:
        ExperimentError: If the row holds what no experiment can be.
    """
    if row is None:
        return ExperimentConfig(name=DISPATCH, company_id=company_id)
    return parse_experiment(
        {
            "name": row.name,
            "company_id": company_id,
            "mode": row.mode,
            "unit": UnitKind(row.unit),
            "salt": row.salt,
            "rl_share": row.rl_share,
            "block_min": row.block_min,
            "epsilon": row.epsilon,
            "guardrails": row.guardrails,
            "webhook_url": row.webhook_url,
            "stopped_at": row.stopped_at,
            "stop_reason": row.stop_reason if row.stopped_at is not None else None,
            "version": row.version,
        }
    )


class SqlExperiment:
    """One company's experiment; see `services.rl.experiments.config.ExperimentStore`."""

    def __init__(self, database: Database, company_id: int, name: str = DISPATCH) -> None:
        self._database = database
        self._company_id = company_id
        self._name = name
        self._parsed: tuple[Any, ExperimentConfig] | None = None

    def current(self) -> ExperimentConfig:
        """The settings now. The row is read each time, and parsed when it has changed.

        A row that cannot be read (changed by hand, or of another version of this code) counts as
        off, and the log says so: the heuristic decides, and no patient waits for it.
        """
        asked = {"experiment": self._name, "company": self._company_id}
        with self._database.engine.connect() as connection:
            row = connection.execute(_CURRENT, asked).one_or_none()
        parsed = self._parsed  # once: another thread may replace it
        if parsed is not None and parsed[0] == row:
            return parsed[1]
        try:
            config = config_of(row, self._company_id)
        except ExperimentError as error:
            logger.error("company %d: off, for its row says: %s", self._company_id, error)
            config = config_of(None, self._company_id)
        self._parsed = (row, config)
        return config

    def stop(self, reason: str, at: datetime) -> ExperimentConfig:
        """Stop the learned arm; the first reason stands."""
        return self._change(at, stop=reason)

    def resume(self, who: str, why: str, at: datetime) -> ExperimentConfig:
        """Let the learned arm run again.

        Raises:
            ExperimentError: If nobody, or no reason, is named.
        """
        check_person(who, why)
        return self._change(at, resume=(who, why))

    def _change(
        self, at: datetime, *, stop: str | None = None, resume: tuple[str, str] | None = None
    ) -> ExperimentConfig:
        for attempt in range(3):
            try:
                with self._database.writing() as session:
                    row = experiment_row(session, self._company_id, self._name)
                    if row is None:
                        return config_of(None, self._company_id)
                    event = None
                    if stop is not None and row.stopped_at is None:
                        row.stopped_at, row.stop_reason = at, stop[:200]
                        event = ("stopped", "guardrail", "guardrail_breach")
                    elif resume is not None and row.stopped_at is not None:
                        row.stopped_at = row.stop_reason = None
                        event = ("resumed", *resume)
                    if event is not None:
                        row.updated_at = at
                        session.flush()
                        kind, who, why = event
                        session.add(
                            ExperimentEvent(
                                experiment_id=row.id,
                                at=at,
                                kind=kind,
                                who=who,
                                why=why[:200],
                                data={"reason": stop, "company_id": self._company_id},
                            )
                        )
                    return config_of(row, self._company_id)
            except StaleDataError:  # somebody changed it meanwhile: look again
                if attempt == 2:
                    raise
        raise AssertionError("unreachable")


class SqlUnits:
    """Arms of units, for good; see `services.rl.experiments.units.UnitStore`.

    Known units are remembered: an arm never changes.

    Args:
        database: Where they are kept.
        company_id: Whose experiment.
    """

    _MOST_REMEMBERED = 20_000

    def __init__(self, database: Database, company_id: int) -> None:
        self._database = database
        self._company_id = company_id
        self._known: dict[tuple[str, str], UnitArm] = {}

    def get_or_create(self, experiment: str, proposals: Sequence[UnitArm]) -> list[UnitArm]:
        """What is kept for each proposed unit; the first writer wins."""
        missing = [p for p in proposals if (experiment, p.unit) not in self._known]
        if missing:
            if len(self._known) > self._MOST_REMEMBERED:
                self._known.clear()
            for row in self._kept(experiment, missing):
                self._known[experiment, row.unit] = row
        return [self._known.get((experiment, p.unit), p) for p in proposals]

    def _kept(self, experiment: str, proposals: Sequence[UnitArm]) -> list[UnitArm]:
        with self._database.writing() as session:
            row = experiment_row(session, self._company_id, experiment)
            if row is None:
                return list(proposals)
            session.execute(
                _KEEP[session.get_bind().dialect.name],
                [
                    {
                        "experiment_id": row.id,
                        "unit": p.unit,
                        "bucket": p.bucket,
                        "arm": p.arm,
                        "created_at": p.created_at,
                    }
                    for p in proposals
                ],
            )
            return _units_of(session, row, proposals)


class LookedUpUnits:
    """Arms of units for a question that must leave no trace: those kept, or as they would be.

    Args:
        database: Where units are kept.
        company_id: Whose experiment.
    """

    def __init__(self, database: Database, company_id: int) -> None:
        self._database = database
        self._company_id = company_id

    def get_or_create(self, experiment: str, proposals: Sequence[UnitArm]) -> list[UnitArm]:
        """What is kept for each proposed unit, else the proposal; nothing is written."""
        with self._database.reading() as session:
            row = experiment_row(session, self._company_id, experiment)
            kept = [] if row is None else _units_of(session, row, proposals)
        known = {unit.unit: unit for unit in kept}
        return [known.get(p.unit, p) for p in proposals]


def _units_of(session: Session, row: Experiment, proposals: Sequence[UnitArm]) -> list[UnitArm]:
    found = session.scalars(
        select(ExperimentUnit).where(
            ExperimentUnit.experiment_id == row.id,
            ExperimentUnit.unit.in_([p.unit for p in proposals]),
        )
    )
    return [UnitArm(u.unit, u.bucket, u.arm, u.created_at) for u in found]
