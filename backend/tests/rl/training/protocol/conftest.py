"""Two days of a small fleet, played and prepared once for all tests of the protocol."""

import numpy as np
import pytest
import torch

from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import load_scenario
from services.rl.training.config import production_config
from services.rl.training.protocol.dataset import (
    DataOrder,
    DataSet,
    document_sha256,
    played,
)
from services.rl.training.protocol.prepared import prepared


@pytest.fixture(scope="session")
def order() -> DataOrder:
    config = production_config().changed(hyperparameters={"pair_hidden": 16})
    return DataOrder(load_scenario("geneva_small"), config, days=2, val_days=1)


@pytest.fixture(scope="session")
def engine(order) -> Engine:
    return Engine(order.scenario, 1, observation="rows")


@pytest.fixture(scope="session")
def shown(order):
    """The teacher's two training days: demonstrations and returns."""
    return played(order, np.arange(2))


@pytest.fixture(scope="session")
def data(order, engine, shown) -> DataSet:
    network = order.network(engine, 0)
    val = played(order, np.array([1_000_000]))
    labels = {"train": ["seed:0", "seed:1"], "val": ["seed:1000000"]}
    parts = prepared(network, *shown), prepared(network, *val)
    return DataSet(*parts, order.key(), document_sha256(labels), labels)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
