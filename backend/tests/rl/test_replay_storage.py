"""The replay buffer: saving, refusing, and what a transition weighs."""

import dataclasses

import numpy as np
import pytest

from services.rl import replay_buffer
from services.rl.errors import DataError, UsageError
from services.rl.replay_buffer import Batch, ReplayBuffer
from services.rl.simulation.observation import ObservationLayout

from .test_replay_buffer import A, S, push_numbered, stored

FIELDS = [field.name for field in dataclasses.fields(Batch)]


def same(a, b):
    for name in FIELDS:
        x, y = getattr(a, name), getattr(b, name)
        assert x.dtype == y.dtype and x.tobytes() == y.tobytes(), name


def made(prioritised=True, seed=0, **sizes):
    options = {"capacity": 20, "state_dim": S, "action_dim": A, "n_step": 3, "num_lanes": 2}
    return ReplayBuffer(**(options | sizes), prioritised=prioritised, seed=seed)


@pytest.mark.parametrize("count", [10, 70])  # part of the ring, and several times round
@pytest.mark.parametrize("prioritised", [False, True])
def test_a_restored_buffer_goes_on_to_the_bit(tmp_path, prioritised, count):
    """Also the starts that wait for their n-th reward, and the generator of the samples."""
    original = made(prioritised)
    push_numbered(original, 0, count, lanes=2)
    batch = original.sample(8)
    original.update_priorities(batch.index, batch.reward)
    original.save(tmp_path)
    restored = made(prioritised, seed=99)
    push_numbered(restored, 500, 30, lanes=2)  # to be forgotten
    restored.restore(tmp_path)
    same(stored(original), stored(restored))
    for first in (1000, 1002, 1100):
        for buffer in (original, restored):
            push_numbered(buffer, first, 6, lanes=2)
        one, two = original.sample(16), restored.sample(16)
        same(one, two)
        original.update_priorities(one.index, one.reward)
        restored.update_priorities(two.index, two.reward)
    same(stored(original), stored(restored))
    assert original.pushed == restored.pushed


def test_no_file_is_a_pickle(tmp_path):
    buffer = made()
    push_numbered(buffer, 0, 10, lanes=2)
    buffer.save(tmp_path)
    for path in tmp_path.glob("*.npy"):
        np.load(path, allow_pickle=False)
    assert {path.suffix for path in tmp_path.iterdir()} == {".npy", ".json"}


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"capacity": 21}, "capacity is 20, this run has 21"),
        ({"state_dim": 4}, "state_dim is 3, this run has 4"),
        ({"action_dim": 12}, "action_dim is 11"),
        ({"n_step": 2}, "n_step is 3"),
        ({"num_lanes": 1}, "num_lanes is 2"),
        ({"prioritised": False}, "prioritised is True, this run has False"),
    ],
)
def test_another_buffer_s_files_are_refused(tmp_path, sizes, said):
    buffer = made()
    push_numbered(buffer, 0, 10, lanes=2)
    buffer.save(tmp_path)
    with pytest.raises(DataError, match=said):
        made(**sizes).restore(tmp_path)


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


def _longer(path):
    array = np.load(path)
    np.save(path, np.concatenate([array, array]))


def _other_type(path):
    np.save(path, np.load(path).astype(np.float16))


DAMAGE = [
    ("ring_state.npy", _truncate),
    ("ring_state.npy", _longer),
    ("ring_action.npy", _other_type),
    ("ring_mask.npy", lambda path: path.unlink()),
    ("lanes_reward.npy", _longer),
    ("lanes_state.npy", _other_type),
    ("tree.npy", _longer),
    ("buffer.json", lambda path: path.write_text("[]")),
    ("buffer.json", lambda path: path.write_text(path.read_text().replace('"size"', '"sise"'))),
    ("buffer.json", lambda path: path.write_text(path.read_text().replace("PCG64", "PCG65"))),
    ("buffer.json", lambda path: path.write_text(path.read_text()[:60])),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGE)
def test_damaged_files_are_refused_and_the_buffer_stays_as_it_was(tmp_path, name, damage):
    buffer = made()
    push_numbered(buffer, 0, 30, lanes=2)
    buffer.save(tmp_path)
    damage(tmp_path / name)
    other = made(seed=5)
    push_numbered(other, 100, 12, lanes=2)
    before, draws = stored(other), other.random.bit_generator.state
    with pytest.raises(DataError, match=r"replay buffer in .*"):
        other.restore(tmp_path)
    same(stored(other), before)
    assert other.random.bit_generator.state == draws


# --- what is refused -----------------------------------------------------------------------------


def one(**changed):
    """A good transition of two lanes, with fields replaced."""
    fields = {
        "state": np.zeros((2, S), dtype=np.float32),
        "action": np.array([1, 2]),
        "next_state": np.zeros((2, S), dtype=np.float32),
        "reward": np.array([0.0, 1.0]),
        "done": np.array([False, False]),
        "mask": np.ones((2, A), dtype=np.int8),
        "next_mask": np.ones((2, A), dtype=np.int8),
        "dt": np.array([0.0, 1.0]),
    }
    for name, value in changed.items():
        fields[name][1] = value
    return fields


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"reward": np.nan}, "reward of row 1 is not finite"),
        ({"reward": -np.inf}, "reward of row 1 is not finite"),
        ({"next_state": np.nan}, "observation of row 1 is not finite"),
        ({"state": np.inf}, "observation of row 1 is not finite"),
        ({"dt": np.nan}, "dt of row 1 is not finite"),
        ({"next_mask": 0}, "next state of lane 1 has no valid action"),
        ({"action": A}, "action 11 of lane 1"),
        ({"action": -1}, "action -1 of lane 1"),
    ],
)
def test_a_transition_that_would_poison_learning_is_refused_whole(n_step, changed, said):
    buffer = made(n_step=n_step)
    push_numbered(buffer, 0, 8, lanes=2)
    before = {name: array.copy() for name, array in (buffer._ring | buffer._lanes).items()}
    pushed = buffer.pushed
    with pytest.raises(DataError, match=said):
        buffer.push_batch(**one(**changed))
    for name, array in (buffer._ring | buffer._lanes).items():
        np.testing.assert_array_equal(array, before[name])
    assert buffer.pushed == pushed


def test_a_final_state_needs_no_valid_action_but_a_truncated_one_does():
    buffer = made(n_step=1)
    buffer.push_batch(**one(next_mask=0, done=True))
    assert len(buffer) == 2
    with pytest.raises(DataError, match="no valid action"):
        buffer.push_batch(**one(next_mask=0), ended=np.array([False, True]))


def test_a_buffer_without_transitions_has_nothing_to_sample():
    with pytest.raises(UsageError, match="empty"):
        made().sample(4)


@pytest.mark.parametrize("name", ["capacity", "state_dim", "action_dim", "n_step", "num_lanes"])
def test_sizes_must_be_positive(name):
    with pytest.raises(UsageError, match=f"{name} must be at least 1, got 0"):
        made(**{name: 0})


@pytest.mark.parametrize("error", [np.nan, np.inf])
def test_an_error_that_is_none_is_refused(error):
    buffer = made()
    push_numbered(buffer, 0, 12, lanes=2)
    with pytest.raises(DataError, match="error of row 1"):
        buffer.update_priorities(np.array([0, 1]), np.array([1.0, error]))


# --- what it weighs ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rows", "compact"])
def test_the_stated_bytes_per_transition_are_what_the_memory_holds(kind):
    """The docstring's figures, for ten drivers and twenty bookings."""
    layout = ObservationLayout(kind, 10, 20)
    buffer = ReplayBuffer(1000, layout.size, layout.num_actions)
    held = sum(array.nbytes for array in buffer._ring.values()) / 1000
    assert buffer.bytes_per_transition == held
    assert f"{int(held):,} bytes" in " ".join(replay_buffer.__doc__.split())
