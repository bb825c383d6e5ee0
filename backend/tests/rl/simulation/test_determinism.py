"""A seed means one day and one trajectory, wherever it is played."""

import numpy as np
import pytest

from services.rl.simulation import stepping, world
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import load_scenario

from .worlds import disturbed


def trajectory(scenario, day, num_envs, position, neighbours=100):
    """All that one environment shows while it plays a day, the others playing other days."""
    engine = Engine(scenario, num_envs, observation="full", max_bookings=8)
    engine.start(np.where(np.arange(num_envs) == position, day, neighbours + np.arange(num_envs)))
    random = np.arange(1, num_envs + 1, dtype=np.uint64) * np.uint64(7919)
    random[position] = np.uint64(424242)
    actions = np.zeros(num_envs, dtype=np.int64)
    seen = []
    while not engine.ended(position):
        stepping.random_valid_actions(engine.out.mask, random, actions)
        out = engine.step(actions)
        seen.append(
            out.observation[position].tobytes()
            + out.mask[position].tobytes()
            + out.terms[position].tobytes()
        )
    return seen, engine.kpis(position), engine.history(position).tobytes()


@pytest.mark.parametrize("make", [lambda: load_scenario("geneva"), disturbed])
def test_a_seed_is_one_trajectory_for_any_batch(make):
    scenario = make()
    alone = trajectory(scenario, 77, 1, 0)
    for num_envs, position in ((2, 0), (2, 1), (7, 3), (7, 6)):
        assert trajectory(scenario, 77, num_envs, position) == alone


def test_seeds_give_different_days():
    engine = Engine(load_scenario("geneva"), 3)
    engine.start([1, 2, 1])
    days = [engine.day(e).bookings.tobytes() for e in range(3)]
    assert days[0] == days[2] != days[1]


def test_disturbances_leave_the_bookings_as_they_were():
    calm, wild = Engine(load_scenario("geneva")), Engine(disturbed())
    calm.start([9])
    wild.start([9])
    a, b = calm.day().bookings, wild.day().bookings
    for name in a.dtype.names:
        if name not in ("deadhead_noise", "trip_noise", "no_show", "cancelled_min"):
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_autoreset_draws_the_same_days_for_the_same_seed():
    def days(num_envs, position):
        engine = Engine(load_scenario("geneva_small"), num_envs)
        for env in range(num_envs):
            engine.seed_episodes(env, 5 if env == position else 1000 + env)
        engine.start([engine.next_training_day(env) for env in range(num_envs)])
        drawn, wait = [int(engine.out.day[position])], np.zeros(num_envs, dtype=np.int64)
        while len(drawn) < 4:
            engine.step(wait, autoreset=True)
            if engine.out.terminated[position]:
                drawn.append(int(engine.out.day[position]))
        return drawn

    assert days(1, 0) == days(5, 3)
    assert len(set(days(1, 0))) == 4


def test_environments_that_nobody_seeded_still_draw_different_days():
    engine = Engine(load_scenario("geneva_small"), 6)
    assert len({engine.next_training_day(env) for env in range(6)}) == 6


def test_a_thousand_environments_play_at_once():
    engine = Engine(load_scenario("geneva_small"), 1000, max_bookings=5)
    engine.start(np.arange(1000))
    random = np.arange(1, 1001, dtype=np.uint64)
    actions = np.zeros(1000, dtype=np.int64)
    for _ in range(400):
        stepping.random_valid_actions(engine.out.mask, random, actions)
        engine.step(actions, autoreset=True)
    assert engine.world.counters[:, world.INVALID].sum() == 0
    assert np.isfinite(engine.out.observation).all()
