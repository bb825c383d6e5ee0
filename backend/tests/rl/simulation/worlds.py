"""Scenarios to test the rules in, days by hand, and random valid play with a record of it."""

from dataclasses import dataclass, field

import numpy as np

from services.rl.data.manhattan import ManhattanDays
from services.rl.simulation import world
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import Scenario, Split, load_scenario, parse_scenario

from ..data.miniature_manhattan import miniature_scenario, write_folder


def changed(name: str, **parts) -> Scenario:
    """A built-in scenario with fields of its parts replaced."""
    raw = load_scenario(name).model_dump(mode="json")
    raw["name"] = f"{name}_changed"
    for part, fields in parts.items():
        raw[part] = {**raw[part], **fields} if isinstance(fields, dict) else fields
    return parse_scenario(raw, source="changed")


def disturbed(name: str = "geneva", **rules) -> Scenario:
    """Everything goes wrong, often."""
    return changed(
        name,
        disturbances={
            "travel_noise_cv": 0.3,
            "no_show_share": 0.1,
            "late_cancellation_share": 0.2,
            "breakdowns_per_driver_day": 0.5,
            "breakdown_min": 45.0,
        },
        rules={"queue": 2, **rules},
    )


def small_with_shift_ends() -> Scenario:
    """Three drivers whose shifts begin and end within the day, and a queue of three."""
    return changed(
        "geneva_small",
        fleet={
            "patterns": [
                {"wheelchair": True, "shift_start_min": 45, "shift_end_min": 300},
                {"wheelchair": False, "shift_end_min": 400, "start": "Meyrin"},
                {"wheelchair": True, "emergency": True, "shift_start_min": 20},
            ]
        },
        rules={"queue": 3, "epoch_min": 7, "overtime_min": 10},
        demand={"bookings_per_day": 45},
    )


def manhattan(root, seed=5, num_drivers=6):
    """Miniature Manhattan: ``(scenario, source, days)``."""
    scenario = miniature_scenario(num_drivers)
    source = ManhattanDays.open(write_folder(root, seed=seed, train=3, validation=3), scenario)
    return scenario, source, [source.day(label) for label in source.labels(Split.VALIDATION)]


@dataclass
class Step:
    """What one action did."""

    action: int
    before: float  # the clock
    after: float
    reward: float
    terms: np.ndarray
    first_event: int  # rows of the raw event log that it wrote
    last_event: int


@dataclass
class Play:
    """A finished day of random valid actions."""

    engine: Engine
    steps: list[Step] = field(default_factory=list)

    @property
    def actions(self) -> list[int]:
        return [step.action for step in self.steps]


def random_action(mask, rng, wait_share):
    """WAIT with some probability, else any valid assignment."""
    valid = np.flatnonzero(mask[1:]) + 1
    if len(valid) == 0 or rng.random() < wait_share:
        return 0
    return int(rng.choice(valid))


def play_random(engine, day, seed=0, wait_share=0.4, check=None) -> Play:
    """Play a day in environment 0; ``check(engine)`` is called before every action."""
    rng = np.random.default_rng(seed)
    engine.start([day])
    play = Play(engine)
    while not engine.ended():
        if check is not None:
            check(engine)
        action = random_action(engine.out.mask[0], rng, wait_share)
        before, logged = engine.now_min(), int(engine.world.counters[0, world.NUM_EVENTS])
        out = engine.step(np.array([action]))
        play.steps.append(
            Step(
                action,
                before,
                engine.now_min(),
                float(out.reward[0]),
                out.terms[0].copy(),
                logged,
                int(engine.world.counters[0, world.NUM_EVENTS]),
            )
        )
        assert len(play.steps) < 20_000, "the day must end"
    return play
