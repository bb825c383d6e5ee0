"""Training libraries take the environment as it is."""

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks
from stable_baselines3 import DQN

from services.rl.dispatch_env import DispatchEnv

torch.set_num_threads(1)  # nets this small only lose by more


def test_stable_baselines3_dqn_trains() -> None:
    env = DispatchEnv(num_drivers=10, max_bookings=20, simulation_hours=8)
    model = DQN("MlpPolicy", env, learning_starts=100, buffer_size=1_000, seed=0, device="cpu")
    model.learn(400)
    assert model.num_timesteps == 400 and model._n_updates > 0
    observation, _ = env.reset(seed=1)
    action, _ = model.predict(observation, deterministic=True)
    assert env.action_space.contains(int(action))
    env.step(action)


def test_maskable_ppo_trains_and_never_picks_a_forbidden_action() -> None:
    env = DispatchEnv(scenario="geneva_small", observation="full")
    model = MaskablePPO("MlpPolicy", env, n_steps=128, batch_size=64, seed=0, device="cpu")
    model.learn(256)
    observation, info = env.reset(seed=1)
    for _ in range(60):
        action, _ = model.predict(observation, action_masks=get_action_masks(env))
        observation, _, over, _, info = env.step(action)
        assert not info["invalid"]
        if over:
            break
    assert np.isfinite(observation).all()
