"""Does the environment work on this machine? PASS or FAIL per check, in under a minute."""

import time
from collections.abc import Callable, Sequence

import numpy as np
from gymnasium.utils.env_checker import check_env

from scripts.rl.command import FAILED, SUCCESS, command_parser, run, write_json
from services.rl.dispatch_env import DispatchEnv
from services.rl.simulation.engine import Engine
from services.rl.simulation.host import HostWorld
from services.rl.simulation.scenarios import load_scenario
from services.rl.simulation.types import DispatchState

EXAMPLES = """
test_env_quick.py
test_env_quick.py --json results/env_check.json
"""

VALIDATION_DAY = 1_000_000


def _random_day(env: DispatchEnv, day: int) -> tuple[list[float], dict[str, float]]:
    _, info = env.reset(seed=day)
    env.action_space.seed(day)
    rewards = []
    while True:
        action = env.action_space.sample(mask=info["action_mask"])
        _, reward, terminated, truncated, info = env.step(action)
        rewards.append(float(reward))
        if terminated or truncated:
            return rewards, info["kpis"]


def gymnasium_accepts_it() -> str:
    """Gymnasium's own checker."""
    for kind in ("compact", "full"):
        check_env(DispatchEnv(observation=kind), skip_render_check=True)
    return "check_env passes for both observations"


def spaces_have_the_roadmaps_sizes() -> str:
    """Sizes of observation and action space."""
    env = DispatchEnv(num_drivers=10, max_bookings=20, simulation_hours=8)
    shape, actions = env.observation_space.shape, int(env.action_space.n)
    assert shape == (122,) and actions == 201, (shape, actions)
    return "observation (122,), 201 actions"


def a_day_ends_and_adds_up() -> str:
    """Every due booking is either completed or unserved at the end."""
    _, kpis = _random_day(DispatchEnv(), VALIDATION_DAY)
    assert kpis["completed"] + kpis["unserved"] == kpis["bookings_due"], kpis
    return f"{kpis['completed']:.0f} completed + {kpis['unserved']:.0f} unserved = due"


def same_seed_same_day() -> str:
    """Determinism."""
    first, _ = _random_day(DispatchEnv(), VALIDATION_DAY + 1)
    second, _ = _random_day(DispatchEnv(), VALIDATION_DAY + 1)
    assert first == second
    other, _ = _random_day(DispatchEnv(), VALIDATION_DAY + 2)
    assert first != other
    return f"{len(first)} rewards identical, another seed differs"


def the_mask_tells_the_truth() -> str:
    """A masked action is refused and changes nothing."""
    env = DispatchEnv()
    before, info = env.reset(seed=VALIDATION_DAY)
    forbidden = int(np.flatnonzero(info["action_mask"] == 0)[0])
    after, reward, _, _, info = env.step(forbidden)
    assert info["invalid"] and float(reward) < 0
    assert np.array_equal(before, after)
    return f"action {forbidden} refused, penalised {float(reward):g}, state unchanged"


def the_backend_sees_what_the_learner_saw() -> str:
    """State to JSON and back gives the same observation, bit for bit."""
    scenario = load_scenario("geneva")
    engine = Engine(scenario, observation="full")
    engine.start([VALIDATION_DAY])
    host = HostWorld(scenario, observation="full")
    for _ in range(30):
        engine.wait(0)
        engine.observe(0)
        state = DispatchState.from_json(engine.state(0).to_json())
        observation, mask = host.observation(state)
        assert np.array_equal(observation, engine.out.observation[0])
        assert np.array_equal(mask, engine.out.mask[0])
    return "30 epochs identical"


def it_is_fast_enough() -> str:
    """Speed through the plain API (information, never a failure: machines differ)."""
    env = DispatchEnv()
    begin, steps = time.perf_counter(), 0
    while time.perf_counter() - begin < 1.0:
        rewards, _ = _random_day(env, VALIDATION_DAY + 10 + steps)
        steps += len(rewards)
    return f"{steps / (time.perf_counter() - begin):,.0f} steps/s"


CHECKS: tuple[Callable[[], str], ...] = (
    gymnasium_accepts_it,
    spaces_have_the_roadmaps_sizes,
    a_day_ends_and_adds_up,
    same_seed_same_day,
    the_mask_tells_the_truth,
    the_backend_sees_what_the_learner_saw,
    it_is_fast_enough,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks; exit 1 if one fails."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    arguments = parser.parse_args(argv)
    results = []
    if not arguments.quiet:
        print("Compiled code is loaded or made first: once per machine, about half a minute.")
    for check in CHECKS:
        begin = time.perf_counter()
        try:
            found, passed = check(), True
        except Exception as error:  # noqa: BLE001 - whatever breaks is this check's finding
            found, passed = f"{type(error).__name__}: {error}", False
        seconds = time.perf_counter() - begin
        name = check.__name__.replace("_", " ")
        results.append({"check": name, "passed": passed, "found": found, "seconds": seconds})
        if not arguments.quiet or not passed:
            print(f"{'PASS' if passed else 'FAIL'}  {name}: {found} ({seconds:.1f} s)", flush=True)
    failed = sum(not r["passed"] for r in results)
    if not arguments.quiet:
        print(f"{len(results) - failed} passed, {failed} failed")
    if arguments.json is not None:
        write_json(arguments.json, results)
    return FAILED if failed else SUCCESS


if __name__ == "__main__":
    run(main)
