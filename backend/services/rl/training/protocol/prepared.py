"""States of whole days as contiguous tensors in memory: a batch is index arithmetic, no more.

The features of all pairs are computed here once (`prepared`); `CountedFeatures` tells whether
anybody computes them again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from services.rl.q_networks import (
    NUM_BOOKING,
    NUM_DRIVER,
    PairFeatures,
    PairQNetwork,
    PreparedPairs,
)
from services.rl.simulation.edges import NUM_EDGE
from services.rl.simulation.engine import Engine
from services.rl.simulation.observation import ObservationLayout

from ..imitation import Demonstrations

_CHUNK = 4_096  # states prepared at once


class CountedFeatures(PairFeatures):
    """Pair features that count how often they are computed.

    Attributes:
        computed: Batches so far.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.computed = 0

    def __call__(self, *arguments: Any) -> Any:
        """See `PairFeatures`."""
        self.computed += 1
        return super().__call__(*arguments)


@dataclass(frozen=True)
class Batch:
    """States as the losses take them; B states, P considered pairs in all.

    Attributes:
        states: For the network's encoders; it holds no pairs.
        pair_rows: ``(P, F + G + E)``, each pair's driver, booking and edge side by side.
        state: ``(P,)``, the pair's state in the batch.
        right: ``(P,)`` bool, commitments of the teacher.
        right_wait: ``(B,)`` bool, waiting is right.
        returns: ``(B,)``, discounted and scaled, until the day's end.
    """

    states: PreparedPairs
    pair_rows: Tensor
    state: Tensor
    right: Tensor
    right_wait: Tensor
    returns: Tensor


@dataclass(frozen=True)
class PreparedSet:
    """K states of whole days with their P considered pairs, as contiguous tensors.

    Pairs of a state lie together, in the order of actions; those of state k are
    ``starts[k]:starts[k + 1]``. Each carries its driver's and booking's features beside its edge:
    one matrix product instead of three, for twice the memory.
    """

    context: Tensor  # (K, C)
    drivers: Tensor  # (K, N, F)
    driver_present: Tensor  # (K, N, 1)
    bookings: Tensor  # (K, M, G)
    booking_present: Tensor  # (K, M, 1)
    returns: Tensor  # (K,)
    right_wait: Tensor  # (K,) bool
    starts: Tensor  # (K + 1,) int64
    pair_rows: Tensor  # (P, F + G + E)
    driver: Tensor  # (P,) int64
    booking: Tensor  # (P,) int64
    right: Tensor  # (P,) bool

    def __len__(self) -> int:
        """Number of states."""
        return len(self.context)

    @property
    def num_pairs(self) -> int:
        """P."""
        return len(self.driver)

    def pairs_of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs of the given states ``(B,)``, and which of these states each belongs to."""
        first = self.starts[rows]
        count = self.starts[rows + 1] - first
        state = torch.repeat_interleave(count)
        return torch.arange(len(state)) + (first - count.cumsum(0) + count)[state], state

    def batch(self, rows: Tensor) -> Batch:
        """The given states ``(B,)`` int64, in that order."""
        pair, state = self.pairs_of(rows)
        nothing = self.context[:0]
        states = PreparedPairs(
            self.context[rows],
            self.drivers[rows],
            self.bookings[rows],
            self.driver_present[rows],
            self.booking_present[rows],
            *[nothing] * 5,
        )
        return Batch(
            states,
            self.pair_rows.index_select(0, pair),
            state,
            self.right[pair],
            self.right_wait[rows],
            self.returns[rows],
        )

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What is kept, by name; `of` makes the pairs' rows from it again."""
        kept: dict[str, npt.NDArray[Any]] = {n: getattr(self, n).numpy() for n in KEPT}
        return {**kept, "edges": self.pair_rows[:, -NUM_EDGE:].numpy()}

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> "PreparedSet":
        """From `arrays`."""
        kept = {name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in KEPT}
        owner = torch.repeat_interleave(kept["starts"].diff())
        rows = torch.cat(
            [
                kept["drivers"][owner, kept["driver"]],
                kept["bookings"][owner, kept["booking"]],
                torch.from_numpy(arrays["edges"]),
            ],
            dim=1,
        )
        return cls(pair_rows=rows, **kept)


KEPT: Final = tuple(f.name for f in fields(PreparedSet) if f.name != "pair_rows")


def prepared(
    network: PairQNetwork, shown: Demonstrations, returns: npt.NDArray[np.float32]
) -> PreparedSet:
    """Compute all features once.

    Where the teacher commits only what the network does not consider, waiting is right for it: as
    `imitation.policy_loss` has it.
    """
    layout, features = network.layout, network._features
    assert features is not None
    parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in (*KEPT, "edges")}
    pairs = 0
    for at in range(0, len(shown), _CHUNK):
        rows = slice(at, at + _CHUNK)
        state, mask = shown.state[rows], shown.mask[rows]
        edges, owner, driver, booking = features(
            state, mask, layout, network.shape.hold_back_min, None
        )
        right = shown.right[rows][owner, 1 + driver * layout.max_bookings + booking]
        wait = shown.right[rows, 0] | (np.bincount(owner[right], minlength=len(state)) == 0)
        count = np.bincount(owner, minlength=len(state))
        for name, array in {
            **_rows_of(layout, state),
            "returns": returns[rows],
            "right_wait": wait,
            "starts": pairs + np.cumsum(count) - count,
            "edges": edges,
            "driver": driver,
            "booking": booking,
            "right": right,
        }.items():
            parts[name].append(array)
        pairs += len(edges)
    parts["starts"].append(np.array([pairs], dtype=np.int64))
    return PreparedSet.of(
        {name: np.ascontiguousarray(np.concatenate(found)) for name, found in parts.items()}
    )


def _rows_of(layout: ObservationLayout, state: npt.NDArray[np.float32]) -> dict[str, Any]:
    unpacked = layout.unpack(state)
    drivers, bookings = unpacked["drivers"], unpacked["bookings"]
    return {
        "context": unpacked["context"],
        "drivers": drivers[..., :NUM_DRIVER],
        "driver_present": drivers[..., NUM_DRIVER : NUM_DRIVER + 1],
        "bookings": bookings[..., :NUM_BOOKING],
        "booking_present": bookings[..., :1],
    }


def dense(part: PreparedSet, rows: Tensor) -> dict[str, npt.NDArray[Any]]:
    """The given states as the exported graph takes them; see `training.export.PairGraph`."""
    pair, state = part.pairs_of(rows)
    p = part.batch(rows).states
    (b, n, _), m = p.drivers.shape, p.bookings.shape[1]
    driver, booking = part.driver[pair], part.booking[pair]
    edges = torch.zeros(b, n, m, NUM_EDGE)
    edges[state, driver, booking] = part.pair_rows[pair, -NUM_EDGE:]
    mask = torch.zeros(b, n * m + 1, dtype=torch.bool)
    mask[:, 0] = True
    mask[state, 1 + driver * m + booking] = True
    return {
        "context": p.context.numpy(),
        # Rows end with what the network does not look at (zones).
        "drivers": torch.cat([p.drivers, p.driver_present, 0 * p.driver_present], 2).numpy(),
        "bookings": torch.cat([p.bookings, 0 * p.bookings[..., :2]], 2).numpy(),
        "edges": edges.numpy(),
        "mask": mask.numpy(),
    }
