"""Celery's processes as the tests' own children."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from scripts.rl.served_app import BACKEND


class Child:
    """One worker or beat, in a process group of its own; a context."""

    def __init__(self, folder: Path, settings, *words: str, app="tests.tasks.fast_app:app") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.log = folder, folder / "log"
        self._command = [sys.executable, "-m", "celery", "-A", app, *words]
        self._environment = {
            **os.environ, "PYTHONPATH": str(BACKEND), "TMPDIR": str(folder), **settings
        }  # fmt: skip
        self._environment.pop("PROMETHEUS_MULTIPROC_DIR", None)
        self.process = None

    @property
    def pid(self):
        return self.process.pid

    def __enter__(self):
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self._command, env=self._environment, cwd=self.folder, stdout=output,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        return self

    def __exit__(self, *_):
        if self.process is not None:
            self.kill()  # whatever it is at: nothing here is lost by that

    def kill(self):
        """Kill -9 all of it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def pids(self):
        """Its process and its pool's, that live now."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        if not children.exists():
            return []
        return [self.pid, *(int(word) for word in children.read_text().split())]

    def said(self):
        return self.log.read_text(errors="replace")


def worker(folder, settings, *, queue="default", processes=2, **given):
    return Child(
        folder, settings, "worker", "--queues", queue, "--concurrency", str(processes),
        "--loglevel", "info", "--without-gossip", "--without-mingle",
        "--hostname", f"{folder.name}@tests", **given,
    )  # fmt: skip


def beat(folder, settings, **given):
    return Child(folder, settings, "beat", "--loglevel", "info", "--pidfile=", **given)


def wait_until(condition, seconds=90.0, what="it did not happen"):
    """The condition's value, once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(what() if callable(what) else what)
        time.sleep(0.1)
    return found
