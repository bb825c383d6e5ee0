"""Many days side by side: the same days, and Gymnasium's conventions for vectors."""

import dataclasses
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics

from services.rl.dispatch_env import DispatchEnv, DispatchVectorEnv
from services.rl.errors import UsageError
from services.rl.simulation.types import Day

from .worlds import disturbed

WORLD: dict[str, Any] = {"scenario": disturbed("geneva_small"), "max_bookings": 8}

Actions = npt.NDArray[np.int64]


def some_actions(masks: npt.NDArray[np.int8], rng: np.random.Generator) -> Actions:
    """Valid actions, and one in twenty of any kind."""
    chosen = np.array([rng.choice(np.flatnonzero(mask)) for mask in masks])
    anything = rng.random(len(masks)) < 0.05
    chosen[anything] = rng.integers(-3, masks.shape[1] + 3, size=int(anything.sum()))
    return chosen


@pytest.mark.parametrize("observation", ["compact", "full"])
def test_it_is_separate_environments_bit_for_bit(observation: str) -> None:
    vector = DispatchVectorEnv(4, observation=observation, **WORLD)
    singles = [DispatchEnv(observation=observation, **WORLD) for _ in range(4)]
    observations, infos = vector.reset(seed=50)
    for e, env in enumerate(singles):
        first, info = env.reset(seed=50 + e)
        assert np.array_equal(observations[e], first)
        assert infos["day"][e] == info["day"]
    rng = np.random.default_rng(0)
    ends = 0
    for _ in range(400):
        actions = some_actions(infos["action_mask"], rng)
        observations, rewards, terminated, truncated, infos = vector.step(actions)
        for e, env in enumerate(singles):
            last, reward, over, cut, info = env.step(actions[e])
            assert (rewards[e], terminated[e], truncated[e]) == (reward, over, cut)
            assert infos["dt"][e] == info["dt"]
            if over or cut:
                ends += 1
                assert np.array_equal(infos["final_obs"][e], last)
                kpis = infos["final_info"]["kpis"]
                assert {name: kpis[name][e] for name in info["kpis"]} == info["kpis"]
                last, info = env.reset()
            assert np.array_equal(observations[e], last)
            assert np.array_equal(infos["action_mask"][e], info["action_mask"])
    assert ends >= 8


def real_days() -> list[Day]:
    """Three days with dates."""
    env, days = DispatchEnv(**WORLD), []
    for seed in range(3):
        env.reset(seed=seed)
        days.append(dataclasses.replace(env.engine.day(), label=f"2026-03-0{seed + 2}"))
    return days


@pytest.mark.parametrize("real", [False, True], ids=["sampled days", "real days"])
def test_it_answers_as_gymnasiums_own_vector_of_environments_does(real: bool) -> None:
    """The same arrays; ``dt`` alone also speaks of the step that ended a day."""
    world = {**WORLD, "days": real_days()} if real else WORLD
    vector = DispatchVectorEnv(3, **world)
    sync = SyncVectorEnv([lambda: DispatchEnv(**world)] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
    assert vector.observation_space == sync.observation_space
    assert vector.action_space == sync.action_space
    assert vector.metadata["autoreset_mode"] == sync.metadata["autoreset_mode"]
    ours, theirs = vector.reset(seed=[9, 3, 3]), sync.reset(seed=[9, 3, 3])
    assert np.array_equal(ours[0], theirs[0])
    _assert_same(ours[1], theirs[1])
    infos = ours[1]
    rng = np.random.default_rng(1)
    ends = 0
    for _ in range(300):
        actions = some_actions(infos["action_mask"], rng)
        ours, theirs = vector.step(actions), sync.step(actions)
        for mine, other in zip(ours[:4], theirs[:4], strict=True):
            assert np.array_equal(mine, other) and mine.dtype == other.dtype
        infos = ours[4]
        present = {name: theirs[4][name] for name in infos if not name.endswith("dt")}
        if "final_info" in present:
            ends += 1
        _assert_same({name: infos[name] for name in present}, present)
    assert ends >= 5


def _assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name, mine in ours.items():
        other = theirs[name]
        assert type(mine) is type(other), name
        if isinstance(mine, dict):
            _assert_same(mine, other)
        elif mine.dtype == object:
            assert other.dtype == object and mine.shape == other.shape
            for a, b in zip(mine, other, strict=True):
                assert (a is None and b is None) or np.array_equal(a, b), name
        else:
            assert mine.dtype == other.dtype and np.array_equal(mine, other), name


def test_the_same_seeds_are_the_same_days_whatever_their_number() -> None:
    def played(num_envs: int) -> list[Any]:
        """Everything that environment 0, seeded with 21, sees in three days."""
        vector = DispatchVectorEnv(num_envs, **WORLD)
        observations, infos = vector.reset(seed=21)
        rng = np.random.default_rng(5)
        seen = [observations[0].tobytes()]
        for step in range(300):
            actions = np.full(num_envs, step % 9)  # the others do as they like
            actions[0] = rng.choice(np.flatnonzero(infos["action_mask"][0]))
            observations, rewards, terminated, _, infos = vector.step(actions)
            seen.append((observations[0].tobytes(), rewards[0], terminated[0]))
        return seen

    alone = played(1)
    assert played(3) == alone and played(8) == alone


def test_the_engine_below_does_the_same_without_dictionaries() -> None:
    vector, lean = DispatchVectorEnv(3, **WORLD), DispatchVectorEnv(3, **WORLD)
    _, infos = vector.reset(seed=2)
    lean.reset(seed=2)
    rng = np.random.default_rng(2)
    ends = 0
    for _ in range(300):
        actions = some_actions(infos["action_mask"], rng)
        observations, rewards, terminated, truncated, infos = vector.step(actions)
        out = lean.engine.step(actions, autoreset=True)
        assert np.array_equal(out.observation, observations)
        assert np.array_equal(out.mask, infos["action_mask"])
        assert np.array_equal(out.reward, rewards) and np.array_equal(out.epochs, infos["dt"])
        assert np.array_equal(out.terminated, terminated)
        assert np.array_equal(out.truncated, truncated)
        for e in np.flatnonzero(terminated):
            ends += 1
            assert np.array_equal(out.final_observation[e], infos["final_obs"][e])
            assert out.final_kpis[e, 0] == infos["final_info"]["kpis"]["reward"][e]
    assert ends >= 5


def test_truncated_days_are_followed_by_new_ones() -> None:
    vector = DispatchVectorEnv(2, max_steps=3, **WORLD)
    vector.reset(seed=0)
    for step in range(1, 10):
        _, _, terminated, truncated, infos = vector.step(np.zeros(2, dtype=np.int64))
        assert not terminated.any() and truncated.all() == (step % 3 == 0)
        assert ("final_obs" in infos) == (step % 3 == 0)


def test_chosen_environments_are_reset_and_the_others_go_on() -> None:
    vector = DispatchVectorEnv(3, **WORLD)
    vector.reset(seed=4)
    vector.step(np.zeros(3, dtype=np.int64))
    mask = np.array([True, False, True])
    _, infos = vector.reset(seed=[8, None, None], options={"reset_mask": mask})
    assert list(infos["now_min"]) == [0.0, 5.0, 0.0]
    assert list(infos["day"][:2]) == [8, 5]
    assert 0 <= infos["day"][2] < 1_000_000 and infos["day"][2] != 6
    _, infos = vector.reset(options={"day": [70, 71, 72]})
    assert list(infos["day"]) == [70, 71, 72]
    _, infos = vector.reset(options={"day": 9})
    assert list(infos["day"]) == [9, 9, 9]


def test_what_was_returned_stays_as_it_was_unless_copies_are_declined() -> None:
    for copy in (True, False):
        vector = DispatchVectorEnv(2, copy=copy, **WORLD)
        first, infos = vector.reset(seed=1)
        mask, held = infos["action_mask"], first.copy()
        vector.step(np.zeros(2, dtype=np.int64))
        assert np.array_equal(first, held) == copy
        assert np.shares_memory(mask, vector.engine.out.mask) != copy


def test_gymnasiums_vector_wrappers_understand_it() -> None:
    env = DictInfoToList(RecordEpisodeStatistics(DispatchVectorEnv(2, max_steps=4, **WORLD)))
    env.reset(seed=1)
    for _ in range(4):
        infos = env.step(np.zeros(2, dtype=np.int64))[4]
    assert infos[0]["final_info"]["kpis"]["steps"] == 4
    assert infos[1]["episode"]["l"] == 4


@pytest.mark.parametrize(
    "actions",
    [[0], [[0, 0]], [0.0, 0.0], ["a", "b"], 0, [True, False]],
    ids=str,
)
def test_actions_must_be_one_integer_each(actions: Any) -> None:
    vector = DispatchVectorEnv(2, **WORLD)
    vector.reset(seed=1)
    with pytest.raises(UsageError, match="2 integers"):
        vector.step(actions)


def test_wrong_numbers_are_named() -> None:
    with pytest.raises(UsageError, match="num_envs"):
        DispatchVectorEnv(0)
    vector = DispatchVectorEnv(2, **WORLD)
    with pytest.raises(UsageError, match="reset"):
        vector.step([0, 0])
    with pytest.raises(UsageError, match="seed has 3 entries for 2"):
        vector.reset(seed=[1, 2, 3])
    with pytest.raises(UsageError, match="seed"):
        vector.reset(seed=-1)
    with pytest.raises(UsageError, match="reset_mask"):
        vector.reset(options={"reset_mask": np.zeros(2, dtype=bool)})
    with pytest.raises(UsageError, match="reset"):
        vector.step([0, 0])


def test_every_environment_is_drawn() -> None:
    vector = DispatchVectorEnv(2, render_mode="ansi", **WORLD)
    vector.reset(seed=1)
    frames = vector.render()
    assert frames is not None and "seed 1" in frames[0] and "seed 2" in frames[1]


def test_masks_and_states_of_all() -> None:
    vector = DispatchVectorEnv(2, **WORLD)
    _, infos = vector.reset(seed=1)
    assert np.array_equal(vector.action_masks(), infos["action_mask"] == 1)
    single = DispatchEnv(**WORLD)
    single.reset(seed=2)
    assert vector.state(1).to_json() == single.state().to_json()


def test_its_spaces_are_gymnasiums_batches() -> None:
    vector = DispatchVectorEnv(2, **WORLD)
    assert vector.action_space == gymnasium.spaces.MultiDiscrete([25, 25])
    assert vector.reset(seed=0)[0] in vector.observation_space
