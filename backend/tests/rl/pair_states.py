"""Real states for tests of the pair network: rows and masks of several scenarios."""

import numpy as np
import torch

from services.rl.q_networks import PairArchitecture, PairFeatures, PairQNetwork
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import load_scenario

from .simulation.worlds import changed, disturbed, small_with_shift_ends

SCENARIOS = {
    "geneva": lambda: load_scenario("geneva"),
    "overload": lambda: load_scenario("geneva_overload"),
    "three drivers": small_with_shift_ends,
    "disturbed": disturbed,
    "five drivers": lambda: changed(
        "geneva", fleet={"num_drivers": 5}, demand={"bookings_per_day": 40}
    ),
    "forty drivers": lambda: changed(
        "geneva", fleet={"num_drivers": 40}, demand={"bookings_per_day": 340}
    ),
}


def states_of(scenario, count=12, bookings=20, seed=0):
    """``(engine, rows, masks)`` of states met in careless play, a few bookings left to the last."""
    engine = Engine(scenario, count, max_bookings=bookings, observation="rows")
    engine.start(1000 * seed + np.arange(count))
    rng = np.random.default_rng(seed)
    for step in range(30):
        go = [] if step % 3 else np.flatnonzero(rng.random(count) < 0.6)
        action = np.zeros(count, dtype=np.int64)
        for e in go:
            valid = np.flatnonzero(engine.out.mask[e])
            action[e] = valid[-1] if rng.random() < 0.5 else rng.choice(valid)
        engine.step(action)
    return engine, engine.out.observation.copy(), engine.out.mask != 0


def network_of(engine, seed=0, **sizes):
    """A pair network with weights of order one everywhere, so that every part counts."""
    torch.manual_seed(seed)
    shape = PairArchitecture(**({"hidden": 24, "pool": 12, "hold_back_min": 40.0} | sizes))
    net = PairQNetwork(
        engine.layout.num_drivers, engine.layout.max_bookings, PairFeatures(engine), shape
    )
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            unseen = not shape.edges and "edge" in name
            if not unseen:
                parameter.copy_(torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    return net
