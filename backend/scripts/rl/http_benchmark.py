"""POST /dispatch over HTTP at a constant rate: latency, errors, who decided, memory, start.

The app runs under gunicorn as deployed, on the loopback, with a fresh database: SQLite, a
PostgreSQL that is started for the run, or one that is named. Companies have 10 drivers and about 20
open
bookings each; the learned arm decides. Requests leave by the clock (open loop); a request's time
counts from the moment it was meant to leave. What keeps the world as it is (a new booking for each
that got a driver, the outcome of each job) goes through the API too, in addition to the rate, and
is reported apart: jobs last --job-s seconds, so that queues neither fill nor empty.
Generator and server share the machine. Everything ends by itself.
"""

import argparse
import asyncio
import gc
import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
from sqlalchemy import create_engine, inspect

from clock import SystemClock
from extensions import Database
from scripts.rl.busy_companies import Company, draw_promise, draw_trip, fill, zone_of_day
from scripts.rl.command import command_parser, positive_float, positive_int, provenance, write_json
from scripts.rl.open_loop import Connections, Timed, at_rate
from scripts.rl.served_app import ServedApp, has_torch, processor_s, resident_mb
from services.model_registry import SqlRegistry
from services.rl import paths
from services.rl.errors import UsageError
from services.rl.serving.bundle import MATCHING, NETWORK, PLANNER, write_bundle
from services.rl.simulation.scenarios import Scenario, load_scenario

EXAMPLES = """
benchmark.py http
benchmark.py http --seconds 600 --json results/http.json
benchmark.py http --database postgresql --kind planner
benchmark.py http --model results/first/checkpoints/best
"""

_KEPT, _MOST = 16, 256  # connections: those of a caller's pool, and where all are busy
_PERCENTILES: Final = (50, 95, 99, 99.9)


class World:
    """The companies as the generator knows them; keeps about so many bookings open in each.

    Args:
        companies: As filled.
        connections: To the server.
        job_s: Seconds from an assignment to its outcome.
        seed: Of new bookings.
    """

    def __init__(
        self, companies: Sequence[Company], connections: Connections, job_s: float, seed: int
    ) -> None:
        self.companies = companies
        self.beside = Counter[str]()  # requests beside the rate, by what and status
        self.assigned = self.deferred = 0
        self.server_cpu_s = 0.0
        self._connections = connections
        self._job_s = job_s
        self._random = np.random.default_rng(seed)
        self._clock = SystemClock()
        self._chores: set[asyncio.Task[None]] = set()
        self._run = f"{time.time_ns():x}"
        self._asked = 0
        self._last: dict[int, int] = {}

    async def ask(self, i: int) -> int:
        """Ask about the company's booking that was asked about longest ago; the status."""
        company = self.companies[i % len(self.companies)]
        # None left (the server lags behind): the same again, as a caller without patience would.
        booking = company.open.pop(0) if company.open else self._last[company.company_id]
        self._last[company.company_id] = booking
        status, body = await self._connections.post(
            "/api/v1/dispatch", company.key, {"booking_id": booking}, f"{self._run}-{i}"
        )
        answer = json.loads(body) if status == 200 else {}
        if answer.get("action") == "assign":
            self.assigned += 1
            self._begin(self._book(company))
            self._begin(self._finish(company, answer["assignment_id"]))
        else:
            self.deferred += 1
            if booking not in company.open:
                company.open.append(booking)
        return status

    def _begin(self, chore: Any) -> None:
        task = asyncio.create_task(chore)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)

    async def _book(self, company: Company) -> None:
        trip = draw_trip(self._random, company.trips)
        body = {
            "pickup": {"lat": float(trip["pickup_lat"]), "lon": float(trip["pickup_lon"])},
            "dropoff": {"lat": float(trip["dropoff_lat"]), "lon": float(trip["dropoff_lon"])},
            "scheduled_time": draw_promise(self._random, self._clock.now()).isoformat(),
            "priority": int(trip["priority"]),
            "wheelchair_need": bool(trip["wheelchair"]),
        }
        status, answer = await self._post("/api/v1/bookings", company, body)
        self.beside[f"bookings {status}"] += 1
        if status == 201:
            company.open.append(json.loads(answer)["id"])

    async def _finish(self, company: Company, assignment: int) -> None:
        await asyncio.sleep(self._job_s * float(self._random.uniform(0.5, 1.5)))
        now = self._clock.now()
        body = {
            "outcome": "completed",
            "picked_up_at": (now - timedelta(seconds=1)).isoformat(),
            "at": now.isoformat(),
        }
        path = f"/api/v1/assignments/{assignment}/outcome"
        status, _ = await self._post(path, company, body)
        self.beside[f"outcomes {status}"] += 1

    async def _post(self, path: str, company: Company, body: Any) -> tuple[int, bytes]:
        self._asked += 1
        once = f"{self._run}-w{self._asked}"
        return await self._connections.post(path, company.key, body, once)

    async def end(self) -> None:
        """Leave jobs unfinished; wait for nothing."""
        for chore in list(self._chores):
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)


async def load(
    server: ServedApp, companies: Sequence[Company], arguments: argparse.Namespace
) -> tuple[Timed, World]:
    """Warm up for some seconds, then ask at the rate; see `at_rate`."""
    connections = Connections(server.host, server.port, kept=_KEPT, most=_MOST)
    world = World(companies, connections, arguments.job_s, arguments.seed)
    gc.collect()
    gc.disable()  # the generator's own pauses are not the server's
    try:
        await at_rate(arguments.rate, arguments.warm_up, world.ask)
        world.assigned = world.deferred = 0
        world.beside.clear()
        before = _processor_s(server)
        shift = round(arguments.rate * arguments.warm_up)
        timed = await at_rate(arguments.rate, arguments.seconds, lambda i: world.ask(i + shift))
        world.server_cpu_s = _processor_s(server) - before
    finally:
        gc.enable()
        await world.end()
        connections.close()
    return timed, world


def _processor_s(server: ServedApp) -> float:
    return sum(processor_s(pid) for pid in [server.pid, *server.workers()])


def counted(server: ServedApp) -> dict[str, dict[str, float]]:
    """Decisions by policy and arm, and fallbacks by reason, as ``/metrics`` tells them."""
    text = server.get("/metrics")[1].decode()
    decisions: Counter[str] = Counter()
    for labels, value in re.findall(r"^atmr_decisions_total\{([^}]*)\} (\S+)$", text, re.M):
        named = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        decisions[f"{named['policy']} ({named['arm']})"] += float(value)
    fallbacks = {
        reason: float(value)
        for reason, value in re.findall(
            r'^atmr_fallbacks_total\{reason="([^"]*)"\} (\S+)$', text, re.M
        )
    }
    return {"decisions": dict(decisions), "fallbacks": fallbacks}


def summary(timed: Timed, world: World) -> dict[str, Any]:
    """Latency and statuses."""
    took = np.array(timed.took_ms)
    slowest = np.argsort(took)[::-1][:10]
    return {
        "requests": len(took),
        "statuses": dict(Counter(str(status) for status in timed.statuses)),
        "ms": {f"p{p:g}": round(float(np.percentile(took, p)), 2) for p in _PERCENTILES}
        | {"max": round(float(took.max()), 2), "mean": round(float(took.mean()), 2)},
        "slowest": [[round(timed.due_s[i], 2), round(float(took[i]), 1)] for i in slowest],
        "server_cpu_ms": round(
            1e3 * world.server_cpu_s / (len(took) + sum(world.beside.values())), 2
        ),
        "assigned": world.assigned,
        "deferred": world.deferred,
        "beside": dict(world.beside),
        "open_bookings_at_the_end": sum(len(c.open) for c in world.companies),
    }


# --- what is served ----------------------------------------------------------------------------


def deploy(
    database: Database, home: Path, scenario: Scenario, arguments: argparse.Namespace
) -> str:
    """Register and promote the bundle; what it is, in words."""
    model, words = arguments.model, f"{arguments.kind}"
    if arguments.kind == NETWORK and model is None:
        model, words = _network(home, scenario)
    bundle = write_bundle(home / "bundle", arguments.kind, scenario, model=model, transfer=True)
    registry = SqlRegistry(database, SystemClock(), home)
    version = registry.register(bundle.path, "benchmark", "measured over HTTP")
    registry.promote(version, "benchmark", "measured over HTTP")
    return words


def _network(home: Path, scenario: Scenario) -> tuple[Path, str]:
    from scripts.rl.deploy_agent import best_model

    try:
        best = best_model(paths.results_dir(), scenario.name, NETWORK).folder
    except UsageError:
        from scripts.rl.inference_benchmark import seeded

        folder = seeded("PairQNetwork", home / "seeded")
        return folder, f"{NETWORK}, weights drawn from a seed"
    return best, f"{NETWORK}, {best}"


@contextmanager
def database_url(kind: str, folder: Path) -> Iterator[str]:
    """The database: ``sqlite``, ``postgresql`` (started here), or the URL of an empty one.

    Raises:
        UsageError: If there is no PostgreSQL on this machine, or the database named is not empty.
    """
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'atmr.sqlite'}"
    elif kind == "postgresql":
        from tests.postgres_server import find_binaries, running_server

        binaries = find_binaries()
        if binaries is None:
            raise UsageError("there is no PostgreSQL on this machine: name one by its URL")
        with running_server(binaries, durable=True) as url:
            yield url
    else:
        engine = create_engine(kind)
        tables = inspect(engine).get_table_names()
        engine.dispose()
        if tables:
            raise UsageError("the database named is not empty: the benchmark fills a fresh one")
        yield kind


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One run.

    Raises:
        AtmrError: If the server does not start, or nothing can be served.
    """
    scenario = load_scenario(arguments.scenario)
    now: datetime = SystemClock().now()
    with (
        tempfile.TemporaryDirectory(prefix="atmr-http-") as scratch,
        database_url(arguments.database, Path(scratch)) as url,
    ):
        folder = Path(scratch)
        database = Database(url)
        companies = fill(
            database, scenario, now, companies=arguments.companies, unit=arguments.unit,
            seed=arguments.seed,
        )  # fmt: skip
        words = deploy(database, folder, scenario, arguments)
        database.dispose()
        settings = {
            "ATMR_HOME": str(folder),
            "ATMR_DATABASE_URL": url,
            "ATMR_SCENARIO": arguments.scenario,
            "ATMR_TIMEZONE": zone_of_day(now, scenario),
        }
        with ServedApp(folder, settings, workers=arguments.workers):
            pass  # what is compiled at first use lies in its cache now
        with ServedApp(folder, settings, workers=arguments.workers) as server:
            timed, world = asyncio.run(load(server, companies, arguments))
            processes = [server.pid, *server.workers()]
            found = {
                "model": words,
                "database": url.split(":", 1)[0],
                "rate_per_s": arguments.rate,
                "seconds": arguments.seconds,
                "companies": arguments.companies,
                "workers": arguments.workers,
                "ready_s": round(server.ready_s, 2),
                "rss_mb": [round(resident_mb(pid), 1) for pid in processes],
                "torch_in": [pid for pid in processes if has_torch(pid)],
                **summary(timed, world),
                **counted(server),
            }
            if arguments.log is not None:
                arguments.log.write_bytes(server.log.read_bytes())
    return found


def table(found: dict[str, Any]) -> str:
    """The run as a table in Markdown."""
    ms = found["ms"]
    errors = {k: v for k, v in found["statuses"].items() if k != "200"}
    rows = [
        ("model", found["model"]),
        ("database", found["database"]),
        ("load", f"{found['rate_per_s']:g} requests/s for {found['seconds']:g} s, open loop"),
        ("p50 / p95 / p99 / p99.9 / max, ms",
         f"{ms['p50']} / {ms['p95']} / {ms['p99']} / {ms['p99.9']} / {ms['max']}"),
        ("server's processor time per request, ms", found["server_cpu_ms"]),
        ("errors", json.dumps(errors) if errors else f"none of {found['requests']}"),
        ("assigned / deferred", f"{found['assigned']} / {found['deferred']}"),
        ("decided by", _listed(found["decisions"])),
        ("fallbacks", _listed(found["fallbacks"]) or "none"),
        ("beside the rate", _listed(found["beside"])),
        ("start to ready, s", found["ready_s"]),
        ("RSS of master and workers, MB", " / ".join(str(mb) for mb in found["rss_mb"])),
        ("Torch imported", "yes" if found["torch_in"] else "no"),
    ]  # fmt: skip
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _listed(counts: dict[str, float]) -> str:
    return ", ".join(f"{name}: {value:g}" for name, value in sorted(counts.items()))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table in Markdown."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.prog = "benchmark.py http"
    parser.add_argument("--database", default="sqlite", metavar="sqlite|postgresql|URL")
    parser.add_argument("--kind", choices=(NETWORK, PLANNER, MATCHING), default=NETWORK)
    parser.add_argument(
        "--model", type=Path, metavar="DIR",
        help="a trained model's folder (default: the best under results/, else a seed's)",
    )  # fmt: skip
    parser.add_argument("--scenario", default="geneva", help="name or YAML file (default geneva)")
    parser.add_argument("--rate", type=positive_float, default=100.0, help="requests/s (100)")
    parser.add_argument("--seconds", type=positive_float, default=30.0, help="of load (30)")
    parser.add_argument("--warm-up", type=positive_float, default=5.0, help="before it (5)")
    parser.add_argument("--companies", type=positive_int, default=20)
    parser.add_argument("--workers", type=positive_int, default=2, help="processes (2)")
    parser.add_argument("--unit", choices=("booking", "company", "switchback"),
                        default="switchback", help="of the experiment")  # fmt: skip
    parser.add_argument("--job-s", type=positive_float, default=40.0, help="a job lasts (40)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, metavar="PATH", help="keep the server's log")
    arguments = parser.parse_args(argv)
    found = measure(arguments)
    if not arguments.quiet:
        print(table(found))
    if arguments.json is not None:
        write_json(arguments.json, {**found, **provenance()})
    return 0
