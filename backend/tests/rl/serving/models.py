"""Bundles of every kind for tests; the network's weights are scattered, not trained."""

import numpy as np

from services.rl.policies.model_files import (
    MANIFEST,
    MODEL_FILE,
    ModelManifest,
    file_sha256,
)
from services.rl.serving.bundle import _write_json, write_bundle
from services.rl.simulation.edges import EDGES_VERSION, NUM_EDGE
from services.rl.simulation.engine import Engine
from services.rl.simulation.observation import CONTEXT, LAYOUT_VERSION, ROW_BOOKING, ROW_DRIVER
from services.rl.simulation.scenarios import load_scenario

SMALL = load_scenario("geneva_small")
HIDDEN, POOL = 16, 8


def scattered_network(folder, scenario=SMALL, seed=0, **biases):
    """A model folder as training writes it, without Torch; ``biases`` are added where named."""
    from safetensors.numpy import save_file

    drivers, bookings, context = len(ROW_DRIVER) - 2, len(ROW_BOOKING) - 2, len(CONTEXT)
    shapes = {
        "encode_driver": (POOL, drivers, True),
        "encode_booking": (POOL, bookings, True),
        "encode_context": (HIDDEN, context + 4 * POOL + 2, True),
        "pair_driver": (HIDDEN, drivers, True),
        "pair_booking": (HIDDEN, bookings, False),
        "pair_context": (HIDDEN, HIDDEN, False),
        "pair_edge": (HIDDEN, NUM_EDGE, False),
        "pair_hidden": (HIDDEN, HIDDEN, True),
        "pair_score": (1, HIDDEN, True),
        "edge_score": (1, NUM_EDGE, False),
        "wait_hidden": (HIDDEN, HIDDEN, True),
        "wait_score": (1, HIDDEN, True),
        "value_hidden": (HIDDEN, HIDDEN, True),
        "value_score": (1, HIDDEN, True),
        "value_driver": (1, POOL, False),
        "value_booking": (1, POOL, False),
    }
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, (rows, columns, bias) in shapes.items():
        arrays[f"{name}.weight"] = rng.normal(0, columns**-0.5, (rows, columns)).astype("f4")
        if bias:
            arrays[f"{name}.bias"] = rng.normal(0, 0.1, rows).astype("f4")
    for name, bias in biases.items():
        arrays[f"{name}.bias"] += np.float32(bias)
    folder.mkdir(parents=True)
    save_file(arrays, folder / MODEL_FILE)
    manifest = ModelManifest(
        network={
            "network": "pair",
            "num_drivers": scenario.fleet.num_drivers,
            "max_bookings": 20,
            "layout_version": LAYOUT_VERSION,
            "edges_version": EDGES_VERSION,
            "hidden": HIDDEN,
            "pool": POOL,
            "dueling": False,
            "edges": True,
            "hold_back_min": 60.0,
        },
        environment={
            "scenario": scenario.name,
            "scenario_hash": scenario.sha256,
            "observation": "rows",
            "num_drivers": scenario.fleet.num_drivers,
            "max_bookings": 20,
            "layout_version": LAYOUT_VERSION,
        },
        reward_scale=0.1,
        decision="dqn_matching",
        step=seed,
        metrics={"score": 1.0},
    ).with_files({MODEL_FILE: file_sha256(folder / MODEL_FILE)})
    _write_json(folder / MANIFEST, manifest.to_json())
    return folder


def bundle_of(kind, folder, scenario=SMALL, seed=0):
    """A bundle of a kind; planner values of another scenario are admitted."""
    model = None
    if kind == "dqn_matching":
        model = scattered_network(folder / f"model_{seed}", scenario, seed)
    return write_bundle(folder / f"{kind}_{seed}", kind, scenario, model=model, transfer=True)


def states_of_days(scenario=SMALL, count=40, seed=1_000_000):
    """States met under ``nearest``, from the busy part of several days."""
    from services.rl.policies.registry import make_policy

    policy = make_policy("nearest", scenario)
    engine = Engine(scenario, 1)
    found = []
    while len(found) < count:
        engine.start([seed])
        seed += 1
        while not engine.ended(0) and len(found) < count:
            state, rows = engine.state(0), engine.open_rows(0)
            if len(rows) >= 2:
                found.append(state)
            for decision in policy.decide(state).decisions:
                engine.commit(0, decision.driver, int(rows[decision.booking]))
            engine.wait(0)
    return found


def chosen(answer):
    """What an answer decides, comparable."""
    return [(d.driver, d.booking, round(d.score, 3)) for d in answer.decisions.decisions]
