"""The shortest honest example: a day by random valid actions, then the same day by a policy."""

import gymnasium as gym
import numpy as np

from services.rl.evaluation.runner import play_day
from services.rl.policies.registry import make_policy
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import load_scenario

DAY = 1_000_000  # a seed is a day; validation days begin here

env = gym.make("atmr/Dispatch-v1", num_drivers=10, max_bookings=20, simulation_hours=8)
_, info = env.reset(seed=DAY)
env.action_space.seed(0)
ended = False
while not ended:
    action = env.action_space.sample(mask=info["action_mask"])
    _, _, terminated, truncated, info = env.step(np.int64(action))
    ended = terminated or truncated
print(f"random valid actions: {info['kpis']['completion_pct']:.0f} % completed")

scenario = load_scenario("geneva")
engine = Engine(scenario)
engine.start([DAY])
play_day(make_policy("matching", scenario), engine)
print(f"tuned matching:       {engine.kpis()['completion_pct']:.0f} % completed, same bookings")
