"""The roadmap's flat network."""

import numpy as np
import pytest
import torch

from services.rl.errors import PolicyError
from services.rl.q_networks import FLOOR, QNetwork
from services.rl.simulation.observation import ObservationLayout

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_roadmap_s_network_has_the_roadmap_s_layers():
    layout = ObservationLayout("compact", 10, 20)
    net = QNetwork(layout.size, layout.num_actions)
    shapes = [tuple(p.shape) for p in net.parameters() if p.ndim == 2]
    assert shapes == [(512, 122), (256, 512), (128, 256), (201, 128)]
    assert net(torch.zeros(7, 122)).shape == (7, 201)


@pytest.mark.parametrize("dueling", [False, True])
def test_the_flat_network_floors_what_is_forbidden(dueling):
    torch.manual_seed(0)
    net = QNetwork(5, 9, (16,), dueling=dueling)
    rng = np.random.default_rng(0)
    states = rng.normal(size=(8, 5)).astype(np.float32)
    masks = rng.random((8, 9)) < 0.4
    masks[:, 2] = True
    masks[3] = False  # a final state: nothing is valid, nothing may be NaN
    with torch.no_grad():
        q = net.values(net.prepare(states, masks)).numpy()
    assert np.isfinite(q).all()
    assert ((q > FLOOR) == masks).all()
    actions = torch.full((8,), 2)
    with torch.no_grad():
        prepared = net.prepare(states, masks)
        picked = net.values_of(prepared, actions).numpy()
        features = net.body(prepared[0])
        value = net.value(features)[:, 0].numpy() if dueling else None
    assert np.isfinite(picked).all()
    keep = masks.any(axis=1)
    np.testing.assert_allclose(picked[keep], q[keep, 2], rtol=1e-6)
    if dueling:
        for e in np.flatnonzero(keep):
            assert q[e, masks[e]].mean() == pytest.approx(value[e], abs=1e-5)


@pytest.mark.parametrize("sizes", [(0, 4, (8,)), (4, 0, (8,)), (4, 4, ()), (4, 4, (8, 0))])
def test_a_network_needs_positive_sizes(sizes):
    with pytest.raises(PolicyError, match="positive sizes"):
        QNetwork(*sizes)
