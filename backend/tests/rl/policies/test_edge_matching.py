"""Matching on edges: one state or whole days, linear weights or a network."""

import numpy as np
import pytest

from services.rl.policies import kernels
from services.rl.policies.edge_matching import (
    LINEAR,
    NETWORK,
    decide_edge_matching,
    play_edge_matching,
)
from services.rl.policies.pair_network import (
    NO_NETWORK,
    context_of,
    pair_ceiling,
    pair_scores,
    pair_weights,
)
from services.rl.policies.tuning import UNTUNED, UNTUNED_LINEAR
from services.rl.simulation.edges import EDGE, NUM_EDGE, edges_of_rows
from services.rl.simulation.engine import Engine
from services.rl.simulation.host import HostWorld
from services.rl.simulation.scenarios import load_scenario
from services.rl.simulation.types import DispatchState

from ..pair_states import SCENARIOS as EVERY_SIZE
from ..pair_states import network_of
from ..simulation.worlds import disturbed, manhattan, small_with_shift_ends

pytestmark = pytest.mark.usefixtures("one_thread")

SCENARIOS = {
    "geneva": lambda: load_scenario("geneva"),
    "overload": lambda: load_scenario("geneva_overload"),
    "shift ends": small_with_shift_ends,
    "disturbed": disturbed,
}


def as_edges(weights):
    """`matching`'s weights on the edges of the same names: no other edge counts."""
    scale = {"value": 10.0}  # edges hold it in tens
    by_name = dict(zip(kernels.PAIR_FEATURES, weights, strict=True))
    assert set(by_name) <= set(EDGE)
    return np.array([by_name.get(name, 0.0) * scale.get(name, 1.0) for name in EDGE])


def chosen_at(engine, decide, env=0):
    """``[(driver, booking row, score)]`` that a kernel commits now."""
    chosen = np.empty((engine.num_envs, 400, 3))
    count = decide(engine.memory, chosen)
    return [(int(d), int(row), float(score)) for d, row, score in chosen[env, :count]]


def linear(weights, hold_back):
    return lambda memory, chosen: decide_edge_matching(
        *memory, 0, LINEAR, weights, NO_NETWORK, hold_back, chosen
    )


def matching(weights, hold_back):
    nothing = np.zeros(1, dtype=np.uint64)
    return lambda memory, chosen: kernels.decide_epoch(
        *memory, kernels.MATCHING, 0, weights, hold_back, nothing, chosen
    )


def play_by_epochs(engine, decide):
    """Decide epoch by epoch; returns all commitments of the day."""
    taken = []
    while not engine.ended():
        taken += [(engine.now_min(), *c) for c in chosen_at(engine, decide)]
        engine.wait(0)
    return taken


@pytest.mark.parametrize("kind", [LINEAR, NETWORK])
@pytest.mark.parametrize("name", SCENARIOS)
def test_deciding_epoch_by_epoch_plays_the_days_of_the_batch(name, kind):
    scenario, days = SCENARIOS[name](), [3, 4, 5]
    weights, hold_back = UNTUNED_LINEAR.array(), 40.0
    engine = Engine(scenario, len(days))
    network = NO_NETWORK
    if kind == NETWORK:
        net = network_of(Engine(scenario, observation="rows"))
        network = pair_weights({k: v.numpy() for k, v in net.state_dict().items()})
    engine.start(days)
    play_edge_matching(*engine.memory, kind, weights, network, hold_back)
    for env, day in enumerate(days):
        single = Engine(scenario)
        single.start([day])
        play_by_epochs(
            single,
            lambda memory, chosen: decide_edge_matching(
                *memory, 0, kind, weights, network, hold_back, chosen
            ),
        )
        assert single.kpis() == engine.kpis(env)
        assert single.history().tobytes() == engine.history(env).tobytes()
        assert single.kpis()["completed"] > 10


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_state_from_outside_is_decided_as_in_the_engine(name):
    scenario = SCENARIOS[name]()
    engine, host = Engine(scenario), HostWorld(scenario, observation="rows")
    engine.start([8])
    decide, compared = linear(UNTUNED_LINEAR.array(), 40.0), 0
    while not engine.ended():
        state = DispatchState.from_json(engine.state().to_json())
        rows = engine.open_rows()
        host.load(state)
        theirs = chosen_at(host.engine, decide)
        ours = chosen_at(engine, decide)
        # A row of the state is a position among the engine's open bookings.
        assert [(d, int(rows[i]), score) for d, i, score in theirs] == ours
        compared += len(ours)
        engine.wait(0)
    assert compared > 10


@pytest.mark.parametrize("name", SCENARIOS)
def test_on_matching_s_own_features_it_decides_as_matching_does(name):
    """Up to the map: rows are flat and in float32, so that pairs within seconds may swap.

    Measured: 1,002 of 1,006 commitments. States are `matching`'s own, so that one difference does
    not lead to others.
    """
    scenario = SCENARIOS[name]()
    weights, hold_back = UNTUNED.array(), UNTUNED.hold_back_min
    ours, theirs = linear(as_edges(weights), hold_back), matching(weights, hold_back)
    engine, host = Engine(scenario), HostWorld(scenario, observation="rows")
    same = total = 0
    for day in range(4):
        engine.start([day])
        while not engine.ended():
            rows = engine.open_rows()
            host.load(engine.state())
            linear_choice = [
                (d, int(rows[i]), score) for d, i, score in chosen_at(host.engine, ours)
            ]
            choice = chosen_at(engine, theirs)
            total += max(len(choice), len(linear_choice))
            scores = {(d, row): score for d, row, score in choice}
            for d, row, score in linear_choice:
                if (d, row) in scores:
                    same += 1
                    # 0.2 minutes of travel, at 0.4 to 0.8 points a minute.
                    assert score == pytest.approx(scores[d, row], abs=0.2)
            engine.wait(0)
    assert total > 50
    assert same / total > 0.98


def test_between_zones_it_differs_from_matching_by_ties_alone(tmp_path):
    """No map: scores differ by float32 alone, and only what is worth the same may swap."""
    scenario, source, days = manhattan(tmp_path)
    weights = UNTUNED.array() + np.linspace(0, 0.01, len(kernels.PAIR_FEATURES))
    ours, theirs = linear(as_edges(weights), 60.0), matching(weights, 60.0)
    engine = Engine(scenario, days=days, source=source)
    host = HostWorld(scenario, source=source)
    compared = 0
    for day in range(len(days)):
        engine.start([day])
        while not engine.ended():
            host.load(engine.state())
            mine = [score for _, _, score in chosen_at(host.engine, ours)]
            scores = [score for _, _, score in chosen_at(engine, theirs)]
            assert len(mine) == len(scores)
            assert sum(mine) == pytest.approx(sum(scores), abs=1e-3)
            compared += len(scores)
            engine.wait(0)
    assert compared > 30


def test_without_a_positive_score_everything_waits():
    engine = Engine(load_scenario("geneva"))
    engine.start([1])
    weights = np.zeros(NUM_EDGE)
    assert chosen_at(engine, linear(weights, np.inf)) == []
    weights[EDGE.index("bias")] = 1.0
    assert chosen_at(engine, linear(weights, -1e9)) == []
    taken = chosen_at(engine, linear(weights, np.inf))
    assert len(taken) > 5
    assert len({row for _, row, _ in taken}) == len(taken)


# --- pairs that are not scored -------------------------------------------------------------------


def decided_on_all_pairs(host, weights, network, hold_back):
    """``[(driver, row, score)]`` by complete edges and the score of every pair, round by round."""
    drivers, taken = host.layout.num_drivers, []
    while True:
        host.engine.observe(0)
        rows, mask = host.engine.out.observation[:1], host.engine.out.mask[:1] != 0
        room, shown = int(mask.sum()) + 1, host.layout.max_bookings
        edges = np.empty((room, NUM_EDGE), dtype=np.float32)
        driver, booking = np.empty(room, dtype=np.int64), np.empty(room, dtype=np.int64)
        ends = np.zeros(1, dtype=np.int64)
        edges_of_rows(
            *host.memory, rows, mask, drivers, shown, hold_back, np.full(1, -1), ends, edges,
            driver, booking,
        )  # fmt: skip
        pairs = int(ends[0])
        learned = np.zeros(pairs, dtype=np.float32)
        if network is not NO_NETWORK:
            pair_scores(network, rows[0], drivers, shown, edges[:pairs], driver, booking, learned)
        total = learned.astype(np.float64)
        for k in range(NUM_EDGE):
            total += weights[k] * edges[:pairs, k]
        open_rows = host.open_rows().copy()
        score = np.zeros((drivers, max(1, len(open_rows))))
        score[driver[:pairs], booking[:pairs]] = np.maximum(total, 0.0)
        if not score.any():
            return taken
        for i, d in sorted(((i, d) for d, i in enumerate(kernels.assign(score))), reverse=True):
            if i >= 0 and score[d, i] > 0.0:
                taken.append((d, int(open_rows[i]), float(score[d, i])))
                host.engine.commit(0, d, int(open_rows[i]))


@pytest.mark.parametrize("kind", [LINEAR, NETWORK])
@pytest.mark.parametrize("name", ["geneva", "overload", "forty drivers", "no edges"])
def test_leaving_out_hopeless_pairs_changes_no_decision(name, kind):
    """To the bit: the same commitments, in the same order, at the same scores."""
    scenario = EVERY_SIZE["geneva" if name == "no edges" else name]()
    engine = Engine(scenario)
    weights, network = UNTUNED_LINEAR.array(), NO_NETWORK
    if kind == NETWORK:
        net = network_of(Engine(scenario, observation="rows"), edges=name != "no edges")
        network = pair_weights({k: v.numpy() for k, v in net.state_dict().items()})
        weights = 0.3 * weights
    plain = HostWorld(scenario, observation="rows")
    whole = HostWorld(scenario, observation="rows", max_bookings=400)
    compared = 0
    engine.start([11])
    while not engine.ended():
        state, rows = engine.state(), engine.open_rows()
        plain.load(state)
        ours = chosen_at(
            plain.engine,
            lambda memory, chosen: decide_edge_matching(
                *memory, 0, kind, weights, network, 40.0, chosen
            ),
        )
        if len(rows) <= 400:
            whole.load(state)
            theirs = decided_on_all_pairs(whole, weights, network, 40.0)
            assert ours == theirs
            compared += len(ours)
        for d, i, _score in ours:
            engine.commit(0, d, int(rows[i]))
        engine.wait(0)
    assert compared > 10


def test_the_ceiling_lies_above_every_score_and_leaves_out_most():
    """On a trained-like network: large linear weights beside a small hidden part."""
    scenario = EVERY_SIZE["forty drivers"]()
    host = HostWorld(scenario, observation="rows", max_bookings=400)
    net = network_of(Engine(scenario, observation="rows"))
    network = pair_weights({k: v.numpy() for k, v in net.state_dict().items()})
    network = network._replace(
        pair_score=network.pair_score * np.float32(0.1),
        edge_score=UNTUNED_LINEAR.array().astype(np.float32),
    )
    engine, nothing = Engine(scenario), np.zeros(NUM_EDGE)
    engine.start([5])
    kept = pairs = 0
    for _ in range(60):
        host.load(engine.state())
        rows, mask = host.engine.out.observation[:1], host.engine.out.mask[:1] != 0
        room, shown, drivers = int(mask.sum()) + 1, 400, host.layout.num_drivers
        edges = np.empty((room, NUM_EDGE), dtype=np.float32)
        driver, booking = np.empty(room, dtype=np.int64), np.empty(room, dtype=np.int64)
        ends = np.zeros(1, dtype=np.int64)
        edges_of_rows(
            *host.memory, rows, mask, drivers, shown, 40.0, np.full(1, -1), ends, edges, driver,
            booking,
        )  # fmt: skip
        n = int(ends[0])
        if n:
            scores = np.zeros(n, dtype=np.float32)
            pair_scores(network, rows[0], drivers, shown, edges[:n], driver, booking, scores)
            context = np.empty(24, dtype=np.float32)
            wait = context_of(network, rows[0], drivers, shown, context)
            c = pair_ceiling(network, nothing, rows[0], drivers, shown, context, wait, edges[:n])
            x = edges[:n] - c.centre
            ceiling = c.driver[driver[:n]] + c.booking[booking[:n]]
            ceiling += np.maximum(c.rising * x, c.falling * x).sum(1)
            assert (ceiling > scores).all()
            kept, pairs = kept + int((ceiling > 0.0).sum()), pairs + n
        engine.wait(0)
    assert 0 < kept < 0.8 * pairs
