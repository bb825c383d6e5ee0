"""A real PostgreSQL as the test session's own child: no system service, no fixed port.

Binaries come from the machine's packages, else from the ``pgserver`` wheel. They refuse to run
as root, so root runs them as an unprivileged user that exists on the machine.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

START_TIMEOUT_S = 60
_NAMES = ("initdb", "postgres", "pg_ctl")
_UNPRIVILEGED = ("postgres", "nobody")


def find_binaries() -> Path | None:
    """The folder with ``initdb``, ``postgres`` and ``pg_ctl``; None if there is none."""
    candidates = []
    if on_path := shutil.which("initdb"):
        candidates.append(Path(on_path).resolve().parent)
    packaged = Path("/usr/lib/postgresql")
    if packaged.is_dir():
        versions = sorted(packaged.iterdir(), key=lambda p: -int(p.name) if p.name.isdigit() else 0)
        candidates += [version / "bin" for version in versions]
    wheel = importlib.util.find_spec("pgserver")
    if wheel is not None and wheel.origin is not None:
        candidates.append(Path(wheel.origin).parent / "pginstall" / "bin")
    for folder in candidates:
        if all((folder / name).is_file() for name in _NAMES):
            return folder
    return None


@contextmanager
def running_server(binaries: Path, *, durable: bool = False) -> Iterator[str]:
    """Start a server on a Unix socket in a temporary folder; yield its psycopg URL.

    Stopped, and its folder removed, when the context ends.
    """
    with PostgresServer(binaries, durable=durable) as server:
        yield server.url


class PostgresServer:
    """A server on a Unix socket in a temporary folder, which can be stopped and started; a context.

    Args:
        binaries: See `find_binaries`.
        durable: Whether commits wait for the disk, as in production.

    Attributes:
        url: For psycopg.
    """

    def __init__(self, binaries: Path, *, durable: bool = False) -> None:
        # A short path: a socket's name may have 107 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="atmr-pg-"))
        self._binaries = binaries
        self._durable = durable
        self._user: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql+psycopg://atmr@/postgres?host={self._folder}"

    def __enter__(self) -> Self:
        """Make the cluster and start it."""
        try:
            self._user = _user(self._folder)
            self._binaries = _reachable(self._binaries, self._folder, self._user)
            subprocess.run(
                [
                    str(self._binaries / "initdb"),
                    *("-D", str(self._folder / "data"), "-U", "atmr", "-A", "trust"),
                    *("-E", "UTF8", "--no-sync"),
                ],
                check=True,
                capture_output=True,
                user=self._user,
                cwd=self._folder,
                env=_environment(),
                timeout=START_TIMEOUT_S,
            )
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it and remove its folder."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start the server on what its folder holds; returns when it answers."""
        log = self._folder / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [
                    str(self._binaries / "postgres"),
                    *("-D", str(self._folder / "data"), "-k", str(self._folder)),
                    *("-c", "listen_addresses=", "-c", f"fsync={'on' if self._durable else 'off'}"),
                    *("-c", "max_connections=40", "-c", "shared_buffers=32MB"),
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
                user=self._user,
                cwd=self._folder,
                env=_environment(),
            )
        _await_ready(self._process, self._folder, log)

    def stop(self) -> None:
        """Fast shutdown: connections are cut, transactions under way are rolled back."""
        if self._process is not None:
            _stop(self._process)
            self._process = None


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C", "TZ": "UTC"}


def _user(folder: Path) -> int | None:
    """Hand the folder to an unprivileged user if we are root; None: stay who we are."""
    if os.geteuid() != 0:
        return None
    for name in _UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        return entry.pw_uid
    raise RuntimeError(f"as root, PostgreSQL needs one of the users {_UNPRIVILEGED}")


def _reachable(binaries: Path, folder: Path, user: int | None) -> Path:
    """The binaries, copied if they lie where the unprivileged user may not look."""
    if user is None:
        return binaries
    probe = subprocess.run(
        [str(binaries / "postgres"), "--version"], user=user, cwd=folder, capture_output=True
    ) if _visible(binaries) else None  # fmt: skip
    if probe is not None and probe.returncode == 0:
        return binaries
    # <package>/pginstall/bin, with the wheel's shared libraries in <package>.libs beside it.
    install, package = binaries.parent, binaries.parent.parent
    copy = folder / package.name / install.name
    shutil.copytree(install, copy, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755)
    return copy / "bin"


def _visible(path: Path) -> bool:
    """Whether others may enter every folder down to ``path``."""
    return all(parent.stat().st_mode & 0o001 for parent in (path, *path.parents))


def _await_ready(process: subprocess.Popen[bytes], folder: Path, log: Path) -> None:
    import time

    import psycopg

    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"PostgreSQL ended while starting:\n{log.read_text()}")
        try:
            psycopg.connect(host=str(folder), user="atmr", dbname="postgres").close()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Fast shutdown of our own child; killed if it will not."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
