"""The fit: it learns, stops in time, keeps its best pass, and repeats itself to the bit."""

import math

import numpy as np
import pytest
import torch

from services.rl.errors import TrainingError
from services.rl.training.protocol import fit as room
from services.rl.training.protocol.dataset import raw_and_prepared
from services.rl.training.protocol.fit import FitOptions, fit, judged, losses, scaled_rate
from services.rl.training.protocol.throughput import (
    LOOP,
    PREPARED,
    THREADS,
    States,
    epoch_seconds,
    loop_losses,
)

QUICK = FitOptions(batch_size=64, epochs=4, learning_rate=3e-3)


def test_both_terms_fall_and_val_total_is_their_plain_sum(order, engine, data):
    network = order.network(engine, 0)
    before = judged(network, data.val, 0.1)
    result = fit(network, data, FitOptions(batch_size=64, epochs=8, learning_rate=3e-3,
                                           w_policy=0.5, w_value=2.0), 0.1)  # fmt: skip
    best = result.best_epoch
    assert best.val["policy"] < before["policy"] and best.val["value"] < before["value"]
    assert best.val_total == best.val["policy"] + best.val["value"]


def test_the_best_pass_is_kept_not_the_last(order, engine, data, monkeypatch):
    totals = iter([3.0, 1.0, 2.0, 2.0])
    kept = []

    def looked(network, _part, _scale):
        kept.append({k: v.clone() for k, v in network.state_dict().items()})
        return {"policy": next(totals), "value": 0.0}

    monkeypatch.setattr(room, "judged", looked)
    network = order.network(engine, 0)
    result = fit(network, data, QUICK, 0.1)
    assert result.best == 2 and len(result.epochs) == 4 and not result.stopped_early
    for name, values in network.state_dict().items():
        assert torch.equal(values, kept[1][name]), name


def test_patience_ends_a_fit_that_gets_no_better(order, engine, data, monkeypatch):
    totals = iter([5.0, 4.0, 4.0, 4.5, 4.1, 1.0])
    monkeypatch.setattr(room, "judged", lambda *_: {"policy": next(totals), "value": 0.0})
    options = FitOptions(batch_size=64, epochs=50, patience=3)
    result = fit(order.network(engine, 0), data, options, 0.1)
    assert result.stopped_early and result.best == 2 and len(result.epochs) == 5


def test_the_same_seed_gives_the_same_weights_another_does_not(order, engine, data):
    options = FitOptions(batch_size=64, epochs=1)
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(99 + len(weights))  # nothing may hang on what was drawn before
        changed = FitOptions(**{**options.document(), "seed": seed})
        result = fit(order.network(engine, seed), data, changed, 0.1)
        weights.append(torch.cat([w.ravel() for w in result.weights.values()]))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_chunks_change_the_time_not_the_step(order, engine, data):
    ends = []
    for chunk in (17, 512):
        options = FitOptions(batch_size=128, epochs=1, chunk=chunk)
        result = fit(order.network(engine, 0), data, options, 0.1)
        ends.append((result.weights, result.epochs[0].train))
    for name, values in ends[0][0].items():
        assert torch.allclose(values, ends[1][0][name], atol=2e-5), name
    assert ends[0][1] == pytest.approx(ends[1][1], rel=1e-4)


def test_policy_alone_gives_the_value_no_gradient(order, engine, data):
    network = order.network(engine, 0)
    losses(network, data.train.batch(torch.arange(50)), 0.1)[0].backward()
    assert all(
        p.grad is None or float(p.grad.abs().max()) < 1e-12 for p in network.value_parameters()
    )
    losses(network, data.train.batch(torch.arange(50)), 0.1)[1].backward()
    assert any(float(p.grad.abs().max()) > 1e-6 for p in network.value_parameters())


def test_numbers_that_break_are_named(order, engine, data):
    options = FitOptions(batch_size=64, epochs=3, learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"term 'policy' is (nan|inf) in epoch \d"):
        fit(order.network(engine, 0), data, options, 0.1)


def test_a_batch_larger_than_the_set_is_refused(order, engine, data):
    with pytest.raises(TrainingError, match=f"larger than the data set's {len(data.train)} states"):
        fit(order.network(engine, 0), data, FitOptions(batch_size=10_000), 0.1)


def test_the_learning_rate_grows_with_the_root_of_the_batch():
    assert scaled_rate(1e-3, 1024, 4096) == pytest.approx(2e-3)
    assert scaled_rate(1e-3, 1024, 2048) == pytest.approx(1e-3 * math.sqrt(2))


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0}, {"patience": 0}, {"batch_size": 0}, {"learning_rate": 0.0},
        {"learning_rate": math.nan}, {"w_policy": -1.0}, {"w_value": math.inf},
        {"w_policy": 0.0, "w_value": 0.0},
    ],
)  # fmt: skip
def test_impossible_options_are_refused(wrong):
    with pytest.raises(TrainingError):
        FitOptions(**wrong)


def test_passes_take_turns_and_the_first_is_not_counted(order, engine, data, monkeypatch):
    turns = []
    plain = room.train_epoch

    def noted(network, part, options, *rest):
        turns.append(options.batch_size)
        return plain(network, part, options, *rest)

    monkeypatch.setattr(room, "train_epoch", noted)
    both = {"a": FitOptions(batch_size=64), "b": FitOptions(batch_size=128)}
    found = room.side_by_side(lambda: order.network(engine, 0), data.train, both, 0.1, turns=3)
    assert turns == [64, 128] * 4
    assert {name: len(seconds) for name, seconds in found.items()} == {"a": 3, "b": 3}


def test_the_loop_that_prepares_nothing_has_the_same_losses(order, engine):
    shown, returns, part = raw_and_prepared(order, 2)
    network = order.network(engine, 0)
    rows = np.arange(0, len(shown), 7)
    with torch.no_grad():
        expected = loop_losses(network, shown, returns, rows, 0.1)
        found = losses(network, part.batch(torch.from_numpy(rows)), 0.1)
    assert torch.allclose(found, expected, atol=1e-5)


def test_ways_to_load_take_turns_and_leave_the_threads_as_they_were(order, engine):
    states = States(*raw_and_prepared(order, 1))
    before = torch.get_num_threads()
    found = epoch_seconds(
        lambda: order.network(engine, 0), states, FitOptions(batch_size=64), 0.1, threads=2, turns=2
    )
    assert {way: len(seconds) for way, seconds in found.items()} == {
        LOOP: 2,
        PREPARED: 2,
        THREADS: 2,
    }
    assert torch.get_num_threads() == before
