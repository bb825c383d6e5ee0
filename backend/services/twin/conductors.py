"""Who does the loop's tasks while the twin's clock moves: this process, or Celery's workers."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol

from sqlalchemy import select, tuple_
from sqlalchemy.exc import SQLAlchemyError

from models import TaskRun
from services.learning.embedded import Embedded
from services.learning.periods import TRAIN, Entry, Job
from services.learning.running import Body, Outcome, due
from services.learning.workplace import Workplace
from services.rl.errors import AtmrError

_ENDED: Final = ("done", "dead", "failed")
_POLL_S: Final = 0.01


class InThisProcess:
    """Every task is done before the clock moves on.

    Args:
        place: This process's.
        schedule: What is done when.
        bodies: What each entry does.
        on_outcome: Called after each task.
    """

    def __init__(
        self,
        place: Workplace,
        schedule: Sequence[Entry],
        bodies: Mapping[str, Body],
        on_outcome: Callable[[Outcome], None],
    ) -> None:
        self._embedded = Embedded(
            place, schedule, bodies, in_background=False, apart=True, on_outcome=on_outcome
        )

    def run_due(self, now: datetime) -> None:  # noqa: ARG002 - the clock tells
        """See `services.twin.play.Conductor`."""
        self._embedded.step(whatever=True)

    def close(self) -> None:
        """End what is under way."""
        self._embedded.close()


class SendsTask(Protocol):
    """Celery's app, as far as it is needed."""

    def send_task(self, name: str, **options: Any) -> Any:
        """Send a message."""
        ...


class ByWorkers:
    """The beat's place: what is due goes to Celery's workers, and the clock waits for them.

    A message may be lost with its broker: what was not begun is sent again. What does not end in
    time is left to the next look; nobody waits for ever.

    Args:
        place: Of this process: to see what is due.
        schedule: What is done when.
        celery: To send with.
        patience_s: Longest wait for ordinary tasks.
        training_s: Longest wait for a training.
        send_again_s: What has not begun by then is sent again.
    """

    def __init__(
        self,
        place: Workplace,
        schedule: Sequence[Entry],
        celery: SendsTask,
        *,
        patience_s: float = 30.0,
        training_s: float = 1800.0,
        send_again_s: float = 5.0,
    ) -> None:
        self._place = place
        self._schedule = schedule
        self._celery = celery
        self._patience_s = patience_s
        self._training_s = training_s
        self._send_again_s = send_again_s
        self.sent = 0
        self.not_awaited = 0

    def run_due(self, now: datetime) -> None:  # noqa: ARG002 - the clock tells
        """See `services.twin.play.Conductor`."""
        for entry in self._schedule:
            try:
                jobs = due(self._place, entry)
                if jobs:
                    self._through(entry, jobs)
            except (SQLAlchemyError, AtmrError, OSError):
                self.not_awaited += 1  # the database is away: the next look finds it due

    def _through(self, entry: Entry, jobs: list[Job]) -> None:
        patience = self._training_s if entry.queue == TRAIN else self._patience_s
        begun, sent_at = time.monotonic(), -1e9
        while time.monotonic() - begun < patience:
            states = self._states(entry, jobs)
            if all(states.get(job.key) in _ENDED for job in jobs):
                return
            if time.monotonic() - sent_at >= self._send_again_s:
                sent_at = time.monotonic()
                open_ = {job.key for job in due(self._place, entry)}  # lost ones too
                for job in jobs:
                    if job.key in open_:
                        self._send(entry, job)
            time.sleep(_POLL_S)
        self.not_awaited += 1

    def _send(self, entry: Entry, job: Job) -> None:
        try:
            self._celery.send_task(
                entry.task,
                kwargs={"company_id": job.company_id, "period": job.period.key},
                expires=entry.look_s,
                retry=False,
            )
            self.sent += 1
        except Exception:  # noqa: BLE001 - whatever a broker that is away makes of it: sent again
            self.not_awaited += 1

    def _states(self, entry: Entry, jobs: Sequence[Job]) -> dict[str, str]:
        keys = [(entry.name, job.key) for job in jobs]
        with self._place.loop.database.reading() as session:
            rows = session.execute(
                select(TaskRun.period_key, TaskRun.state).where(
                    tuple_(TaskRun.task, TaskRun.period_key).in_(keys)
                )
            )
            return {row.period_key: row.state for row in rows}
