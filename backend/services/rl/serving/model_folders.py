"""Folders of model versions: ``<version>/`` under one folder, complete or absent, never changed.

Who uses which version is not kept here: see `services.rl.serving.registry`.
"""

import logging
import shutil
import uuid
from pathlib import Path

from services.rl import paths
from services.rl.errors import BundleError

from .bundle import Bundle, read_bundle

_LOG = logging.getLogger(__name__)


class ModelFolders:
    """Bundles by version; any number of processes may use them at once.

    Args:
        folder: Default ``<home>/models``.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = paths.home() / "models" if folder is None else folder

    def add(self, source: Path) -> Bundle:
        """Copy a bundle in; the same content again is the same version, and one folder.

        A version whose folder was damaged meanwhile gets a sound one: its content is its name.

        Raises:
            BundleError: If the bundle is damaged, or the folder cannot be written.
        """
        bundle = read_bundle(source)
        target = self.folder / bundle.version
        if self._holds(target, bundle.version):
            return read_bundle(target)
        hidden = self.folder / f".{bundle.version}.{uuid.uuid4().hex[:8]}.partial"
        try:
            hidden.mkdir(parents=True)
            for name in (*bundle.manifest.files, "manifest.json"):
                (hidden / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bundle.path / name, hidden / name)
            if target.exists():
                _LOG.warning("%s was damaged: a sound copy takes its place", target)
                target.rename(hidden.with_suffix(".damaged"))
            self._appear(hidden, target)
        except OSError as error:
            raise BundleError(f"{target} cannot be written: {error.strerror or error}") from error
        finally:
            for left in (hidden, hidden.with_suffix(".damaged")):
                shutil.rmtree(left, ignore_errors=True)
        return self.get(bundle.version)

    def get(self, version: str) -> Bundle:
        """A version's bundle, every file checked against its hash.

        Raises:
            BundleError: If there is none of that version, or it is damaged or of another layout.
        """
        folder = self.folder / version
        if not is_version(version) or not folder.is_dir():
            raise BundleError(f"there is no model {version!r} in {self.folder}")
        bundle = read_bundle(folder)
        if bundle.version != version:
            raise BundleError(f"{folder} holds version {bundle.version}: it was moved or altered")
        return bundle

    def versions(self) -> list[str]:
        """Versions that have a folder, the oldest folder first."""
        if not self.folder.is_dir():
            return []
        found = [p for p in self.folder.iterdir() if p.is_dir() and is_version(p.name)]
        return [p.name for p in sorted(found, key=lambda p: (p.stat().st_mtime_ns, p.name))]

    def _holds(self, target: Path, version: str) -> bool:
        try:
            return target.exists() and self.get(version) is not None
        except BundleError:
            return False

    def _appear(self, hidden: Path, target: Path) -> None:
        try:
            hidden.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another process was faster with the same content
                raise


def is_version(name: str) -> bool:
    """Whether this can be the name of a version: 12 hexadecimal digits."""
    return len(name) == 12 and all(c in "0123456789abcdef" for c in name)
