"""A Celery worker as our own child, for twins and tests; ended when the context ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from services.rl.errors import DataError

BACKEND: Final = Path(__file__).resolve().parents[2]


class CeleryWorker:
    """One worker with its pool; a context.

    Args:
        folder: Writable, for its log.
        settings: Environment variables, as for `scripts.rl.served_app.ServedApp`.
        queues: Which it takes from.
        concurrency: Processes of its pool.
        name: Of its log.
        application: What Celery imports.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, str],
        *,
        queues: str = "default",
        concurrency: int = 1,
        name: str = "worker",
        application: str = "celery_app:app",
    ) -> None:
        self.log = folder / f"{name}.log"
        self._environment = {**os.environ, "PYTHONPATH": str(BACKEND), **settings}
        self._command = [
            *(sys.executable, "-m", "celery", "-A", application, "worker"),
            *("--queues", queues, "--concurrency", str(concurrency)),
            *("--hostname", f"{name}@%h", "--loglevel", "INFO"),
            *("--without-gossip", "--without-mingle"),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self.stop()

    @property
    def pids(self) -> list[int]:
        """Of its main process and its pool."""
        if self._process is None:
            return []
        pid = self._process.pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            children = []
        return [pid, *map(int, children)]

    @property
    def alive(self) -> bool:
        """Whether its main process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; it takes tasks when it is ready for them."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and files
                self._command,
                env=self._environment,
                cwd=self.log.parent,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # killed with its pool
            )

    def await_ready(self, timeout_s: float = 120.0) -> None:
        """Wait until it has its broker.

        Raises:
            DataError: If it ends, or is not ready in time.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not self.alive:
                break
            if " ready." in self.log.read_text(errors="replace"):
                return
            time.sleep(0.05)
        lines = self.log.read_text(errors="replace").splitlines()[-15:]
        raise DataError("the worker is not ready:\n" + "\n".join(lines))

    def kill(self) -> None:
        """Kill it and its pool, without a word."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def stop(self, patience_s: float = 20.0) -> None:
        """End it; kill it if it will not."""
        if self._process is None:
            return
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_s)
        self.kill()
