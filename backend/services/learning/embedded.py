"""The whole schedule in one process, without a broker: `make loop`, the tick, a production twin.

The same entries, runs and bodies as with workers, so that both may go on at once: what one has
begun the other leaves alone. Ticks are done by the caller's thread. What may take longer has a
thread for each queue, so that dispatching goes on; training is in a process of its own, so that it
does so at full speed, and Torch stays out of this one.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from models.database_url import reason
from services.rl.errors import AtmrError

from .periods import TRAIN, Entry, Job
from .running import Body, Outcome, carry_out, due
from .training_process import TrainingProcess
from .workplace import Workplace

logger = logging.getLogger("atmr.tasks")

POLL_S: Final = 0.5
"""Between two looks at the clock."""


class Embedded:
    """Does what is due.

    Args:
        place: This process's.
        schedule: Entries, in the order in which they are looked for.
        bodies: By entry's name.
        in_background: Long tasks beside the caller's thread; else everything is done before
            `step` returns (a twin that moves the clock itself).
        apart: Training in a process of its own.
        stand_by_s: Ticks that somebody else has begun so soon are theirs; so long after an
            epoch's begin they are done here.
        on_outcome: Called after each job, from whichever thread.
    """

    def __init__(
        self,
        place: Workplace,
        schedule: Sequence[Entry],
        bodies: Mapping[str, Body],
        *,
        in_background: bool = True,
        apart: bool = True,
        stand_by_s: float = 0.0,
        on_outcome: Callable[[Outcome], None] | None = None,
    ) -> None:
        self.place = place
        self._schedule = tuple(schedule)
        self._bodies = bodies
        self._in_background = in_background
        self._apart = apart
        self._stand_by = timedelta(seconds=stand_by_s)
        self._on_outcome = on_outcome
        self._looked: dict[str, tuple[str, float]] = {}  # entry: period looked at, and when
        self._under_way: dict[str, Future[None]] = {}
        self._threads: dict[str, ThreadPoolExecutor] = {}
        self._stopping = threading.Event()
        self._training: TrainingProcess | None = None

    def step(self, *, whatever: bool = False) -> list[Outcome]:
        """Do, or set going, what is due now.

        Args:
            whatever: Also entries that were looked at a moment ago.

        Returns:
            What was done by this call itself.

        Raises:
            SQLAlchemyError: If the database does not tell what is due.
        """
        outcomes: list[Outcome] = []
        for entry in self._schedule:
            if self._stopping.is_set():
                break
            if not (whatever or self._is_time(entry)):
                continue
            jobs = [job for job in due(self.place, entry) if not self._left_to_others(job)]
            self._looked[entry.name] = (self._period(entry), time.monotonic())
            if not jobs:
                continue
            if self._in_background and not entry.skip_late:
                self._set_going(entry, jobs)
            else:
                outcomes += self._do(entry, jobs)
        return outcomes

    def run(
        self,
        *,
        stop: threading.Event | None = None,
        alive: Callable[[], None] | None = None,
        on_trouble: Callable[[str], None] | None = None,
    ) -> None:
        """Go on until told to stop; then what is under way is ended.

        Args:
            stop: Ends it; default: Ctrl-C alone.
            alive: Called after each round that looked at the database.
            on_trouble: Told why a round could not be.
        """
        stop = stop or threading.Event()
        try:
            while not stop.is_set():
                try:
                    self.step()
                    if alive is not None:
                        alive()
                except (SQLAlchemyError, AtmrError) as error:
                    told = reason(error) if isinstance(error, SQLAlchemyError) else str(error)
                    logger.error("this round was lost: %s", told)
                    if on_trouble is not None:
                        on_trouble(told)
                stop.wait(POLL_S)
        finally:
            self.close()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for what is under way in the background; whether it ended."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        for future in list(self._under_way.values()):
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                future.result(left)
            except TimeoutError:
                return False
        return True

    def close(self) -> None:
        """End what is under way: a training is ended at once, and begun again another time."""
        self._stopping.set()
        training = self._training
        if training is not None:
            training.end()
        for pool in self._threads.values():
            pool.shutdown(wait=True, cancel_futures=True)

    # --- one entry ---------------------------------------------------------------------------

    def _is_time(self, entry: Entry) -> bool:
        """A new period, or long enough after the last look (others may have failed meanwhile)."""
        under_way = self._under_way.get(entry.name)
        if under_way is not None and not under_way.done():
            return False
        period, at = self._looked.get(entry.name, ("", -1e9))
        return period != self._period(entry) or time.monotonic() - at >= entry.look_s

    def _period(self, entry: Entry) -> str:
        return entry.period_key(self.place.loop.clock.now(), self.place.calendar)

    def _left_to_others(self, job: Job) -> bool:
        return job.entry.skip_late and (
            self.place.loop.clock.now() < job.period.begin + self._stand_by
        )

    def _set_going(self, entry: Entry, jobs: list[Job]) -> None:
        if entry.queue not in self._threads:
            self._threads[entry.queue] = ThreadPoolExecutor(
                1, thread_name_prefix=f"queue-{entry.queue}"
            )
        self._under_way[entry.name] = self._threads[entry.queue].submit(self._all, entry, jobs)

    def _all(self, entry: Entry, jobs: list[Job]) -> None:
        try:
            self._do(entry, jobs)
        except SQLAlchemyError as error:  # still due: the next look finds it
            logger.error("%s waits for the database: %s", entry.name, reason(error))

    def _do(self, entry: Entry, jobs: list[Job]) -> list[Outcome]:
        outcomes = []
        for job in jobs:
            if self._stopping.is_set():
                break
            outcome = carry_out(self.place, job, self._body(entry))
            outcomes.append(outcome)
            if self._on_outcome is not None:
                self._on_outcome(outcome)
        return outcomes

    def _body(self, entry: Entry) -> Body:
        body = self._bodies[entry.name]
        if not (self._apart and entry.queue == TRAIN):
            return body
        self._training = TrainingProcess(body)
        return self._training
