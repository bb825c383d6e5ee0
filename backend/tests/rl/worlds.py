"""Worlds and dispatchers that several tests play."""

from typing import Any

import numpy as np

from services.rl.dispatch_env import DispatchEnv
from services.rl.simulation.scenarios import Scenario, load_scenario, parse_scenario


def disturbed(name: str = "geneva_small", **changes: float) -> Scenario:
    """A scenario in which everything goes wrong that can, and every reward term counts."""
    raw = load_scenario(name).model_dump(mode="json")
    raw["disturbances"] = {
        "travel_noise_cv": 0.3,
        "no_show_share": 0.15,
        "late_cancellation_share": 0.15,
        "breakdowns_per_driver_day": 0.8,
        "breakdown_min": 45.0,
        **changes,
    }
    raw["reward"] |= {"balance": 3.0, "idle_per_min": 0.01, "loaded_per_km": 0.2}
    return parse_scenario({**raw, "name": "disturbed"}, source="test")


def some_valid_action(info: dict[str, Any], rng: np.random.Generator) -> int:
    """One valid action, uniformly."""
    return int(rng.choice(np.flatnonzero(info["action_mask"])))


def wait_until(env: DispatchEnv, minute: float) -> dict[str, Any]:
    """Wait; returns the last info."""
    while True:
        _, _, _, _, info = env.step(0)
        if info["now_min"] >= minute:
            return info


def keep_busy(env: DispatchEnv, info: dict[str, Any], minute: float, seed: int = 0) -> dict:
    """Play valid actions at random until a time of day; returns the last info."""
    rng = np.random.default_rng(seed)
    while env.engine.now_min() < minute:
        info = env.step(some_valid_action(info, rng))[4]
    return info


def serve_urgent_first(env: DispatchEnv, minute: float) -> None:
    """Until a time of day, send whoever is free first to bookings due within the hour."""
    while env.engine.now_min() < minute:
        state, slots = env.state(), env.layout.max_bookings
        valid = env.action_masks()[1:].reshape(-1, slots)
        due = state.bookings["promised_min"][:slots] < state.now_min + 60.0
        wanted = [slot for slot in np.flatnonzero(due) if valid[:, slot].any()]
        if not wanted:
            env.step(0)
            continue
        free_at = np.where(valid[:, wanted[0]], state.drivers["free_at_min"], np.inf)
        env.step(env.encode_action(int(free_at.argmin()), int(wanted[0])))
