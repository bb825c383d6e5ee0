"""The model registry: versions in immutable folders; aliases and their history in the database.

Folders lie under ``<home>/models``; processes on several machines need that folder in common.
An alias and the event that tells of its change are written in one transaction, one change at a
time, so that processes may promote at once: nothing is lost, and each event's ``from_version`` is
what was in force. A running process notices a change at its dispatcher's next look (see `Desk`).
"""

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import ColumnElement, bindparam, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from clock import Clock, SystemClock
from config import Config
from extensions import Database
from migrations import require_head, upgrade_new_sqlite
from models import Experiment, ExperimentEvent
from models.database_url import reason
from models.model_version import DEFAULT_COMPANY, ModelAlias, ModelVersion
from models.model_version import ModelEvent as ModelEventRow
from services.rl import paths
from services.rl.errors import BundleError, DataError, UsageError
from services.rl.serving.bundle import Bundle
from services.rl.serving.model_folders import ModelFolders
from services.rl.serving.registry import CANDIDATE, CHAMPION, PREVIOUS, Alias, ModelEvent

from .earlier_registry import EarlierRegistry

_LOG = logging.getLogger("atmr.models")

_ONE_AT_A_TIME: Final = 7240110520
"""PostgreSQL's advisory lock of changes; SQLite's write lock does the same."""

# Asked every few seconds by every process: put together once.
_ALIASES: Final = select(ModelAlias.company_id, ModelAlias.alias, ModelAlias.version).where(
    ModelAlias.company_id.in_((DEFAULT_COMPANY, bindparam("whose")))
)

_LONGEST: Final = {"who": 80, "why": 200, "gate_report": 500}


class SqlRegistry:
    """A `services.rl.serving.registry.Registry`; nothing is opened before the first question.

    Args:
        database: At the newest revision.
        clock: The present moment.
        home: Default ``ATMR_HOME``.
    """

    def __init__(self, database: Database, clock: Clock, home: Path | None = None) -> None:
        self._home = paths.home() if home is None else home
        self.folders = ModelFolders(self._home / "models")
        self._database = database
        self._clock = clock
        self._looked_for_earlier = False

    # --- versions --------------------------------------------------------------------------------

    def register(
        self,
        folder: Path,
        who: str,
        why: str,
        *,
        company: int | None = None,
        gate_report: str | None = None,
        before: Callable[[Session], None] | None = None,
    ) -> str:
        """Take in a bundle as candidate.

        The folder comes first, the row after it: if this ends in between, the folder is used by
        nobody, and registering again goes on from there.

        Args:
            folder: Of the bundle; it is copied.
            who: A person or a job.
            why: Their reason.
            company: Whose candidate; None: of all companies.
            gate_report: Where the report of the gate lies.
            before: Called in the transaction that registers; what it raises undoes all of it
                (such as a lock that has gone to somebody else).

        Raises:
            BundleError: If the bundle is damaged, or the folder cannot be written.
            UsageError: If a text is too long.
        """
        _check_lengths(who=who, why=why, gate_report=gate_report or "")
        bundle = self.folders.add(folder)
        with self._changing() as session:
            if before is not None:
                before(session)
            if session.get(ModelVersion, bundle.version) is None:
                session.add(self._row(bundle))
                session.flush()
            changes: dict[Alias, str | None] = {CANDIDATE: bundle.version}
            self._move(session, company or DEFAULT_COMPANY, changes, who, why, gate_report)
        return bundle.version

    def get(self, version: str) -> Bundle:
        """A registered version's bundle, every file checked against its hash.

        Raises:
            BundleError: If there is none of that version, or it is damaged or of another layout.
        """
        self._import_earlier()
        with self._database.reading() as session:
            if session.get(ModelVersion, version) is None:
                known = ", ".join(session.scalars(_versions()).all()) or "none"
                raise BundleError(f"there is no model {version!r} in the registry (known: {known})")
        return self.folders.get(version)

    def versions(self) -> list[str]:
        """Registered versions, the oldest first."""
        self._import_earlier()
        with self._database.reading() as session:
            return list(session.scalars(_versions()))

    def _row(self, bundle: Bundle) -> ModelVersion:
        told = bundle.manifest
        return ModelVersion(
            version=bundle.version,
            kind=told.kind,
            path=(self.folders.folder / bundle.version).relative_to(self._home).as_posix(),
            scenario_hash=told.scenario_hash,
            code_commit=told.code_commit,
            metrics=_storable(told.metrics),
            parent=told.parent,
            created_at=self._clock.now(),
        )

    # --- aliases ---------------------------------------------------------------------------------

    def alias(self, company: int | None, name: Alias) -> str | None:
        """The version of a company's alias, or of the default where it has none of its own."""
        self._import_earlier()
        with self._database.reading() as session:
            return _in_force(session, company or DEFAULT_COMPANY).get(name)

    def promote(
        self,
        version: str,
        who: str,
        why: str,
        company: int | None = None,
        gate_report: str | None = None,
    ) -> None:
        """Make a version champion; the champion in force becomes previous.

        Raises:
            BundleError: If the version is not registered, damaged, or already champion.
            UsageError: If a text is too long.
        """
        _check_lengths(who=who, why=why, gate_report=gate_report or "")
        self.get(version)
        whose = company or DEFAULT_COMPANY
        with self._changing() as session:
            before = _in_force(session, whose).get(CHAMPION)
            if before == version:
                raise BundleError(f"model {version} is champion already")
            changes: dict[Alias, str | None] = {CHAMPION: version, PREVIOUS: before}
            candidate = session.get(ModelAlias, (whose, CANDIDATE))
            if candidate is not None and candidate.version == version:
                changes[CANDIDATE] = None
            self._move(session, whose, changes, who, why, gate_report)

    def rollback(
        self, who: str, why: str, company: int | None = None, *, champion: str | None = None
    ) -> str:
        """Exchange champion and previous; the version now champion.

        Args:
            who: A person or a job.
            why: Their reason.
            company: Whose; None: the default of all.
            champion: The version to take back; None: whichever is champion.

        Raises:
            BundleError: If there is no previous version, it is damaged, or ``champion`` is not
                the champion (any more).
            UsageError: If a text is too long.
        """
        _check_lengths(who=who, why=why)
        whose = company or DEFAULT_COMPANY
        with self._changing() as session:
            meant = _in_force(session, whose)
            now, back = meant.get(CHAMPION), meant.get(PREVIOUS)
            if champion is not None and champion != now:
                raise BundleError(f"model {champion} is not the champion")
            if back is None:
                raise BundleError("there is no previous model to go back to")
            self.folders.get(back)
            self._move(session, whose, {CHAMPION: back, PREVIOUS: now}, who, why)
        return back

    def history(self, company: int | None = None) -> list[ModelEvent]:
        """Changes of a company's aliases and of the default's, the oldest first."""
        self._import_earlier()
        mine: ColumnElement[bool] = ModelEventRow.company_id.is_(None)
        if company:
            mine |= ModelEventRow.company_id == company
        with self._database.reading() as session:
            rows = session.scalars(select(ModelEventRow).where(mine).order_by(ModelEventRow.id))
            return [
                ModelEvent(
                    at=row.at.astimezone(UTC).isoformat(timespec="seconds"),
                    who=row.who,
                    why=row.why,
                    company_id=row.company_id,
                    alias=row.alias,
                    from_version=row.from_version,
                    to_version=row.to_version,
                    gate_report=row.gate_report,
                )
                for row in rows
            ]

    # --- rows ------------------------------------------------------------------------------------

    @contextmanager
    def _changing(self) -> Iterator[Session]:
        """A writing session, while no other process changes anything here."""
        self._import_earlier()
        with self._locked() as session:
            yield session

    @contextmanager
    def _locked(self) -> Iterator[Session]:
        with self._database.writing() as session:
            if not self._database.on_sqlite:
                session.execute(select(func.pg_advisory_xact_lock(_ONE_AT_A_TIME)))
            yield session

    def _move(
        self,
        session: Session,
        whose: int,
        changes: Mapping[Alias, str | None],
        who: str,
        why: str,
        gate_report: str | None = None,
    ) -> None:
        """Set aliases of a company, each with its event; None takes an alias away."""
        before = _in_force(session, whose)
        at = self._clock.now()
        for name, version in changes.items():
            row = session.get(ModelAlias, (whose, name))
            if (None if row is None else row.version) == version:
                continue
            if version is None:
                session.delete(row)
            elif row is None:
                session.add(
                    ModelAlias(company_id=whose, alias=name, version=version, updated_at=at)
                )
            else:
                row.version, row.updated_at = version, at
            session.add(
                ModelEventRow(
                    at=at,
                    who=who,
                    why=why,
                    company_id=whose or None,
                    alias=name,
                    from_version=before.get(name),
                    to_version=version,
                    gate_report=gate_report,
                )
            )
            session.flush()  # events in the order of the changes
            if name == CHAMPION and version is not None:
                _begin_evidence_afresh(session, whose, version, at, who)

    # --- what was there before the tables --------------------------------------------------------

    def _import_earlier(self) -> None:
        """Take over, once, what an earlier registry kept in files; see `EarlierRegistry`."""
        if self._looked_for_earlier:
            return
        earlier = EarlierRegistry(self.folders)
        if earlier.there:
            with self._locked() as session:
                earlier.take_over(session, self._row)
            earlier.put_aside()
        self._looked_for_earlier = True


@contextmanager
def open_registry(
    config: Config, clock: Clock | None = None, home: Path | None = None
) -> Iterator[SqlRegistry]:
    """The registry of the configured database, for a script.

    A SQLite file that is not there yet is made (nothing else need run before the first model is
    registered); any other database must have been migrated.

    Args:
        config: Names the database.
        clock: Default: the machine's.
        home: Default ``ATMR_HOME``.

    Raises:
        DataError: If the database has not been migrated, or refuses.
    """
    database = Database(config.database_url.get_secret_value(), timeout_s=config.database_timeout_s)
    try:
        upgrade_new_sqlite(database.engine)
        require_head(database.engine)
        yield SqlRegistry(database, clock or SystemClock(), home)
    except SQLAlchemyError as error:
        raise DataError(f"the database refuses: {reason(error)}") from error
    finally:
        database.dispose()


def _begin_evidence_afresh(
    session: Session, whose: int, version: str, at: datetime, who: str
) -> None:
    """Tell experiments that another model decides from now on: guardrails and verdict begin anew.

    A change of the default champion concerns the default experiment, and those of companies that
    have no champion of their own.
    """
    mine = Experiment.company_id == whose
    if whose == DEFAULT_COMPANY:
        own = select(ModelAlias.company_id).where(ModelAlias.alias == CHAMPION)
        mine = Experiment.company_id.is_(None) | Experiment.company_id.not_in(own)
    for row in session.scalars(select(Experiment).where(mine)):
        row.updated_at = at
        session.flush()
        session.add(
            ExperimentEvent(
                experiment_id=row.id, at=at, kind="model", who=who,
                why=f"champion {version}", data={"model": version},
            )
        )  # fmt: skip


def _versions() -> Any:
    return select(ModelVersion.version).order_by(ModelVersion.created_at, ModelVersion.version)


def _in_force(session: Session, whose: int) -> dict[str, str]:
    """What each alias means for a company.

    Champion and previous belong together: a company with a champion of its own goes back to its
    own previous one only.
    """
    rows = session.execute(_ALIASES, {"whose": whose}).all()
    own = {row.alias: row.version for row in rows if row.company_id == whose}
    default = {row.alias: row.version for row in rows if row.company_id == DEFAULT_COMPANY}
    if CHAMPION in own:
        default.pop(PREVIOUS, None)
    return {**default, **own}


def _check_lengths(**texts: str) -> None:
    for name, text in texts.items():
        if len(text) > _LONGEST[name]:
            raise UsageError(f"{name}: at most {_LONGEST[name]} characters, got {len(text)}")


def _storable(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics as JSON that every database takes: a score that is no number is null."""

    def finite(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, dict):
            return {key: finite(each) for key, each in value.items()}
        return [finite(each) for each in value] if isinstance(value, list) else value

    plain: dict[str, Any] = finite(json.loads(json.dumps(dict(metrics))))
    return plain
