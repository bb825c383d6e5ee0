"""Foreign environments that misbehave: one sentence that names them, and never an endless loop."""

import gymnasium
import numpy as np
import pytest

from services.rl.errors import TrainingError
from services.rl.training import task as task_module
from services.rl.training.task import GymnasiumTask
from services.rl.training.trainer import Trainer

from .tiny_runs import foreign


class Twenty(gymnasium.Env):
    """Episodes of 20 steps, three actions; what `Planted` classes spoil."""

    observation_space = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        self.time = 0
        return self.np_random.uniform(-1, 1, 3).astype(np.float32), {}

    def step(self, action):
        self.time += 1
        observation = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        return observation, float(action), self.time >= 20, False, {}


class Raises(Twenty):
    def step(self, action):
        if self.time == 7:
            raise KeyError("inner\ntrouble")
        return super().step(action)


class WrongMask(Twenty):
    def reset(self, **options):
        return super().reset(**options)[0], {"action_mask": np.ones(5, dtype=np.int8)}


class CannotBeMade(Twenty):
    def __init__(self):
        raise ValueError("no such level")


class NaNReward(Twenty):
    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, float("nan") if self.time == 5 else reward, *rest


class Endless(Twenty):
    def step(self, action):
        return *super().step(action)[:2], False, False, {}


class BackInTime(Twenty):
    def step(self, action):
        return *super().step(action)[:4], {"dt": -3.0}


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setattr(task_module, "_LONGEST_EPISODE", 500)
    kinds = (Raises, WrongMask, CannotBeMade, NaNReward, Endless, BackInTime)
    for kind in kinds:
        gymnasium.register(f"planted/{kind.__name__}-v0", kind, disable_env_checker=True)
    yield
    for kind in kinds:
        del gymnasium.registry[f"planted/{kind.__name__}-v0"]


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("Raises", r"'planted/Raises-v0' failed in step \(KeyError: 'inner"),
        ("WrongMask", r"failed in reset \(ValueError: the action mask has shape \(5,\), .* 3 act"),
        ("CannotBeMade", "'planted/CannotBeMade-v0' cannot be made: no such level"),
        ("NaNReward", "the score on validation days is nan"),
        ("Endless", "an episode of the evaluation did not end within 500 steps"),
        ("BackInTime", r"dt of row 0 is negative \(-3\)"),
    ],
)
def test_a_foreign_environment_that_misbehaves_is_one_sentence(atmr_home, name, finding):
    with pytest.raises(TrainingError, match=finding) as raised:
        Trainer(GymnasiumTask(f"planted/{name}-v0"), foreign()).train()
    assert "\n" not in str(raised.value)
