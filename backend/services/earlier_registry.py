"""Models of a home whose aliases were kept in files: taken over into the database, once.

Until the tables were used, ``<home>/models`` held ``aliases.json`` and ``history.jsonl`` beside
the versions' folders. They are read in one transaction and then renamed, so that there is one
truth; where the database has aliases of its own already, those hold, and that is said.
"""

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from models.model_version import DEFAULT_COMPANY, MODEL_ALIASES, ModelAlias, ModelVersion
from models.model_version import ModelEvent as ModelEventRow
from services.rl.errors import BundleError
from services.rl.serving.bundle import Bundle
from services.rl.serving.model_folders import ModelFolders
from services.rl.serving.registry import ModelEvent

_LOG = logging.getLogger("atmr.models")
_ASIDE: Final = ".imported"


class EarlierRegistry:
    """The files of an earlier registry.

    Args:
        folders: The versions, which stay where they are.
    """

    def __init__(self, folders: ModelFolders) -> None:
        self._folders = folders
        self._aliases = folders.folder / "aliases.json"
        self._history = folders.folder / "history.jsonl"

    @property
    def there(self) -> bool:
        """Whether there is something that was not taken over yet."""
        return self._aliases.exists()

    def take_over(self, session: Session, row_of: Callable[[Bundle], ModelVersion]) -> None:
        """Write versions, aliases and events; the caller's transaction keeps all or nothing.

        Args:
            session: Writing, alone.
            row_of: Makes a version's row.

        Raises:
            BundleError: If a file is not as the earlier registry wrote it.
        """
        if not self.there:  # another process was faster
            return
        tables = (ModelVersion, ModelAlias, ModelEventRow)
        if any(session.scalar(select(func.count()).select_from(table)) for table in tables):
            _LOG.warning(
                "%s is put aside: the database has a registry already, and that one holds",
                self._aliases,
            )
            return
        aliases, events = self._read_aliases(), self._read_events()
        known = self._take_versions(session, row_of)
        for event in events:
            session.add(
                ModelEventRow(
                    at=datetime.fromisoformat(event.at).astimezone(UTC),
                    who=event.who[:80],
                    why=event.why[:200],
                    company_id=event.company_id,
                    alias=event.alias,
                    from_version=event.from_version,
                    to_version=event.to_version,
                    gate_report=event.gate_report,
                )
            )
            session.flush()
        taken = 0
        for company, own in aliases.items():
            for alias, version in own.items():
                if version not in known:
                    _LOG.error(
                        "alias %s of company %s is lost: model %s cannot be read",
                        alias, company, version,
                    )  # fmt: skip
                    continue
                moved = [e.at for e in events if (e.alias, e.to_version) == (alias, version)]
                at = max(moved, default="") or datetime.fromtimestamp(0, UTC).isoformat()
                session.add(
                    ModelAlias(
                        company_id=company, alias=alias, version=version,
                        updated_at=datetime.fromisoformat(at),
                    )
                )  # fmt: skip
                taken += 1
        session.flush()
        _LOG.warning(
            "the registry of %s was taken over into the database: %d versions, %d aliases, "
            "%d events", self._folders.folder, len(known), taken, len(events),
        )  # fmt: skip

    def put_aside(self) -> None:
        """Rename the files; what was taken over is not taken over again."""
        for path in (self._history, self._aliases):
            try:
                path.rename(path.with_name(path.name + _ASIDE))
            except FileNotFoundError:  # another process was faster
                continue
            except OSError as error:
                _LOG.warning("%s cannot be put aside: %s", path, error.strerror or error)

    def _take_versions(
        self, session: Session, row_of: Callable[[Bundle], ModelVersion]
    ) -> set[str]:
        known = set(session.scalars(select(ModelVersion.version)))
        for version in self._folders.versions():
            if version in known:
                continue
            try:
                bundle = self._folders.get(version)
            except BundleError as error:
                _LOG.error("a model is not taken over: %s", error)
                continue
            row = row_of(bundle)
            made_s = (self._folders.folder / version).stat().st_mtime
            row.created_at = datetime.fromtimestamp(made_s, UTC)
            session.add(row)
            known.add(version)
        session.flush()
        return known

    def _read_aliases(self) -> dict[int, dict[str, str]]:
        raw = _json_of(self._aliases, self._aliases.read_text(encoding="utf-8"))
        try:
            return {
                DEFAULT_COMPANY if company == "default" else int(company): {
                    str(alias): str(version)
                    for alias, version in own.items()
                    if alias in MODEL_ALIASES
                }
                for company, own in raw.items()
            }
        except (AttributeError, ValueError) as error:
            raise _unreadable(self._aliases, error) from error

    def _read_events(self) -> list[ModelEvent]:
        if not self._history.is_file():
            return []
        lines = self._history.read_text(encoding="utf-8").splitlines()
        events = []
        for number, line in enumerate(lines, 1):
            try:
                event = ModelEvent(**json.loads(line))
                datetime.fromisoformat(event.at)
                events.append(event)
            except (ValueError, TypeError) as error:
                if number == len(lines):  # torn by a kill: its change never came into force
                    break
                raise BundleError(f"{self._history}:{number} is no event: {error}") from error
        return events


def _json_of(path: Path, text: str) -> dict[str, Any]:
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise _unreadable(path, error) from error
    if not isinstance(raw, dict):
        raise _unreadable(path, "no object")
    return raw


def _unreadable(path: Path, why: object) -> BundleError:
    return BundleError(
        f"{path} is of an earlier registry and cannot be taken over ({why}): mend it, or move it "
        "away and promote again"
    )
