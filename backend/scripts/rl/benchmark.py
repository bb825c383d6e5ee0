"""Speed of simulator, learning, decisions, the API (http), collection; quality of decisions.

env: environment steps per second, and how the cost grows. A step includes drawing a random valid
action, masks, observation, and the sampling of the next day where one ends.
training: beside other libraries, see `training_benchmark`. It needs stable-baselines3 and
sb3-contrib (requirements-dev.txt).
quality: every number of the quality tables, see `benchmark.py quality --help`.
inference: decisions as served, and networks by backend, see `benchmark.py inference --help`.
http: the API under a constant load, see `benchmark.py http --help`.
collection: from the log into the replay store, see `benchmark.py collection --help`.
Speeds are those of one thread; processor time, so that a busy machine disturbs it little.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from scripts.rl.command import (
    command_parser,
    positive_float,
    positive_int,
    provenance,
    run,
    write_json,
)
from services.rl.dispatch_env import DispatchEnv
from services.rl.policies.registry import make_policy
from services.rl.simulation.engine import Engine
from services.rl.simulation.observation import ObservationKind
from services.rl.simulation.scenarios import Scenario, load_scenario
from services.rl.simulation.stepping import random_valid_actions

EXAMPLES = """
benchmark.py env
benchmark.py env --seconds 5 --json results/bench.json
benchmark.py training
benchmark.py training --turns 20 --limit 300 --json results/training_bench.json
benchmark.py training --rows sb3,ours --limit 0
benchmark.py quality --models results --name quality
benchmark.py inference --pair results/first/checkpoints/best
benchmark.py http --seconds 600 --json results/http.json
benchmark.py collection --decisions 1000000
"""

PREDECESSOR_STEPS_PER_S = (9_000, 13_000)  # its environment as published, one environment


def vectorised(
    scenario: Scenario, max_bookings: int, observation: ObservationKind, num_envs: int,
    seconds: float,
) -> float:  # fmt: skip
    """Steps per second of E environments at once, autoreset on, random valid actions."""
    engine = Engine(scenario, num_envs, max_bookings=max_bookings, observation=observation)
    for env in range(num_envs):
        engine.seed_episodes(env, env)
    engine.start(np.arange(num_envs))
    random = np.arange(1, num_envs + 1).astype(np.uint64) * np.uint64(7919)
    actions = np.zeros(num_envs, dtype=np.int64)

    def step() -> None:
        random_valid_actions(engine.out.mask, random, actions)
        engine.step(actions, autoreset=True)

    warm_up = 40 * scenario.num_epochs  # spread the environments over the day
    return num_envs * _rate(step, seconds, warm_up if num_envs > 1 else 100)


def single(environment: Any, seconds: float) -> float:
    """Steps per second through the Gymnasium API, masks drawn with the action space."""
    _, info = environment.reset(seed=0)
    environment.action_space.seed(0)
    state = {"info": info}

    def step() -> None:
        action = environment.action_space.sample(mask=state["info"]["action_mask"])
        _, _, terminated, truncated, state["info"] = environment.step(action)
        if terminated or truncated:
            _, state["info"] = environment.reset()

    return _rate(step, seconds, 200)


def days_per_second(scenario: Scenario, num_days: int) -> float:
    """Whole days per second under ``nearest``, sampling included."""
    policy = make_policy("nearest", scenario)
    engine = Engine(scenario, num_days)

    def play() -> None:
        engine.start(np.arange(num_days))
        policy.play(engine)  # type: ignore[attr-defined]

    play()
    begin = time.thread_time()
    play()
    return num_days / (time.thread_time() - begin)


def _rate(step: Callable[[], None], seconds: float, warm_up: int) -> float:
    for _ in range(warm_up):
        step()
    rates = []
    for _ in range(3):  # the median of three: a shared machine has its moments
        begin, count = time.thread_time(), 0
        while time.thread_time() - begin < seconds / 3:
            for _ in range(20):
                step()
            count += 20
        rates.append(count / (time.thread_time() - begin))
    return float(np.median(rates))


def training(arguments: argparse.Namespace) -> int:
    """Measure learning and print."""
    # Torch and the other libraries take seconds to load: not for the simulator.
    from scripts.rl.training_benchmark import measure

    say = (lambda *_: None) if arguments.quiet else print
    result = measure(
        None if arguments.rows is None else arguments.rows.split(","),
        seconds=arguments.seconds or 1.0,
        turns=arguments.turns,
        limit_s=arguments.limit,
        margin=arguments.margin,
        say=say,
    )
    if arguments.json is not None:
        write_json(arguments.json, {**result, **provenance()})
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["quality"]:  # it has options of its own
        from scripts.rl.quality_benchmark import main as quality

        return quality(given[1:])
    if given[:1] == ["inference"]:
        from scripts.rl.inference_benchmark import main as inference

        return inference(given[1:])
    if given[:1] == ["http"]:
        from scripts.rl.http_benchmark import main as http

        return http(given[1:])
    if given[:1] == ["collection"]:
        from scripts.rl.collection_benchmark import main as collection

        return collection(given[1:])
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument(
        "what", choices=["env", "training", "quality", "inference", "http", "collection"],
        help="simulator, learning; the others (as first word) have options of their own",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=positive_float, help="per row (default 3; training: 1 per slice)"
    )
    learning = parser.add_argument_group("training")
    learning.add_argument("--rows", help="which, by comma (default all)")
    learning.add_argument(
        "--turns", type=positive_int, default=12, help="slices per row (default 12)"
    )
    learning.add_argument(
        "--limit", type=float, default=180.0, metavar="S",
        help="processor time for the race to a fixed score, per row; 0: no race (default 180)",
    )  # fmt: skip
    learning.add_argument(
        "--margin", type=float, default=480.0,
        help="the fixed score lies this far below that of `nearest` (default 480: about half-way "
        "from `random`)",
    )  # fmt: skip
    arguments = parser.parse_args(given)
    if arguments.what in ("quality", "inference", "http", "collection"):
        parser.error(f"put {arguments.what!r} first: benchmark.py {arguments.what} ...")
    if arguments.what == "training":
        return training(arguments)
    arguments.seconds = arguments.seconds or 3.0
    machine = provenance()["machine"]
    say = (lambda *_: None) if arguments.quiet else print
    say(f"{machine['processor']}, {machine['cpus']} CPUs, Python {machine['python']}; one thread")
    geneva = load_scenario("geneva")
    rows: list[dict[str, Any]] = []

    def report(name: str, rate: float, **more: Any) -> None:
        rows.append({"name": name, "steps_per_s": rate, **more})
        say(f"{name:58s} {rate:12,.0f} steps/s  {1e6 / rate:8.2f} us/step")

    for kind in ("compact", "full"):
        for num_envs in (16, 64):
            rate = vectorised(geneva, 20, kind, num_envs, arguments.seconds)
            report(f"vectorised, 10 x 20, {kind}, {num_envs} environments", rate)
    for kind in ("compact", "full"):
        env = DispatchEnv(num_drivers=10, max_bookings=20, simulation_hours=8, observation=kind)
        report(f"DispatchEnv, 10 x 20, {kind}", single(env, arguments.seconds))
    made = gym.make("atmr/Dispatch-v1", num_drivers=10, max_bookings=20, simulation_hours=8)
    report("gymnasium.make, 10 x 20, compact (with its checkers)", single(made, arguments.seconds))
    for drivers, bookings in ((10, 20), (50, 100), (200, 500)):
        scenario = geneva.resized(num_drivers=drivers)
        for kind in ("compact", "full"):
            rate = vectorised(scenario, bookings, kind, 4, arguments.seconds)
            pairs = drivers * bookings
            report(f"growth, {drivers} x {bookings}, {kind}, 4 environments", rate, pairs=pairs)
            say(f"{'':58s} {1e9 / rate / pairs:12.1f} ns per step and pair")
    for num_days in (10, 100, 1000):
        rate = days_per_second(geneva, num_days)
        rows.append({"name": f"days, nearest, {num_days}", "days_per_s": rate})
        say(f"{f'whole days under nearest, {num_days} at once':58s} {rate:12,.0f} days/s")
    low, high = PREDECESSOR_STEPS_PER_S
    say(f"The predecessor's environment, as published: {low:,} to {high:,} steps/s.")
    if arguments.json is not None:
        write_json(arguments.json, {"rows": rows, **provenance()})
    return 0


if __name__ == "__main__":
    run(main)
