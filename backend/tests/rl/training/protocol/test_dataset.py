"""The data set: whole days, returns that add up, a loader that computes nothing, a checked file."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from services.rl.dqn_agent import AgentOptions, DQNAgent
from services.rl.errors import TrainingError
from services.rl.q_networks import FLOOR
from services.rl.simulation.edges import NUM_EDGE
from services.rl.training.export import TorchSession, graph_of
from services.rl.training.imitation import policy_loss
from services.rl.training.protocol import dataset
from services.rl.training.protocol.dataset import DataOrder, data_set
from services.rl.training.protocol.fit import FitOptions, fit, losses, train_epoch
from services.rl.training.protocol.prepared import PreparedSet, dense, prepared


@pytest.fixture
def rows():
    return torch.randperm(200, generator=torch.Generator().manual_seed(1))[:97]


def agent_of(order, engine, seed=3) -> DQNAgent:
    network = order.network(engine, seed)
    with torch.no_grad():  # a fresh network's advantages are next to nothing
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(seed)
            )
    layout = network.layout
    return DQNAgent(
        layout.size, layout.num_actions, network=network, options=AgentOptions(reward_scale=0.1)
    )


def test_a_batch_by_index_has_the_loss_of_imitation_on_the_same_rows(
    order, engine, shown, data, rows
):
    agent = agent_of(order, engine)
    days, _ = shown
    at = rows.numpy()
    expected = policy_loss(agent, days.state[at], days.mask[at], days.right[at])
    found = losses(agent.online, data.train.batch(rows), 0.1)
    assert found[0].item() == pytest.approx(expected.item(), rel=2e-6)


def test_its_gradients_are_those_of_imitation(order, engine, shown, data, rows):
    agent = agent_of(order, engine)
    days, at = shown[0], rows.numpy()
    gradients = []
    for loss in (
        policy_loss(agent, days.state[at], days.mask[at], days.right[at]),
        losses(agent.online, data.train.batch(rows), 0.1)[0],
    ):
        agent.online.zero_grad()
        loss.backward()
        gradients.append(
            {
                name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
                for name, p in agent.online.named_parameters()
            }
        )
    for name, expected in gradients[0].items():
        scale = 1e-6 + float(expected.abs().max())
        assert float((gradients[1][name] - expected).abs().max()) <= 1e-4 * scale + 1e-5, name


def test_the_value_term_is_huber_of_v_and_the_observed_return(order, engine, shown, data, rows):
    agent = agent_of(order, engine)
    network = agent.online
    state, mask = (part[rows.numpy()] for part in (shown[0].state, shown[0].mask))
    with torch.no_grad():
        value = network.advantages(network.prepare(state, mask))[0]
        error = (value - torch.from_numpy(shown[1][rows.numpy()])).abs()
        expected = torch.where(error < 1, 0.5 * error**2, error - 0.5).mean()
        found = losses(network, data.train.batch(rows), 0.1)[1]
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_returns_are_discounted_sums_to_the_days_end(order, shown):
    """Played again by hand: one day, its rewards as the stream pays them."""
    cohort = dataset._Cohort(order, np.array([0]), None, None)
    days, returns = shown
    # The first cohort interleaves its two days: even rows are day 0 while both run.
    states = {row.tobytes(): float(r) for row, r in zip(days.state, returns, strict=True)}
    gamma = order.config.hyperparameters.gamma
    rewards, dts, seen = [], [], []
    right = {row.tobytes(): r.argmax() for row, r in zip(days.state, days.right, strict=True)}
    while not rewards or cohort._going[0]:
        row = cohort.engine.out.observation[0].tobytes()
        seen.append(row)
        cohort.step(np.array([right[row]]))
        rewards.append(cohort.rewards[-1][0])
        dts.append(cohort.epochs[-1][0])
    total = 0.0
    for row, reward, dt in reversed(list(zip(seen, rewards, dts, strict=True))):
        total = reward + gamma**dt * total
        assert states[row] == pytest.approx(0.1 * total, abs=1e-4)
    assert total > 0


def test_every_day_is_whole_and_played_once(order, shown):
    days, _ = shown
    ends = days.state[:, 0]  # day_elapsed
    assert np.sum(ends == ends.min()) >= 2
    alone = [len(dataset.played(order, np.array([day]))[1]) for day in (0, 1)]
    assert len(days) == sum(alone)


def test_no_feature_is_computed_while_epochs_run(order, engine, data, monkeypatch):
    network = order.network(engine, 0)
    network._features.computed = 0
    result = fit(network, data, FitOptions(batch_size=64, epochs=2), 0.1)
    assert [e.features for e in result.epochs] == [0, 0]


def test_a_loader_that_computes_features_is_found_out(order, engine, data, shown, monkeypatch):
    network = order.network(engine, 0)
    plain = PreparedSet.batch

    def lazy(self, rows):
        network.prepare(shown[0].state[:1], shown[0].mask[:1])
        return plain(self, rows)

    monkeypatch.setattr(PreparedSet, "batch", lazy)
    result = fit(network, data, FitOptions(batch_size=64, epochs=1), 0.1)
    assert result.document()["features_computed"] > 0


def test_an_epoch_neither_reads_files_nor_copies_arrays(order, engine, data, monkeypatch):
    network = order.network(engine, 0)
    optimizer = torch.optim.Adam(network.parameters())

    def forbidden(*_, **__):
        raise AssertionError("an epoch must only index tensors")

    for owner, name in ((np, "load"), (torch, "from_numpy"), (torch, "as_tensor"), (np, "array")):
        monkeypatch.setattr(owner, name, forbidden)
    monkeypatch.setattr("builtins.open", forbidden)
    train_epoch(network, data.train, FitOptions(batch_size=64), optimizer, torch.Generator(), 0.1)


def test_dense_states_are_those_of_the_pairs(data):
    rows = torch.tensor([5, 200, 17])
    feed = dense(data.train, rows)
    pair, state = data.train.pairs_of(rows)
    found = feed["edges"][state, data.train.driver[pair], data.train.booking[pair]]
    assert (found == data.train.pair_rows[pair, -NUM_EDGE:].numpy()).all()
    assert feed["mask"].sum() == len(pair) + 3


def test_the_graph_that_is_exported_answers_on_dense_states_as_the_network(
    order, engine, shown, data, rows
):
    agent = agent_of(order, engine)
    state, mask = (part[rows.numpy()] for part in (shown[0].state, shown[0].mask))
    expected = agent.q_values(state, mask)
    graph = graph_of(copy.deepcopy(agent.online), agent.options.reward_scale)
    feed = dense(data.train, rows)
    found = TorchSession(graph, graph.inputs).run(None, feed)[0]
    assert (feed["mask"] == (expected > 0.5 * FLOOR)).all()
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-3)


# --- the file ------------------------------------------------------------------------------------


@pytest.fixture
def one_day(order) -> DataOrder:
    return dataclasses.replace(order, days=1)


def test_a_set_is_read_again_with_the_same_hash(atmr_home, one_day):
    said = []
    made = data_set(one_day, said.append)
    assert any("plays" in line for line in said)
    said.clear()
    again = data_set(one_day, said.append)
    assert not any("plays" in line for line in said)
    assert again.sha256 == made.sha256
    assert torch.equal(again.train.pair_rows, made.train.pair_rows)
    assert not list(one_day.path().parent.glob(".*"))


def test_a_damaged_file_is_made_again_but_refused_when_resuming(atmr_home, one_day):
    made = data_set(one_day)
    path = one_day.path()
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(TrainingError, match="cannot be read"):
        data_set(one_day, expected=made.sha256)
    said = []
    assert data_set(one_day, said.append).sha256 == made.sha256
    assert any("made again" in line for line in said)


def test_altered_arrays_do_not_pass_for_the_set(atmr_home, one_day):
    made = data_set(one_day)
    with np.load(one_day.path()) as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays["train.returns"] = arrays["train.returns"] + 1
    np.savez(one_day.path(), **arrays)
    said = []
    assert data_set(one_day, said.append).sha256 == made.sha256
    assert any("damaged" in line for line in said)


def test_resuming_on_another_set_is_refused_with_both_hashes(atmr_home, one_day):
    made = data_set(one_day)
    with pytest.raises(TrainingError, match=f"{'f' * 64}, this one is {made.sha256}"):
        data_set(one_day, expected="f" * 64)


@pytest.mark.parametrize(
    "change", [{"days": 3}, {"teacher": "nearest"}, {"hyperparameters": {"gamma": 0.9}}]
)
def test_another_recipe_is_another_set(order, change):
    if "hyperparameters" in change:
        change = {"config": order.config.changed(**change)}
    assert dataclasses.replace(order, **change).key() != order.key()


def test_states_whose_commitments_are_not_considered_are_taught_to_wait(order, engine, shown):
    days = copy.copy(shown[0])
    config = order.config.changed(hyperparameters={"hold_back_min": 0.001})
    strict = dataclasses.replace(order, config=config).network(engine, 0)
    part = prepared(strict, days, shown[1])
    owner = torch.repeat_interleave(part.starts.diff())
    some = torch.zeros(len(part)).index_add(0, owner, part.right.float()) > 0
    assert (some | part.right_wait).all()
    assert part.right_wait.sum() > days.right[:, 0].sum()
