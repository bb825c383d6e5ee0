"""The model registry: immutable versions, aliases per company, and a log of who changed what, why.

`FileRegistry` needs nothing but a folder; a database registry keeps the same protocol. A promotion
makes the champion ``previous`` and the promoted version ``champion`` in one atomic step; rolling
back exchanges the two.
"""

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, Protocol, get_args

from services.rl import paths
from services.rl.errors import BundleError

from .bundle import Bundle, read_bundle

Alias = Literal["champion", "candidate", "previous"]
ALIASES: Final = get_args(Alias)
CHAMPION: Final = "champion"
CANDIDATE: Final = "candidate"
PREVIOUS: Final = "previous"

Now = Callable[[], datetime]


@dataclass(frozen=True)
class ModelEvent:
    """One change of an alias.

    Attributes:
        at: When, ISO 8601 in UTC.
        who: A person or a job.
        why: Their reason.
        company_id: Whose alias; None: the default of all.
        alias: Which.
        from_version: Before; None: nothing.
        to_version: After; None: nothing.
        gate_report: Name of the report that allowed it, if any.
    """

    at: str
    who: str
    why: str
    company_id: int | None
    alias: str
    from_version: str | None
    to_version: str | None
    gate_report: str | None = None


class Registry(Protocol):
    """What deployment, the API and the nightly loop ask of a registry."""

    def register(self, folder: Path, who: str, why: str) -> str:
        """Take in a bundle as candidate of all companies; its version."""
        ...

    def get(self, version: str) -> Bundle:
        """A version's bundle, checked."""
        ...

    def alias(self, company: int | None, name: Alias) -> str | None:
        """The version of a company's alias, or of the default where it has none of its own."""
        ...

    def promote(
        self,
        version: str,
        who: str,
        why: str,
        company: int | None = None,
        gate_report: str | None = None,
    ) -> None:
        """Make a version champion; the champion becomes previous."""
        ...

    def rollback(self, who: str, why: str, company: int | None = None) -> str:
        """Make the previous version champion again; which."""
        ...

    def history(self, company: int | None = None) -> list[ModelEvent]:
        """Changes of a company's aliases and of the default's, the oldest first."""
        ...

    def versions(self) -> list[str]:
        """Registered versions, the oldest first."""
        ...


class FileRegistry:
    """A registry in a folder: ``<version>/``, ``aliases.json``, ``history.jsonl``.

    Any number of processes may use it at once: changes hold a lock, and readers see the aliases
    before or after a change, never between. A change is in force once ``aliases.json`` is renamed
    into place; the log line is written before it, so that no change is without one.

    Args:
        folder: Default ``<home>/models``.
        now: The clock.
    """

    def __init__(self, folder: Path | None = None, *, now: Now | None = None) -> None:
        self.folder = paths.home() / "models" if folder is None else folder
        self._now = now or (lambda: datetime.now(UTC))  # noqa: TID251 - files alone have no clock

    # --- versions --------------------------------------------------------------------------------

    def register(self, folder: Path, who: str, why: str) -> str:
        """Copy a bundle in and make it candidate; the same content again is the same version.

        Raises:
            BundleError: If it is damaged, or the registry cannot be written.
        """
        bundle = read_bundle(folder)
        version = bundle.version
        with self._changing() as aliases:
            target = self.folder / version
            if not target.exists():
                self._copy_in(bundle, target)
            read_bundle(target)
            self._set(aliases, None, {CANDIDATE: version}, who, why, None)
        return version

    def get(self, version: str) -> Bundle:
        """A version's bundle, every file checked against its hash.

        Raises:
            BundleError: If there is none of that version, or it is damaged or of another layout.
        """
        folder = self.folder / version
        if not _is_version(version) or not folder.is_dir():
            known = ", ".join(self.versions()) or "none"
            raise BundleError(f"there is no model {version!r} in {self.folder} (known: {known})")
        bundle = read_bundle(folder)
        if bundle.version != version:
            raise BundleError(f"{folder} holds version {bundle.version}: it was moved or altered")
        return bundle

    def versions(self) -> list[str]:
        """Registered versions, the oldest first."""
        if not self.folder.is_dir():
            return []
        found = [p for p in self.folder.iterdir() if p.is_dir() and _is_version(p.name)]
        return [p.name for p in sorted(found, key=lambda p: (p.stat().st_mtime_ns, p.name))]

    def _copy_in(self, bundle: Bundle, target: Path) -> None:
        hidden = self.folder / f".{bundle.version}.{uuid.uuid4().hex[:8]}.partial"
        try:
            hidden.mkdir()
            for name in (*bundle.manifest.files, "manifest.json"):
                (hidden / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bundle.path / name, hidden / name)
            hidden.rename(target)
        except OSError as error:
            raise BundleError(f"{target} cannot be written: {error.strerror or error}") from error
        finally:
            shutil.rmtree(hidden, ignore_errors=True)

    # --- aliases ---------------------------------------------------------------------------------

    def alias(self, company: int | None, name: Alias) -> str | None:
        """The version of a company's alias, or of the default where it has none of its own.

        Raises:
            BundleError: If ``aliases.json`` is damaged.
        """
        aliases = self._aliases()
        own = aliases.get(_key(company), {}).get(name)
        return own if own is not None else aliases.get(_key(None), {}).get(name)

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
        """
        self.get(version)
        with self._changing() as aliases:
            before = self.alias(company, "champion")
            if before == version:
                raise BundleError(f"model {version} is champion already")
            changes: dict[str, str | None] = {CHAMPION: version, PREVIOUS: before}
            if aliases.get(_key(company), {}).get(CANDIDATE) == version:
                changes[CANDIDATE] = None
            self._set(aliases, company, changes, who, why, gate_report)

    def rollback(self, who: str, why: str, company: int | None = None) -> str:
        """Exchange champion and previous; the version now champion.

        Raises:
            BundleError: If there is no previous version, or it is damaged.
        """
        with self._changing() as aliases:
            back, now = self.alias(company, "previous"), self.alias(company, "champion")
            if back is None:
                raise BundleError("there is no previous model to go back to")
            self.get(back)
            self._set(aliases, company, {CHAMPION: back, PREVIOUS: now}, who, why, None)
        return back

    def history(self, company: int | None = None) -> list[ModelEvent]:
        """Changes of a company's aliases and of the default's, the oldest first.

        Raises:
            BundleError: If a line of the log is damaged; naming it.
        """
        path = self.folder / "history.jsonl"
        if not path.is_file():
            return []
        events = []
        lines = path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            try:
                event = ModelEvent(**json.loads(line))
            except (ValueError, TypeError) as error:
                if number == len(lines):  # torn by a kill: its change never came into force
                    break
                raise BundleError(f"{path}:{number} is no event: {error}") from error
            if event.company_id in (None, company):
                events.append(event)
        return events

    # --- files -----------------------------------------------------------------------------------

    def _aliases(self) -> dict[str, dict[str, str]]:
        path = self.folder / "aliases.json"
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise BundleError(f"{path} cannot be read: {error}") from error
        if not isinstance(raw, dict) or not all(isinstance(v, dict) for v in raw.values()):
            raise BundleError(f"{path} is not as the registry writes it")
        return raw

    @contextmanager
    def _changing(self) -> Iterator[dict[str, dict[str, str]]]:
        """The aliases, while no other process changes them."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise BundleError(
                f"registry {self.folder} cannot be written: {error.strerror}"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield self._aliases()
        finally:
            os.close(lock)

    def _set(
        self,
        aliases: dict[str, dict[str, str]],
        company: int | None,
        changes: dict[str, str | None],
        who: str,
        why: str,
        gate_report: str | None,
    ) -> None:
        own = dict(aliases.get(_key(company), {}))
        at = self._now().astimezone(UTC).isoformat(timespec="seconds")
        events = []
        for name, version in changes.items():
            if own.get(name) == version:
                continue
            events.append(
                ModelEvent(at, who, why, company, name, own.get(name), version, gate_report)
            )
            if version is None:
                own.pop(name, None)
            else:
                own[name] = version
        try:
            self._log(events)
            _replace(self.folder / "aliases.json", {**aliases, _key(company): own})
        except OSError as error:
            raise BundleError(
                f"registry {self.folder} cannot be written: {error.strerror or error}"
            ) from error

    def _log(self, events: list[ModelEvent]) -> None:
        path = self.folder / "history.jsonl"
        with path.open("a+b") as file:
            if file.tell() > 0:  # a line torn by a kill must not swallow the next one
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    _drop_torn_line(path)
            for event in events:
                file.write(json.dumps(asdict(event)).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _drop_torn_line(path: Path) -> None:
    whole = path.read_bytes()
    os.truncate(path, whole.rfind(b"\n") + 1)


def _replace(path: Path, document: dict[str, Any]) -> None:
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(document, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _key(company: int | None) -> str:
    return "default" if company is None else str(company)


def _is_version(name: str) -> bool:
    return len(name) == 12 and all(c in "0123456789abcdef" for c in name)
