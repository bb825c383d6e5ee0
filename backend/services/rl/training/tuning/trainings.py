"""Trainings of a confirmation: one folder each, by what is trained, never repeated.

A folder's name carries the hash of everything that decides what comes out: world, days, code,
budget, values and seed. What was trained on something else has another folder, so that nothing old
is taken for new, and nothing is gone on with that began otherwise.
"""

import json
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, Final

from services.rl.errors import TrainingError

from ..evolution_run import write_document
from .objective import Objective
from .search_space import document_sha256
from .study import code_sha256
from .worker import Order, folder_of

DONE_FILE: Final = "done.json"


@dataclass(frozen=True)
class Job:
    """One training, as processes hand it to each other.

    Attributes:
        order: Of the study.
        mode: Budget.
        steps: See `objective_of`.
        candidate: Its name.
        values: Its fields.
        seed: Of the training.
        days: Hash of the real days there are; empty where days are sampled.
    """

    order: Order
    mode: str
    steps: int | None
    candidate: str
    values: dict[str, Any]
    seed: int
    days: str = ""

    def objective(self) -> Objective:
        """What is trained, at this budget."""
        return replace(self.order, mode=self.mode, steps=self.steps).setup().objective

    def mark(self) -> str:
        """SHA-256 of all that decides what comes out."""
        objective = self.objective()
        return document_sha256(
            [
                self.order.policy,
                self.order.scenario.sha256,
                self.days,
                objective.identity(),
                sorted(self.values.items()),
                self.seed,
                code_sha256(),
            ]
        )

    def folder(self) -> Path:
        """Where it is trained."""
        name = f"{self.candidate}-seed_{self.seed}-{self.mark()[:12]}"
        return folder_of(self.order.name) / "confirm" / name

    @property
    def model(self) -> Path:
        """The best model of the training."""
        return self.folder() / "checkpoints" / "best"

    def is_done(self) -> bool:
        """Whether it has been trained to the end."""
        try:
            done = json.loads((self.folder() / DONE_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(done, dict) and done.get("job") == self.mark()


def train_all(
    jobs: Sequence[Job], workers: int, say: Callable[[str], None]
) -> dict[tuple[str, int], str]:
    """Train what is not done yet.

    Returns:
        Why trainings failed, by candidate and seed; a later call tries them again.

    Raises:
        KeyboardInterrupt: If interrupted; what is finished stays.
    """
    left = [job for job in jobs if not job.is_done()]
    say(f"{len(jobs)} trainings, {len(jobs) - len(left)} of them done before")
    failed: dict[tuple[str, int], str] = {}

    def note(job: Job, reason: str) -> None:
        if reason:
            failed[job.candidate, job.seed] = reason
        say(f"{job.candidate}, seed {job.seed}: {f'failed: {reason}' if reason else 'trained'}")

    if workers <= 1 or len(left) <= 1:
        for job in left:
            note(job, train(job))
        return failed
    pool = ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_end_with_the_command
    )
    with pool:
        futures = {pool.submit(train, job): job for job in left}
        try:
            for future in as_completed(futures):
                note(futures[future], future.result())
        except BaseException:
            for process in list((pool._processes or {}).values()):  # they save, and leave
                if process.pid is not None and process.is_alive():
                    os.kill(process.pid, signal.SIGINT)
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return failed


def _end_with_the_command() -> None:
    """In a pool's process: a training ends with the command that wants it, however that ends.

    It would hold its folder for minutes, and the command that goes on would be refused. Ctrl-C and
    SIGTERM reach it through its parent, once.
    """
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def wait() -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def train(job: Job) -> str:
    """One training; returns why it failed, or nothing."""
    folder = job.folder()
    try:
        job.objective().train(job.values, job.seed, folder)
    except TrainingError as error:
        return str(error)
    write_document(folder / DONE_FILE, {"job": job.mark()})
    return ""
