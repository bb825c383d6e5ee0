"""The Gymnasium environment of one day."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import services.rl.registration  # noqa: F401
from services.rl.dispatch_env import DispatchEnv
from services.rl.errors import ScenarioError, UsageError
from services.rl.simulation.reward import reward_sum
from services.rl.simulation.scenarios import load_scenario, save_scenario

from .worlds import disturbed, keep_busy, some_valid_action, wait_until


@pytest.mark.parametrize("observation", ["compact", "full"])
def test_gymnasium_finds_nothing_to_complain_about(observation: str) -> None:
    env = gymnasium.make("atmr/Dispatch-v1", observation=observation)
    check_env(env.unwrapped)  # warnings are errors here


def test_the_roadmaps_arguments_give_the_roadmaps_sizes() -> None:
    env = DispatchEnv(num_drivers=10, max_bookings=20, simulation_hours=8)
    assert env.observation_space.shape == (122,)
    assert env.action_space == gymnasium.spaces.Discrete(201)
    assert env.engine.scenario == load_scenario("geneva")


def test_a_scenario_keeps_its_own_fleet_and_hours_unless_told_otherwise() -> None:
    assert DispatchEnv(scenario="geneva_small").engine.num_drivers == 3
    resized = DispatchEnv(4, 6, 2.5, scenario="geneva_small", bookings_per_day=12).engine.scenario
    assert resized.fleet.num_drivers == 4
    assert resized.rules.horizon_min == 150
    assert resized.demand_model().bookings_mean == 12


def test_a_scenario_may_be_a_file(tmp_path: Path) -> None:
    save_scenario(disturbed(), tmp_path / "mine.yaml")
    assert DispatchEnv(scenario=tmp_path / "mine.yaml").engine.scenario == disturbed()


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_drivers": 0},
        {"num_drivers": -3},
        {"num_drivers": 2.5},
        {"num_drivers": True},
        {"max_bookings": 0},
        {"max_bookings": "20"},
        {"max_bookings": 10**9},
        {"simulation_hours": 0},
        {"simulation_hours": 25},
        {"simulation_hours": float("nan")},
        {"simulation_hours": "8"},
        {"bookings_per_day": -1},
        {"gamma": 0.0},
        {"gamma": 1.01},
        {"gamma": "0.9"},
        {"max_steps": 0},
        {"observation": "fulll"},
        {"reward_timing": "late"},
        {"render_mode": "human"},
        {"scenario": 7},
    ],
    ids=str,
)
def test_a_wrong_argument_is_named_in_one_sentence(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(UsageError, match=name) as error:
        DispatchEnv(**wrong)
    assert "\n" not in str(error.value)


def test_an_unknown_scenario_lists_the_known_ones() -> None:
    with pytest.raises(ScenarioError, match="geneva_overload"):
        DispatchEnv(scenario="genève")


def test_a_replayed_scenario_needs_its_days() -> None:
    with pytest.raises(ScenarioError, match="real days"):
        DispatchEnv(scenario="manhattan_11")


# --- days --------------------------------------------------------------------------------------


def test_a_seed_is_the_day() -> None:
    env, other = DispatchEnv(scenario="geneva_small"), DispatchEnv(scenario="geneva_small")
    first, info = env.reset(seed=2_000_003)
    assert info["day"] == 2_000_003
    env.reset(seed=1)
    again, _ = env.reset(seed=2_000_003)
    elsewhere, _ = other.reset(options={"day": 2_000_003})
    assert np.array_equal(first, again) and np.array_equal(first, elsewhere)


def test_later_days_are_training_days_that_follow_from_the_seed() -> None:
    env = DispatchEnv(scenario="geneva_small")

    def three_days(seed: int) -> list[int]:
        env.reset(seed=seed)
        return [env.reset()[1]["day"] for _ in range(3)]

    days = three_days(2_000_003)
    assert days == three_days(2_000_003) != three_days(2_000_004)
    assert len(set(days)) == 3 and all(0 <= day < 1_000_000 for day in days)


def test_a_day_asked_for_leaves_the_stream_of_days_alone() -> None:
    env = DispatchEnv(scenario="geneva_small")
    env.reset(seed=5)
    expected = env.reset()[1]["day"]
    env.reset(seed=5)
    assert env.reset(options={"day": 77})[1]["day"] == 77
    assert env.reset()[1]["day"] == expected


def test_unseeded_environments_differ() -> None:
    days = {DispatchEnv(scenario="geneva_small").reset()[1]["day"] for _ in range(3)}
    assert len(days) == 3


def test_real_days_are_played_by_seed_row_and_label() -> None:
    source = DispatchEnv(scenario="geneva_small")
    days = []
    for seed in range(3):
        source.reset(seed=seed)
        days.append(dataclasses.replace(source.engine.day(), label=f"2026-03-0{seed + 2}"))
    env = DispatchEnv(scenario="geneva_small", days=days)
    assert env.reset(seed=4)[1]["day"] == "2026-03-03"  # 4 modulo 3
    assert env.reset(options={"day": 2})[1]["day"] == "2026-03-04"
    observation, info = env.reset(options={"day": "2026-03-02"})
    assert info["day"] == "2026-03-02"
    assert np.array_equal(observation, source.reset(seed=0)[0])
    assert {env.reset()[1]["day"] for _ in range(20)} == {day.label for day in days}
    for wrong in (3, "2026-03-09"):
        with pytest.raises(UsageError, match="day"):
            env.reset(options={"day": wrong})
    with pytest.raises(UsageError, match="num_drivers"):
        DispatchEnv(num_drivers=7, scenario="geneva_small", days=days)
    with pytest.raises(UsageError, match="simulation_hours"):
        DispatchEnv(simulation_hours=4, scenario="geneva_small", days=days)
    with pytest.raises(UsageError, match="bookings_per_day"):
        DispatchEnv(bookings_per_day=4, scenario="geneva_small", days=days)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, "x", True])
def test_a_seed_that_is_none_is_refused(seed: Any) -> None:
    with pytest.raises(UsageError, match="seed"):
        DispatchEnv(scenario="geneva_small").reset(seed=seed)


# --- what a step returns -----------------------------------------------------------------------


@pytest.mark.parametrize("observation", ["compact", "full"])
def test_the_layout_names_what_the_observation_holds(observation: str) -> None:
    env = DispatchEnv(scenario="geneva_overload", observation=observation, max_bookings=12)
    _, info = env.reset(seed=3)
    keep_busy(env, info, 120.0)
    vector, _, _, _, info = env.step(0)
    assert vector.shape == (env.layout.size,) and vector.dtype == np.float32
    assert len(env.layout.feature_names()) == env.layout.size
    rows, state = env.layout.unpack(vector), env.state()
    assert rows["drivers"].shape[0] == 10 and rows["bookings"].shape[0] == 12
    shown = state.bookings[:12]
    if observation == "compact":
        assert np.allclose(rows["bookings"][: len(shown), 3], shown["priority"] / 5)
        assert np.allclose(rows["drivers"][:, 3], state.drivers["committed"] / 2)
    else:
        valid = rows["pairs"][:, :, 0].reshape(-1)
        assert np.array_equal(valid, info["action_mask"][1:])
        assert np.allclose(rows["bookings"][: len(shown), 4], shown["priority"] / 5)
    assert np.isclose(rows["context"][0], state.now_min / 480)


@pytest.mark.parametrize("scenario", ["geneva_small", "disturbed"])
def test_the_mask_says_exactly_what_is_accepted(scenario: str) -> None:
    world = disturbed() if scenario == "disturbed" else scenario
    env = DispatchEnv(scenario=world, max_bookings=8)
    _, info = env.reset(seed=11)
    for minute in (0.0, 95.0, 240.0):
        info = keep_busy(env, info, minute, seed=int(minute))
        assert np.array_equal(env.action_masks(), info["action_mask"].astype(bool))
        for action in range(env.action_space.n):
            outcome = copy.deepcopy(env).step(action)[4]
            assert outcome["invalid"] == (info["action_mask"][action] == 0)


def test_only_waiting_takes_time() -> None:
    env = DispatchEnv(scenario="geneva_small")
    _, info = env.reset(seed=1)
    rng = np.random.default_rng(0)
    for _ in range(30):
        before = info["now_min"]
        action = some_valid_action(info, rng)
        info = env.step(action)[4]
        assert info["dt"] == (1.0 if action == 0 else 0.0)
        assert info["now_min"] == before + 5.0 * info["dt"]


@pytest.mark.parametrize("action", [-1, -(2**70), 61, 10_000, 2**70, "masked"])
def test_a_refused_action_is_penalised_counted_and_changes_nothing(action: Any) -> None:
    env = DispatchEnv(scenario="geneva_small", reward_timing="planned_pickup")
    _, info = env.reset(seed=1)
    if action == "masked":
        action = int(np.flatnonzero(info["action_mask"] == 0)[0])
    before, seen = env.state().to_json(), env.step(0)[0]
    env.reset(seed=1)
    _, reward, terminated, truncated, info = env.step(action)
    assert info["invalid"] and not terminated and not truncated
    assert reward == info["reward_terms"]["invalid_action"] == -1.0
    assert env.state().to_json() == before
    assert env.engine.kpis()["invalid_actions"] == 1
    assert np.array_equal(env.step(0)[0], seen)


@pytest.mark.parametrize("action", [1.0, np.float32(1), "1", None, np.array([1]), True])
def test_an_action_must_be_one_integer(action: Any) -> None:
    env = DispatchEnv(scenario="geneva_small")
    env.reset(seed=1)
    with pytest.raises(UsageError, match="integer"):
        env.step(action)


def test_any_kind_of_integer_is_an_action() -> None:
    env = DispatchEnv(scenario="geneva_small")
    for action in (0, np.int64(0), np.uint8(0), np.array(0)):
        env.reset(seed=1)
        assert env.step(action)[4]["dt"] == 1.0


def test_no_step_without_a_day() -> None:
    env = DispatchEnv(scenario="geneva_small")
    with pytest.raises(UsageError, match="reset"):
        env.step(0)
    env.reset(seed=1)
    wait_until(env, 480.0)
    with pytest.raises(UsageError, match="reset"):
        env.step(0)


def test_an_episode_is_truncated_at_max_steps() -> None:
    env = DispatchEnv(scenario="geneva_small", max_steps=7)
    env.reset(seed=1)
    ends = [env.step(-1)[2:4] for _ in range(7)]
    assert ends == [(False, False)] * 6 + [(False, True)]
    env.reset()
    assert env.step(0)[2:4] == (False, False)


def test_the_last_day_step_is_terminated_even_at_max_steps() -> None:
    env = DispatchEnv(scenario="geneva_small", max_steps=96)
    env.reset(seed=1)
    assert [env.step(0)[2:4] for _ in range(96)][-1] == (True, False)


@pytest.mark.parametrize("timing", ["event", "commitment", "planned_pickup"])
@pytest.mark.parametrize("name", ["geneva_small", "geneva_overload"])
def test_undiscounted_rewards_sum_to_the_kpi_reward_whatever_goes_wrong(
    timing: str, name: str
) -> None:
    world = disturbed(name)
    env = DispatchEnv(scenario=world, reward_timing=timing, gamma=1.0)
    rng = np.random.default_rng(0)
    disturbances = dict.fromkeys(("no_shows", "called_off", "released", "invalid_actions"), 0.0)
    for seed in range(6):
        _, info = env.reset(seed=seed)
        total, terms, over = 0.0, dict.fromkeys(env.engine.reward_terms(), 0.0), False
        while not over:
            action = some_valid_action(info, rng) if rng.random() < 0.95 else int(rng.integers(99))
            _, reward, over, truncated, info = env.step(action)
            assert not truncated
            total += reward
            for term, value in info["reward_terms"].items():
                terms[term] += value
        assert total == pytest.approx(info["kpis"]["reward"], abs=1e-9)
        assert terms == pytest.approx(info["episode_reward_terms"], abs=1e-9)
        assert reward_sum(info["episode_reward_terms"]) == pytest.approx(total, abs=1e-9)
        for kind in disturbances:
            disturbances[kind] += info["kpis"][kind]
    assert min(disturbances.values()) > 0  # the test met every one of them


def test_the_planned_pickups_reward_is_discounted_from_the_pickup() -> None:
    def first_reward(timing: str, gamma: float) -> tuple[float, float]:
        env = DispatchEnv(scenario="geneva_small", reward_timing=timing, gamma=gamma)
        _, info = env.reset(seed=1)
        action = int(np.flatnonzero(info["action_mask"])[-1])
        reward = env.step(action)[1]
        pickup = float(np.nanmin(env.engine.history()["planned_pickup_min"]))
        return reward, pickup

    at_once, pickup = first_reward("commitment", 0.9)
    later, _ = first_reward("planned_pickup", 0.9)
    assert pickup > 0
    assert later == pytest.approx(at_once * 0.9 ** (pickup / 5))


# --- what is offered beyond Gymnasium --------------------------------------------------------


def test_actions_are_encoded_and_decoded() -> None:
    env = DispatchEnv(scenario="geneva_small", max_bookings=7)
    assert env.decode_action(0) is None
    for driver in range(3):
        for slot in range(7):
            assert env.decode_action(env.encode_action(driver, slot)) == (driver, slot)
    for driver, slot in ((3, 0), (0, 7), (-1, 0)):
        with pytest.raises(UsageError, match="slot"):
            env.encode_action(driver, slot)
    with pytest.raises(UsageError, match="outside"):
        env.decode_action(22)


def test_a_slot_is_a_row_of_the_state() -> None:
    env = DispatchEnv(scenario="geneva_small")
    _, info = env.reset(seed=1)
    driver, slot = env.decode_action(int(np.flatnonzero(info["action_mask"])[-1])) or (0, 0)
    booking = env.state().booking_ids[slot]
    env.step(env.encode_action(driver, slot))
    assert booking not in env.state().booking_ids
    row = int(booking.removeprefix("booking-"))
    assert env.engine.history()["driver"][row] == driver


def test_a_copied_environment_goes_its_own_way() -> None:
    env = DispatchEnv(scenario="geneva_small")
    env.reset(seed=1)
    twin = copy.deepcopy(env)
    wait_until(twin, 100.0)
    assert (env.engine.now_min(), twin.engine.now_min()) == (0.0, 100.0)
    wait_until(env, 100.0)
    assert np.array_equal(env.step(0)[0], twin.step(0)[0])


def test_events_are_kept_when_asked_for() -> None:
    env = DispatchEnv(scenario="geneva_small", record_events=True)
    _, info = env.reset(seed=1)
    env.step(int(np.flatnonzero(info["action_mask"])[-1]))
    assert [event["kind"] for event in env.engine.events()] == ["assigned"]


def test_a_sampled_action_is_uniform_among_the_valid_ones() -> None:
    env = DispatchEnv(scenario="geneva_small")
    mask = np.zeros(env.action_space.n, dtype=np.int8)
    mask[[0, 7, 40]] = 1
    env.action_space.seed(1)
    drawn, counts = np.unique(
        [env.action_space.sample(mask) for _ in range(3000)], return_counts=True
    )
    assert drawn.tolist() == [0, 7, 40]
    assert counts.min() > 900
    assert env.action_space.contains(env.action_space.sample())
    assert env.action_space == gymnasium.spaces.Discrete(env.layout.num_actions)
    with pytest.raises(AssertionError, match="shape"):
        env.action_space.sample(mask[:5])
    assert env.action_space.sample(np.zeros_like(mask)) == 0  # Gymnasium's answer
