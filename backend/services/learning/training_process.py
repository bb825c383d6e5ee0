"""Training as a process of its own, for a process that must go on dispatching meanwhile.

    python -m services.learning.training_process JOB

The job comes as a file, the result goes back as one; settings, which hold passwords, go through the
environment.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, time
from pathlib import Path
from time import sleep
from typing import Any, Final

from pydantic import SecretStr

from clock import FileClock, FixedClock, SystemClock
from config import Config
from services.rl.data.memory_replay import MemoryReplayStore
from services.rl.errors import AtmrError, TrainingError

from .loop import Loop, open_loop
from .periods import Daily, Entry, Every, Job, job_of
from .running import Body
from .task_runs import NotNowError
from .workplace import Workplace

BACKEND: Final = Path(__file__).resolve().parents[2]
ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Set to 1, they keep numerical libraries to one thread: processes share the cores already."""

_END_S: Final = 10.0
_TOLD: Final = 1_000
_LOOK_S: Final = 0.5
NOT_NOW: Final = 75
"""Exit code of a child that cannot do it now (EX_TEMPFAIL)."""


class TrainingProcess:
    """A body that does another in a child process.

    Args:
        body: A function of a module, which the child imports.
    """

    def __init__(self, body: Body) -> None:
        self._body = body
        self._child: subprocess.Popen[bytes] | None = None
        self._ended = threading.Event()

    def __call__(self, place: Workplace, job: Job) -> Mapping[str, Any]:
        """Do it; see `Body`.

        Raises:
            TrainingError: If it fails, or takes longer than the entry allows.
            NotNowError: If `end` was called, or another trains at the moment.
        """
        loop = place.loop
        limit_s = job.entry.limit_s(loop.config.train_minutes)
        with tempfile.TemporaryDirectory(prefix="atmr-training-") as name:
            folder = Path(name)
            self._describe(folder / "job.json", loop, job)
            environment = {
                **os.environ,
                **dict.fromkeys(ONE_THREAD, "1"),
                **environment_of(loop.config),
                "PYTHONPATH": str(BACKEND),
                "ATMR_HOME": str(loop.home),
            }
            with (folder / "log").open("wb") as log:
                self._child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    [sys.executable, "-m", __name__, str(folder / "job.json")],
                    cwd=BACKEND,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
                if self._ended.is_set():  # told so while it was starting
                    self.end()
                try:
                    code = self._child.wait(limit_s)
                except subprocess.TimeoutExpired:
                    self._kill()
                    raise TrainingError(f"it took longer than {limit_s / 60:.0f} minutes") from None
            if self._ended.is_set():
                raise NotNowError("stopped by a person")
            if code != 0:
                said = (folder / "log").read_text(errors="replace").strip()[-_TOLD:]
                if code == NOT_NOW:
                    raise NotNowError(said)
                raise TrainingError(f"the training process ended with {code}: {said}")
            result: dict[str, Any] = json.loads((folder / "result.json").read_text())
            return result

    def end(self) -> None:
        """End the child at once; it is begun again another time."""
        self._ended.set()
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(_END_S)
                return
            self._kill()

    def _kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def _describe(self, path: Path, loop: Loop, job: Job) -> None:
        # A clock that only this process has stands still in the child.
        known = isinstance(loop.clock, SystemClock | FileClock)
        entry = job.entry
        path.write_text(
            json.dumps(
                {
                    "body": f"{self._body.__module__}:{getattr(self._body, '__qualname__', '')}",
                    "name": entry.name,
                    "task": entry.task,
                    "daily": entry.cadence.at.isoformat()
                    if isinstance(entry.cadence, Daily)
                    else None,
                    "minutes": None if isinstance(entry.cadence, Daily) else entry.cadence.minutes,
                    "per_company": entry.per_company,
                    "key": job.key,
                    "now": None if known else loop.clock.now().isoformat(),
                    "parent": os.getpid(),
                }
            )
        )


def environment_of(config: Config) -> dict[str, str]:
    """Settings as the environment variables that give them."""
    found = {}
    for name in Config.model_fields:
        value = getattr(config, name)
        if value is not None:
            told = value.get_secret_value() if isinstance(value, SecretStr) else value
            found[f"ATMR_{name.upper()}"] = str(told)
    return found


def main(path: Path) -> None:
    """In the child: do the job that a file describes; its result lies beside it."""
    told = json.loads(path.read_text())
    threading.Thread(target=_end_with, args=(told["parent"],), daemon=True).start()
    module, _, name = told["body"].partition(":")
    body: Body = getattr(importlib.import_module(module), name)
    daily, now = told["daily"], told["now"]
    cadence = Every(told["minutes"]) if daily is None else Daily(time.fromisoformat(daily))
    entry = Entry(told["name"], told["task"], cadence, per_company=told["per_company"])
    clock = None if now is None else FixedClock(datetime.fromisoformat(now))
    with open_loop(Config.from_environment(), clock=clock) as loop:
        place = Workplace(loop)
        job = job_of(entry, told["key"], place.calendar)
        if isinstance(loop.store, MemoryReplayStore) and job.company_id is not None:
            from .collector import rebuild

            rebuild(loop, job.company_id)  # this process's memory is empty; SQL has it all
        result = dict(body(place, job))
    hidden = path.with_name(".result")
    hidden.write_text(json.dumps(result, allow_nan=False))
    hidden.replace(path.with_name("result.json"))


def _end_with(parent: int) -> None:
    """End this process when its parent is gone: nobody would take what it makes."""
    while os.getppid() == parent:
        sleep(_LOOK_S)
    os._exit(NOT_NOW)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except NotNowError as error:
        print(error)  # noqa: T201 - into the parent's file
        sys.exit(NOT_NOW)
    except AtmrError as error:
        sys.exit(f"{error}")
