"""Sanity checks: silent on our scenarios, and each catches the mistake it is there for."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch

from services.rl.simulation.scenarios import load_scenario, parse_scenario
from services.rl.training import sanity
from services.rl.training.config import sanity_check_config
from services.rl.training.sanity import run_sanity_checks
from services.rl.training.streams import EngineStream
from services.rl.training.task import DispatchTask, GymnasiumTask

from .tiny_runs import cartpole

CONFIG = sanity_check_config()
FOREIGN = CONFIG.changed(hyperparameters={"network": "flat"})


def scenario(**changes):
    raw = load_scenario("geneva_small").model_dump(mode="json")
    for group, fields in changes.items():
        raw[group] |= fields
    raw["name"] = "planted"
    return DispatchTask(parse_scenario(raw, source="planted"))


def planted(monkeypatch, change):
    """Every stream's steps and first observations pass through ``change(stream, result)``."""
    step = EngineStream.step
    monkeypatch.setattr(EngineStream, "step", lambda self, actions: change(step(self, actions)))


@pytest.mark.parametrize("name", ["geneva", "geneva_small", "geneva_overload"])
@pytest.mark.parametrize("network", ["pair", "flat"])
def test_our_scenarios_pass(name, network):
    task = DispatchTask(load_scenario(name))
    lines = run_sanity_checks(task, CONFIG.changed(hyperparameters={"network": network}))
    assert len(lines) == 5
    assert not any(line.startswith("warning") for line in lines)


@pytest.mark.parametrize("name", ["CartPole-v1", "atmr/Dispatch-v1"])
def test_foreign_environments_pass(name):
    lines = run_sanity_checks(GymnasiumTask(name), FOREIGN)
    assert len(lines) == 2


def assert_caught(finding, remedy, task=None, config=CONFIG):
    with pytest.raises(RuntimeError, match=finding) as raised:
        run_sanity_checks(task or scenario(), config)
    assert remedy in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_transposed_action_mapping_is_caught(monkeypatch):
    step = EngineStream.step

    def transposed(self, actions):
        layout = self.engine.layout
        slot, driver = np.divmod(actions - 1, layout.num_drivers)
        wrong = 1 + driver * layout.max_bookings + slot
        return step(self, np.where(actions == 0, 0, wrong).astype(np.int64))

    monkeypatch.setattr(EngineStream, "step", transposed)
    assert_caught("means booking .* to driver", "1 + driver * max_bookings + booking")


def test_truncated_actions_are_caught(monkeypatch):
    made = EngineStream.__init__

    def fewer(self, *arguments, **options):
        made(self, *arguments, **options)
        self.num_actions -= 1

    monkeypatch.setattr(EngineStream, "__init__", fewer)
    assert_caught("60 actions for 3 drivers and 20 bookings", "there must be 61")


def test_a_mask_that_allows_what_is_refused_is_caught(monkeypatch):
    planted(monkeypatch, lambda r: replace(r, mask=np.ones_like(r.mask)))
    config = CONFIG.changed(sanity={"check_action_mapping": False})
    assert_caught("refused action", "mask and the rules disagree", config=config)


def test_a_mask_that_allows_nothing_is_caught(monkeypatch):
    planted(monkeypatch, lambda r: replace(r, mask=np.zeros_like(r.mask)))
    assert_caught("the mask allows no action", "WAIT")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_observations_and_rewards_that_are_not_finite_are_caught(monkeypatch, value):
    with monkeypatch.context() as patch:
        planted(patch, lambda r: replace(r, state=np.full_like(r.state, value)))
        assert_caught(f"step 1: the observation holds {value}", "look for")
    with monkeypatch.context() as patch:
        planted(patch, lambda r: replace(r, reward=np.full_like(r.reward, value)))
        assert_caught(f"step 0: the reward holds {value}", "look for")


def test_a_constant_reward_is_an_error_for_a_scenario(monkeypatch):
    planted(monkeypatch, lambda r: replace(r, reward=np.zeros_like(r.reward)))
    assert_caught("distinct rewards in 100 random steps: 1", "check the scenario's reward weights")


def test_a_constant_reward_is_a_warning_for_a_foreign_environment():
    *_, last = run_sanity_checks(cartpole(), FOREIGN)  # 1 for every step
    assert last.startswith("warning: distinct rewards in 100 random steps: 1")


class Unsound(gymnasium.Env):
    """Observes NaN."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.full(2, np.nan, dtype=np.float32), {}

    def step(self, action):
        return np.full(2, np.nan, dtype=np.float32), 0.0, False, False, {}


def test_nan_from_a_foreign_environment_is_caught():
    gymnasium.register("tests/Unsound-v0", Unsound, disable_env_checker=True)
    try:
        task = GymnasiumTask("tests/Unsound-v0")
        assert_caught("step 0: the observation holds nan", "look for", task, FOREIGN)
    finally:
        del gymnasium.registry["tests/Unsound-v0"]


def test_epochs_that_are_too_long_are_caught():
    assert_caught("has 8 decision epochs", "set rules.epoch_min", scenario(rules={"epoch_min": 60}))
    late = scenario(rules={"epoch_min": 35, "grace_min": 15})
    assert_caught("outlasts the grace", "set rules.epoch_min to 5", late)


def test_no_demand_is_caught():
    quiet = scenario(demand={"bookings_per_day": 1})
    assert_caught("too little flows in", "raise demand.bookings_per_day", quiet)


def test_no_queue_is_caught():
    config = CONFIG.changed(sanity={"min_max_queue": 30})
    assert_caught("30 expected: no queue forms", "raise demand.bookings_per_day", config=config)


def test_a_broken_device_is_caught(monkeypatch):
    def no_driver(*_arguments, **_options):
        raise RuntimeError("no driver")

    with monkeypatch.context() as patch:
        patch.setattr(sanity.torch, "ones", no_driver)
        assert_caught("device 'cpu' cannot compute", "use --device cpu")
    ones = torch.ones
    monkeypatch.setattr(sanity.torch, "ones", lambda *a, **k: ones(*a, **k) * 1.5)
    assert_caught("computes wrongly", "use --device cpu")


def test_checks_can_be_switched_off(monkeypatch):
    planted(monkeypatch, lambda r: r)
    off = {"check_action_mapping": False, "check_flux_config": False}
    lines = run_sanity_checks(
        scenario(demand={"bookings_per_day": 10}, rules={"epoch_min": 60}),
        CONFIG.changed(sanity={**off, "check_control_interval": False, "min_unique_rewards": 1}),
    )
    assert len(lines) == 2
