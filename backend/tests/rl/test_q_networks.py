"""The pair network: the same score for the same pair, whatever stands around it."""

import copy

import numpy as np
import pytest
import torch

from services.rl.errors import PolicyError
from services.rl.policies.pair_network import pair_scores, pair_weights
from services.rl.q_networks import FLOOR, PairArchitecture, PairQNetwork
from services.rl.simulation.edges import EDGE
from services.rl.simulation.scenarios import load_scenario

from .pair_states import SCENARIOS, network_of, states_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def geneva():
    return states_of(load_scenario("geneva_overload"))


def values(net, rows, masks):
    with torch.no_grad():
        return net.values(net.prepare(rows, masks)).numpy()


def reordered(layout, rows, masks, drivers, bookings):
    """The same states with drivers and bookings in another order (open bookings stay first)."""
    parts = {name: part.copy() for name, part in layout.unpack(rows).items()}
    parts["drivers"] = parts["drivers"][:, drivers]
    parts["bookings"] = parts["bookings"][:, bookings]
    pairs = masks[:, 1:].reshape(-1, layout.num_drivers, layout.max_bookings)
    pairs = pairs[:, drivers][:, :, bookings]
    return packed(parts), np.concatenate([masks[:, :1], pairs.reshape(len(rows), -1)], axis=1)


def packed(parts):
    lead = len(parts["context"])
    return np.concatenate(
        [parts[name].reshape(lead, -1) for name in ("context", "drivers", "bookings")], axis=1
    )


def table(layout, q):
    """Q of pairs ``(B, N, M)``."""
    return q[:, 1:].reshape(len(q), layout.num_drivers, layout.max_bookings)


@pytest.mark.parametrize("dueling", [False, True])
def test_renaming_drivers_and_bookings_renames_their_values(geneva, dueling):
    engine, rows, masks = geneva
    net, layout = network_of(engine, dueling=dueling), engine.layout
    rng = np.random.default_rng(0)
    full = layout.unpack(rows)["bookings"][:, :, 0].all(axis=1)  # no padding among the bookings
    rows, masks = rows[full], masks[full]
    assert len(rows) > 3
    drivers, bookings = rng.permutation(10), rng.permutation(20)
    before = values(net, rows, masks)
    after = values(net, *reordered(layout, rows, masks, drivers, bookings))
    np.testing.assert_allclose(after[:, 0], before[:, 0], rtol=1e-4, atol=1e-4)
    expected = table(layout, before)[:, drivers][:, :, bookings]
    assert ((expected > FLOOR) == (table(layout, after) > FLOOR)).all()
    np.testing.assert_allclose(table(layout, after), expected, rtol=1e-4, atol=1e-4)
    assert np.ptp(expected[expected > FLOOR]) > 0.1  # the values do differ


@pytest.mark.parametrize("dueling", [False, True])
def test_padding_changes_nothing(geneva, dueling):
    """Absent drivers and more empty places for bookings leave all values as they are."""
    engine, rows, masks = geneva
    net = network_of(engine, dueling=dueling)
    n, m, more_n, more_m = 10, 20, 13, 31
    parts = engine.layout.unpack(rows)
    wide = {
        "context": parts["context"],
        # An absent driver is not all zeros: its shift never comes.
        "drivers": np.full((len(rows), more_n, parts["drivers"].shape[2]), 7.5, dtype=np.float32),
        "bookings": np.zeros((len(rows), more_m, parts["bookings"].shape[2]), dtype=np.float32),
    }
    wide["drivers"][:, :n] = parts["drivers"]
    wide["drivers"][:, n:, 11] = 0.0  # not present
    wide["bookings"][:, :m] = parts["bookings"]
    wide_pairs = np.zeros((len(rows), more_n, more_m), dtype=np.bool_)
    wide_pairs[:, :n, :m] = masks[:, 1:].reshape(-1, n, m)
    wide_masks = np.concatenate([masks[:, :1], wide_pairs.reshape(len(rows), -1)], axis=1)
    wider = PairQNetwork(more_n, more_m, net._features, net.shape)
    wider.load_state_dict(net.state_dict())
    before, after = values(net, rows, masks), values(wider, packed(wide), wide_masks)
    np.testing.assert_allclose(after[:, 0], before[:, 0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        table(wider.layout, after)[:, :n, :m], table(engine.layout, before), rtol=1e-5, atol=1e-5
    )
    assert (table(wider.layout, after)[:, n:] == FLOOR).all()


def test_one_set_of_weights_serves_any_fleet():
    weights, means = None, {}
    for name in ("five drivers", "geneva", "forty drivers"):
        engine, rows, masks = states_of(SCENARIOS[name](), bookings=30)
        net = network_of(engine)
        weights = weights or net.state_dict()
        net.load_state_dict(weights)
        q = values(net, rows, masks)
        assert q.shape == (len(rows), engine.num_drivers * 30 + 1)
        assert np.isfinite(q).all()
        means[name] = q[q > FLOOR].mean()
    assert len(set(means.values())) == 3


@pytest.mark.parametrize("hold_back", [20.0, np.inf])
def test_only_valid_pairs_that_are_due_are_considered(geneva, hold_back):
    engine, rows, masks = geneva
    net = network_of(engine, hold_back_min=hold_back)
    prepared = net.prepare(rows, masks)
    considered = net.considered(prepared).numpy()
    q = values(net, rows, masks)
    assert not (considered & ~masks).any()
    assert considered[:, 0].all()
    assert ((q > FLOOR) == considered).all()
    assert np.isfinite(q).all() and (q[~considered] == FLOOR).all()
    slack = prepared.edges[:, EDGE.index("slack_min")].numpy() * 30
    if hold_back == np.inf:
        np.testing.assert_array_equal(considered, masks)
        assert slack.max() > 40
    else:
        assert 1 < considered.sum() < masks.sum()
        assert slack.max() <= hold_back + 1e-3


@pytest.mark.parametrize("dueling", [False, True])
def test_values_of_actions_are_the_values_gathered(geneva, dueling):
    engine, rows, masks = geneva
    net = network_of(engine, dueling=dueling)
    rng = np.random.default_rng(0)
    considered = net.considered(net.prepare(rows, masks)).numpy()
    for choose in (lambda row: 0, lambda row: row[-1], rng.choice):
        actions = np.array([choose(np.flatnonzero(row)) for row in considered])
        prepared = net.prepare(rows, masks, actions)
        with torch.no_grad():
            picked = net.values_of(prepared, torch.from_numpy(actions)).numpy()
            every = net.values(prepared).numpy()
        np.testing.assert_allclose(picked, every[np.arange(len(rows)), actions], rtol=1e-5)


@pytest.mark.parametrize("dueling", [False, True])
def test_an_action_taken_keeps_its_value_though_it_could_have_waited(geneva, dueling):
    """A teacher's assignment that the hold-back would not have offered can be learned from."""
    engine, rows, masks = geneva
    net = network_of(engine, hold_back_min=5.0, dueling=dueling)
    every = network_of(engine, hold_back_min=np.inf, dueling=dueling)
    held = masks & ~net.considered(net.prepare(rows, masks)).numpy()
    states = np.flatnonzero(held.any(axis=1))
    assert len(states) > 3
    actions = held.argmax(axis=1)  # WAIT where nothing is held back
    prepared = net.prepare(rows, masks, actions)
    assert net.considered(prepared).numpy()[np.arange(len(rows)), actions].all()
    with torch.no_grad():
        q = net.values_of(prepared, torch.from_numpy(actions)).numpy()
        full = net.values(prepared).numpy()
    np.testing.assert_allclose(q, full[np.arange(len(rows)), actions], rtol=1e-5)
    assert (q > FLOOR).all()
    assert (values(net, rows, masks)[states, actions[states]] == FLOOR).all()
    # Features of the pair alone are those it has among all pairs.
    own = [i for i, name in enumerate(EDGE) if name not in ("missed_min", "bookings")]
    p, r = prepared, every.prepare(rows, masks)
    for e in states:
        d, b = divmod(actions[e] - 1, 20)
        mine = (p.state == e) & (p.driver == d) & (p.booking == b)
        theirs = (r.state == e) & (r.driver == d) & (r.booking == b)
        assert torch.equal(p.edges[mine][0, own], r.edges[theirs][0, own])


def test_dueling_takes_the_mean_over_what_is_considered(geneva):
    """So that the values of a state average to V, forbidden and held-back pairs not counted."""
    engine, rows, masks = geneva
    net = network_of(engine, dueling=True)
    prepared = net.prepare(rows, masks)
    q = values(net, rows, masks)
    considered = net.considered(prepared).numpy()
    with torch.no_grad():
        value = net.state_value(*net.encode(prepared)).numpy()
    for e in range(len(rows)):
        assert q[e, considered[e]].mean() == pytest.approx(value[e], abs=1e-4)


@pytest.mark.parametrize("dueling", [False, True])
def test_the_gradient_reaches_every_parameter(geneva, dueling):
    engine, rows, masks = geneva
    net = network_of(engine, dueling=dueling)
    considered = net.considered(net.prepare(rows, masks)).numpy()
    actions = np.array([np.flatnonzero(row)[-1] for row in considered])
    actions[: len(rows) // 3] = 0
    assert (actions > 0).sum() > 3
    prepared = net.prepare(rows, masks, actions)
    (net.values_of(prepared, torch.from_numpy(actions)) ** 2).sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


# --- compiled ------------------------------------------------------------------------------------


@pytest.mark.parametrize("edges", [True, False])
@pytest.mark.parametrize("name", SCENARIOS)
def test_compiled_scores_are_the_advantages_over_waiting(name, edges):
    """To 1e-4 of the scale of the scores, with the reward scale multiplied in."""
    engine, rows, masks = states_of(SCENARIOS[name]())
    net, layout, scale = network_of(engine, edges=edges), engine.layout, 10.0
    prepared = net.prepare(rows, masks)
    q = values(net, rows, masks)
    weights = pair_weights({k: v.numpy() for k, v in net.state_dict().items()}, scale=scale)
    compared = 0
    for e in range(len(rows)):
        mine = prepared.state.numpy() == e
        if not mine.any():
            continue
        drivers, bookings = prepared.driver.numpy()[mine], prepared.booking.numpy()[mine]
        scores = np.zeros(mine.sum(), dtype=np.float32)
        pair_scores(
            weights,
            rows[e],
            layout.num_drivers,
            layout.max_bookings,
            prepared.edges.numpy()[mine],
            drivers,
            bookings,
            scores,
        )
        expected = q[e, 1 + drivers * layout.max_bookings + bookings] - q[e, 0]
        np.testing.assert_allclose(scores / scale, expected, rtol=1e-4, atol=1e-4)
        compared += len(scores)
    assert compared > 10


def test_weights_of_another_network_are_refused(geneva):
    net = network_of(geneva[0])
    weights = {k: v.numpy() for k, v in net.state_dict().items()}
    with pytest.raises(PolicyError, match=r"no parameter 'wait_score.bias'"):
        pair_weights({k: v for k, v in weights.items() if k != "wait_score.bias"})
    with pytest.raises(PolicyError, match="other features"):
        pair_weights({**weights, "pair_edge.weight": weights["pair_edge.weight"][:, :-1]})


def test_states_of_another_size_are_refused(geneva):
    """Compiled code would read beyond the end of the array."""
    engine, rows, masks = geneva
    net = network_of(engine)
    with pytest.raises(PolicyError, match="10 drivers and 20 bookings"):
        net.prepare(rows[:, :-1], masks)
    with pytest.raises(PolicyError, match="10 drivers and 20 bookings"):
        net.prepare(rows, masks[:, :-1])
    with pytest.raises(PolicyError, match="without a scenario"):
        PairQNetwork(10, 20, None).prepare(rows, masks)


def test_an_architecture_builds_the_same_network_again(geneva):
    net = network_of(geneva[0], dueling=True, hidden=16)
    told = net.architecture()
    sizes = {name: told[name] for name in PairArchitecture.__dataclass_fields__}
    again = PairQNetwork(told["num_drivers"], told["max_bookings"], None, PairArchitecture(**sizes))
    again.load_state_dict(net.state_dict())
    assert again.architecture() == told
    assert copy.deepcopy(net).architecture() == told
