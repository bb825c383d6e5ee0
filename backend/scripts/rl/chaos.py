"""Kill -9 at random moments while a company lives: nothing is lost, nothing is doubled.

A twin plays days on PostgreSQL, Redis (nothing of it survives a kill), the API under gunicorn and
Celery. Beside the workers a collector of its own runs again and again. At moments drawn over the
whole time one of API worker, Celery worker, collector and Redis is killed without a word. In the
end the experiences in Redis must be exactly those that SQL says, and the twin's books must add up.
Exits with 1 if not.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from scripts.rl.command import (
    command_parser,
    positive_int,
    provenance,
    run,
    seed_number,
    write_json,
)
from scripts.rl.impatient_app import IMPATIENT, LEASE_S
from scripts.rl.twin_site import Site, SitePlan, distributed
from services.learning.collector import collect
from services.learning.verification import verify
from services.rl.errors import AtmrError, UsageError
from services.rl.simulation.scenarios import load_scenario
from services.twin.accounts import Books, close_books
from services.twin.company import Habits
from services.twin.play import Script, play

EXAMPLES = """
chaos.py --kills 100 --days 7
chaos.py --kills 10 --days 1 --scenario geneva_small --seed 3
"""
VICTIMS: Final = ("api", "worker", "collector", "redis")
_VICTIMS_TRIED: Final = 20
_PAUSE_S: Final = 1.0  # between two runs of the collector: starting one takes a processor
_WITHIN_S: Final = 0.4
"""After a moment of the twin's time has come, the kill follows within so many real seconds."""


@dataclass
class Killer:
    """Kills one of the victims at each of its moments; a context.

    Args:
        site: Where they are.
        moments: Of the twin's time, ascending.
        seed: Of who is killed, and when exactly.

    Attributes:
        kills: By victim.
        missed: Kills whose victim was not there at that moment, by victim.
    """

    site: Site
    moments: Sequence[datetime]
    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)
        self._stop = threading.Event()
        self._collector: subprocess.Popen[bytes] | None = None
        self._threads = [
            threading.Thread(target=self._kill_all, name="killer", daemon=True),
            threading.Thread(target=self._collect_always, name="collector", daemon=True),
        ]
        self.trouble: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)

    def await_all(self, timeout_s: float = 60.0) -> None:
        """Wait until every moment that has come has had its kill."""
        deadline = time.monotonic() + timeout_s
        while self._threads[0].is_alive() and time.monotonic() < deadline:
            time.sleep(0.05)

    def _kill_all(self) -> None:
        for moment in self.moments:
            while self.site.clock.now() < moment and not self._stop.is_set():
                time.sleep(0.005)
            if self._stop.is_set():
                return
            time.sleep(float(self._random.random()) * _WITHIN_S)
            for _ in range(_VICTIMS_TRIED):  # whoever is just starting cannot be killed
                victim = VICTIMS[int(self._random.integers(len(VICTIMS)))]
                try:
                    done = getattr(self, f"_kill_{victim}")()
                except (OSError, RuntimeError, AtmrError) as error:
                    self.trouble.append(f"{victim}: {error}")
                    done = False
                (self.kills if done else self.missed)[victim] += 1
                if done:
                    break

    def _kill_api(self) -> bool:
        assert self.site.served is not None
        workers = self.site.served.workers()
        if not workers:  # the last kill's successor is not there yet
            return False
        os.kill(workers[int(self._random.integers(len(workers)))], signal.SIGKILL)
        return True

    def _kill_worker(self) -> bool:
        worker = self.site.workers[int(self._random.integers(len(self.site.workers)))]
        pids = worker.pids
        if not pids:
            return False
        if len(pids) > 1 and self._random.random() < 0.5:  # of the pool alone: Celery makes anew
            os.kill(pids[1], signal.SIGKILL)
            return True
        worker.kill()
        worker.start()
        return True

    def _kill_collector(self) -> bool:
        collector = self._collector
        deadline = time.monotonic() + 10.0
        while (collector is None or collector.poll() is not None) and time.monotonic() < deadline:
            time.sleep(0.01)
            collector = self._collector
        if collector is None or collector.poll() is not None:
            return False
        time.sleep(float(self._random.random()) * 4.0)  # somewhere in its run, imports included
        if collector.poll() is not None:
            return False
        collector.kill()
        return True

    def _kill_redis(self) -> bool:
        assert self.site.redis is not None
        self.site.redis.kill()
        self.site.redis.start()
        return True

    def _collect_always(self) -> None:
        environment = {**os.environ, **self.site.environment}
        script = Path(__file__).with_name("collect_experiences.py")
        while not self._stop.is_set():
            self._collector = subprocess.Popen(  # noqa: S603 - our own interpreter and script
                [sys.executable, str(script), "--quiet"],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            while self._collector.poll() is None and not self._stop.is_set():
                time.sleep(0.02)
            if self._collector.poll() is None:
                self._collector.kill()
            self._collector.wait()
            self._stop.wait(_PAUSE_S)


def main(argv: Sequence[str] | None = None) -> int:
    """Play and kill, compare, tell."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--kills", type=positive_int, default=100)
    parser.add_argument("--days", type=positive_int, default=7)
    parser.add_argument("--scenario", default="geneva_small")
    parser.add_argument("--first", default="2026-03-02", metavar="YYYY-MM-DD")
    parser.add_argument("--seed", type=seed_number, default=8_000_000)
    parser.add_argument("--database-url", metavar="URL", help="default: a PostgreSQL of its own")
    arguments = parser.parse_args(argv)
    try:
        first = date.fromisoformat(arguments.first)
    except ValueError:
        raise UsageError(f"--first {arguments.first!r} is no date such as 2026-03-02") from None
    scenario = load_scenario(arguments.scenario)
    entries = [entry for entry in IMPATIENT if entry.name in ("tick", "collection")]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="atmr-chaos-") as folder:
        plan = SitePlan(
            Path(folder), arguments.scenario, first, entries,
            database_url=arguments.database_url, application="scripts.rl.impatient_app:app",
            send_again_s=1.5, patience_s=3 * LEASE_S,
        )  # fmt: skip
        with distributed(plan, lambda _outcome: None) as site:
            company = site.company(1, Habits(told_late=0.1, never_told=0.02), arguments.seed)
            script = Script(scenario, first, arguments.days, arguments.seed)
            moments = _moments(site, arguments.days, arguments.kills, arguments.seed)
            with Killer(site, moments, arguments.seed) as killer:
                play(script, [company], site.clock, site.conductor, site.loop.config.zone)
                killer.await_all()
            _bring_home(site)
            verdict = verify(site.loop, 1)
            books = close_books(site.loop, [company])
    seconds = time.monotonic() - begun
    good = verdict.same and books.add_up and not killer.trouble
    result = {
        "provenance": provenance(),
        "seconds": round(seconds, 1),
        "kills": dict(killer.kills),
        "missed": dict(killer.missed),
        "trouble": killer.trouble,
        "experiences_in_redis": verdict.kept,
        "experiences_by_sql": verdict.expected,
        "same": verdict.same,
        "books": books.to_json(),
    }
    if arguments.json is not None:
        write_json(arguments.json, result)
    if not arguments.quiet:
        _tell(killer, verdict, books, seconds)
    return 0 if good else 1


def _moments(site: Site, days: int, kills: int, seed: int) -> list[datetime]:
    """Drawn over the operating hours of all days: at night there is little to be killed."""
    random = np.random.default_rng([seed, 1])
    rules = site.loop.scenario.rules
    start = site.clock.now().replace(microsecond=0) + timedelta(hours=2)  # the first midnight
    length = rules.horizon_min + rules.overtime_min
    return sorted(
        start
        + timedelta(days=int(random.integers(days)))
        + timedelta(minutes=rules.day_start_min - 25 + float(random.random()) * length)
        for _ in range(kills)
    )


def _bring_home(site: Site) -> None:
    """The last hour's reports; by this process, which nobody kills."""
    deadline = time.monotonic() + 60.0
    while True:
        try:
            collect(site.loop, 1)
            return
        except AtmrError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _tell(killer: Killer, verdict: Any, books: Books, seconds: float) -> None:
    killed = ", ".join(f"{count} {victim}" for victim, count in sorted(killer.kills.items()))
    missed = f" ({killer.missed.total()} found nobody to kill)" if killer.missed else ""
    print(f"{killer.kills.total()} kills in {seconds:.0f} s: {killed}{missed}")
    for why in killer.trouble:
        print(f"trouble: {why}")
    print(
        f"experiences in Redis {verdict.kept}, by SQL {verdict.expected}: "
        + ("the same" if verdict.same else "NOT THE SAME")
    )
    for name in ("missing", "unexpected", "different"):
        if getattr(verdict, name):
            print(f"  {name}: {', '.join(getattr(verdict, name))}")
    print(books.table())


if __name__ == "__main__":
    run(main)
