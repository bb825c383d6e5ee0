"""A copied or unpickled engine must own its memory: lookahead and worker processes rely on it."""

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest

from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import load_scenario


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda engine: pickle.loads(pickle.dumps(engine))],  # noqa: S301
    ids=["deepcopy", "pickle"],
)
def test_a_copied_engine_goes_its_own_way(duplicate: Callable[[Engine], Engine]) -> None:
    engine = Engine(load_scenario("geneva_small"))
    engine.start(5)
    wait = np.zeros(1, dtype=np.int64)
    for _ in range(20):
        engine.step(wait)
    twin = duplicate(engine)
    assert twin.now_min() == engine.now_min() == 100.0
    twin.step(wait)
    assert (twin.now_min(), engine.now_min()) == (105.0, 100.0)
    engine.step(wait)
    assert np.array_equal(twin.out.observation, engine.out.observation)
    assert twin.kpis() == engine.kpis()
