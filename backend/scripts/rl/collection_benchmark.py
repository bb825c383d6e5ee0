"""Throughput of collection: decisions per second from PostgreSQL into the replay store, and memory.

A company's log is written by plain inserts: ten drivers, ten open bookings, an epoch every five
minutes that assigns one booking and defers nine; every booking is brought. Then one collector
fills an empty store with all of it, in a process of its own, and once more over its hourly window.
"""

import json
import multiprocessing
import resource
import sys
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from typing import Any, Final

import numpy as np
from sqlalchemy import Connection, insert

from clock import FixedClock
from config import Config
from extensions import Database
from models import Assignment, Base, Booking, Decision, Driver, FleetSnapshot
from scripts.rl.command import (
    command_parser,
    positive_int,
    provenance,
    run,
    seed_number,
    write_json,
)
from services.dispatching.operating_day import day_of
from services.learning.collector import collect, rebuild
from services.learning.loop import Loop, open_loop
from services.rl.errors import UsageError
from services.rl.simulation.scenarios import Scenario, load_scenario
from services.rl.simulation.types import (
    STATE_BOOKING_DTYPE,
    STATE_DRIVER_DTYPE,
    STATE_SCHEMA,
    DispatchState,
)

EXAMPLES = """
benchmark.py collection
benchmark.py collection --decisions 1000000 --json results/collection.json
benchmark.py collection --database-url postgresql+psycopg://localhost/scratch
"""

COMPANY: Final = 1
DRIVERS: Final = 10
OPEN: Final = 10
_EPOCHS: Final = 96  # of a day of eight hours
_FIRST: Final = datetime(2024, 1, 8, tzinfo=UTC)
_BATCH: Final = 500  # epochs per transaction


def fill(
    database: Database, scenario: Scenario, epochs: int, config: Config, seed: int
) -> datetime:
    """Write a log of so many epochs; the moment after its last."""
    random = np.random.default_rng(seed)
    Base.metadata.create_all(database.engine)
    now = _FIRST
    with database.engine.begin() as connection:
        shifts = {"shift_start": time_of_day(8), "shift_end": time_of_day(16)}
        connection.execute(
            insert(Driver),
            [{"id": d + 1, "company_id": COMPANY, **shifts} for d in range(DRIVERS)],
        )
    for start in range(0, epochs, _BATCH):
        with database.engine.begin() as connection:
            for at, rows in _epochs(
                scenario, range(start, min(start + _BATCH, epochs)), config, random
            ):
                now = at
                _insert(connection, rows)
    return now + timedelta(hours=12)


Table = list[dict[str, Any]]


def _insert(connection: Connection, tables: dict[Any, Table]) -> None:
    for table, rows in tables.items():
        connection.execute(insert(table), rows)


def _epochs(
    scenario: Scenario, numbers: range, config: Config, random: np.random.Generator
) -> Iterator[tuple[datetime, dict[Any, Table]]]:
    """All rows of some epochs at once: booking n is assigned in epoch n, open since n - 9."""
    snapshots: Table = []
    decisions: Table = []
    bookings: Table = []
    assignments: Table = []
    at = _FIRST
    sha256 = scenario.sha256
    for n in numbers:
        day = day_of((_FIRST + timedelta(days=n // _EPOCHS)).date(), scenario.rules, config.zone)
        minute = 5.0 * (n % _EPOCHS)
        at = day.instant(minute)
        state = _state(scenario, sha256, n, minute, random)
        snapshots.append(
            {
                "id": n + 1, "company_id": COMPANY, "epoch_at": at, "now_min": minute,
                "day": day.date, "scenario_hash": sha256, "layout": 1, "schema": STATE_SCHEMA,
                "num_drivers": DRIVERS, "num_bookings": OPEN,
                "payload": zlib.compress(state.to_json().encode()),
            }
        )  # fmt: skip
        promised = at + timedelta(minutes=20)
        booking = state.bookings[0]
        places = {name: float(booking[name]) for name in (
            "pickup_lat", "pickup_lon", "dropoff_lat", "dropoff_lon")}  # fmt: skip
        bookings.append(
            {
                "id": n + 1, "company_id": COMPANY, **places, "scheduled_time": promised,
                "created_at": at - timedelta(hours=1), "status": "COMPLETED", "priority": 3,
                "is_urgent": False, "wheelchair_need": False, "is_return": False,
            }
        )  # fmt: skip
        pickup = promised + timedelta(minutes=float(random.uniform(-5, 25)))
        assignments.append(
            {
                "id": n + 1, "booking_id": n + 1, "driver_id": n % DRIVERS + 1, "assigned_at": at,
                "status": "COMPLETED", "actual_pickup_at": pickup,
                "actual_dropoff_at": pickup + timedelta(minutes=20),
            }
        )  # fmt: skip
        for seq in range(OPEN):
            decisions.append(_decision(n, seq, at, minute))
    yield at, {
        FleetSnapshot: snapshots, Booking: bookings, Assignment: assignments, Decision: decisions,
    }  # fmt: skip


def _decision(n: int, seq: int, at: datetime, minute: float) -> dict[str, Any]:
    assigns = seq == 0
    plan = {
        "depart_min": minute + 8.0, "pickup_min": minute + 20.0, "late_min": 0.0,
        "wait_min": 0.0, "deadhead_km": 4.2, "drive_min": 12.0,
    }  # fmt: skip
    return {
        "id": uuid.uuid4().hex, "snapshot_id": n + 1, "seq": seq, "company_id": COMPANY,
        "booking_id": n + seq + 1, "driver_id": n % DRIVERS + 1 if assigns else None,
        "action": "assign" if assigns else "defer", "k": 1, "propensity": 1.0, "arm": "heuristic",
        "unit": f"b:{n + seq + 1}", "model": None, "layout": 1, "score": 1.5,
        "features": plan if assigns else {"deadhead_km": 4.2, "gain": 1.25}, "latency_ms": 1.2,
        "decided_at": at, "shadow": False, "source": "policy",
    }  # fmt: skip


def _state(
    scenario: Scenario, sha256: str, n: int, minute: float, random: np.random.Generator
) -> DispatchState:
    base = scenario.place.base
    drivers = np.zeros(DRIVERS, dtype=STATE_DRIVER_DTYPE)
    drivers["lat"] = base.lat + random.normal(0, 0.02, DRIVERS)
    drivers["lon"] = base.lon + random.normal(0, 0.02, DRIVERS)
    drivers["zone"] = -1
    drivers["free_at_min"] = minute + random.uniform(0, 30, DRIVERS)
    drivers["shift_end_min"] = 480.0
    bookings = np.zeros(OPEN, dtype=STATE_BOOKING_DTYPE)
    for place in ("pickup", "dropoff"):
        bookings[f"{place}_lat"] = base.lat + random.normal(0, 0.03, OPEN)
        bookings[f"{place}_lon"] = base.lon + random.normal(0, 0.03, OPEN)
        bookings[f"{place}_zone"] = -1
        bookings[f"{place}_service_min"] = 7.0
    bookings["created_min"] = minute - 60.0
    bookings["promised_min"] = minute + 20.0 + 5.0 * np.arange(OPEN)
    bookings["window_end_min"] = bookings["promised_min"] + 15.0
    bookings["priority"] = 3
    bookings["fare"] = np.nan
    return DispatchState(
        now_min=minute,
        driver_ids=tuple(str(d + 1) for d in range(DRIVERS)),
        drivers=drivers,
        booking_ids=tuple(str(n + b + 1) for b in range(OPEN)),
        bookings=bookings,
        scenario=scenario.name,
        scenario_hash=sha256,
        extra={"stretched": [], "own_priority": {}, "own_window_end_min": {}},
    )


def measure(database_url: str, replay_url: str | None, moment: datetime, out: Any) -> None:
    """Collect in this process, and send what it took."""
    config = Config(database_url=database_url, replay_url=replay_url, scenario="geneva")  # type: ignore[arg-type]
    with open_loop(config, clock=FixedClock(moment)) as loop:
        before_mib = _peak_mib()
        began_s = time.process_time()
        whole = rebuild(loop, COMPANY)
        cpu_s = time.process_time() - began_s
        window = _again(loop)
        out.send(
            {
                "decisions": whole.decisions,
                "experiences": whole.experiences,
                "seconds": whole.seconds,
                "cpu_s": cpu_s,
                "decisions_per_s": whole.decisions / whole.seconds,
                "kept": whole.kept,
                "before_mib": before_mib,
                "peak_mib": _peak_mib(),
                "window": window,
            }
        )


def _again(loop: Loop) -> dict[str, float]:
    report = collect(loop, COMPANY)
    return {"decisions": report.decisions, "seconds": report.seconds}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


def main(argv: Sequence[str] | None = None) -> int:
    """Fill, collect, print."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--decisions", type=positive_int, default=100_000)
    parser.add_argument(
        "--database-url", help="an empty PostgreSQL database; default: one is started"
    )
    parser.add_argument("--replay-url", help="a Redis; default: one is started where there is one")
    parser.add_argument(
        "--memory", action="store_true", help="keep experiences in memory: no Redis"
    )
    parser.add_argument("--seed", type=seed_number, default=0)
    arguments = parser.parse_args(argv)
    say = (lambda *_: None) if arguments.quiet else print
    with ExitStack() as stack:
        database_url = arguments.database_url or _started_postgres(stack)
        replay_url = arguments.replay_url
        if replay_url is None and not arguments.memory:
            replay_url = _started_redis(stack)
        config = Config(database_url=database_url, scenario="geneva")
        scenario = load_scenario("geneva")
        database = Database(database_url)
        epochs = max(1, arguments.decisions // OPEN)
        say(f"writing {epochs * OPEN:,} decisions of {epochs:,} epochs ...")
        moment = fill(database, scenario, epochs, config, arguments.seed)
        with database.engine.connect() as connection:  # a log that grew in production is analysed
            connection.exec_driver_sql("ANALYZE")
            connection.commit()
        database.dispose()
        receive, send = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("spawn").Process(
            target=measure, args=(database_url, replay_url, moment, send)
        )
        process.start()
        while process.is_alive() and not receive.poll(0.5):
            pass
        found = receive.recv() if receive.poll() else None
        process.join()
    if found is None:
        raise UsageError("the collecting process ended without a result: see its message")
    found["store"] = "memory" if replay_url is None else "redis"
    say(
        f"{found['decisions']:,} decisions, {found['experiences']:,} experiences into "
        f"{found['store']} ({found['kept']:,} kept): {found['seconds']:.1f} s, "
        f"{found['decisions_per_s']:,.0f} decisions/s "
        f"(processor {found['cpu_s']:.1f} s); memory {found['before_mib']:.0f} MiB before, "
        f"{found['peak_mib']:.0f} MiB at most"
    )
    window = found["window"]
    say(f"hourly window: {window['decisions']:,} decisions, {window['seconds']:.2f} s")
    if arguments.json is not None:
        write_json(arguments.json, {**found, **provenance()})
    else:
        say(json.dumps({"decisions_per_s": round(found["decisions_per_s"])}))
    return 0


def _started_postgres(stack: ExitStack) -> str:
    try:
        from tests.postgres_server import find_binaries, running_server
    except ImportError as error:
        raise UsageError("name a database: --database-url") from error
    binaries = find_binaries()
    if binaries is None:
        raise UsageError("there is no PostgreSQL on this machine: name one with --database-url")
    return stack.enter_context(running_server(binaries))


def _started_redis(stack: ExitStack) -> str | None:
    try:
        from tests.redis_server import RedisServer, find_redis
    except ImportError:
        return None
    program = find_redis()
    return None if program is None else stack.enter_context(RedisServer(program)).url


if __name__ == "__main__":
    run(main, sys.argv[1:])
