"""What phase A's first step is worth: features prepared once, against the loop that makes them.

A batch size changes what a pass computes hardly at all; where the features come from, and how many
threads multiply, do. All ways pass over the same states, in turns, by the clock on the wall.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from services.rl.q_networks import FLOOR, PairQNetwork

from ..imitation import Demonstrations
from .fit import FitOptions, train_epoch
from .prepared import PreparedSet

LOOP: Final = "loop"
PREPARED: Final = "prepared"
THREADS: Final = "prepared, all threads"


@dataclass(frozen=True)
class States:
    """The same states raw and prepared.

    Attributes:
        shown: As played.
        returns: ``(K,)``, scaled.
        prepared: With all features.
    """

    shown: Demonstrations
    returns: npt.NDArray[np.float32]
    prepared: PreparedSet


def loop_losses(
    network: PairQNetwork,
    shown: Demonstrations,
    returns: npt.NDArray[np.float32],
    rows: npt.NDArray[np.int64],
    reward_scale: float,
) -> Tensor:
    """``policy`` and ``value`` of the given states ``(B,)``, features computed here, ``(2,)``."""
    p = network.prepare(shown.state[rows], shown.mask[rows])
    value, wait, pairs = network.advantages(p)
    wanted = torch.from_numpy(shown.right[rows]) & p.mask
    wanted[:, 0] |= ~wanted.any(1)
    logits = torch.full(p.mask.shape, FLOOR, dtype=pairs.dtype)
    logits[:, 0] = wait / reward_scale
    action = 1 + p.driver * network.layout.max_bookings + p.booking
    logits = logits.index_put((p.state, action), pairs / reward_scale)
    share = torch.log_softmax(logits, dim=1).masked_fill(~wanted, 0.0)
    policy = -(share * wanted / wanted.sum(1, keepdim=True)).sum(1).mean()
    found = torch.from_numpy(returns[rows])
    return torch.stack([policy, torch.nn.functional.smooth_l1_loss(value, found)])


def _loop_epoch(
    network: PairQNetwork,
    states: States,
    options: FitOptions,
    optimizer: torch.optim.Optimizer,
    random: torch.Generator,
    reward_scale: float,
) -> None:
    order = torch.randperm(len(states.shown), generator=random).numpy()
    weights = torch.tensor([options.w_policy, options.w_value])
    for at in range(0, len(order), options.batch_size):
        rows = order[at : at + options.batch_size]
        terms = loop_losses(network, states.shown, states.returns, rows, reward_scale)
        optimizer.zero_grad(set_to_none=True)
        (weights * terms).sum().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), options.gradient_clip)
        optimizer.step()


def epoch_seconds(
    fresh: Callable[[], PairQNetwork],
    states: States,
    options: FitOptions,
    reward_scale: float,
    *,
    threads: int,
    turns: int = 5,
) -> dict[str, list[float]]:
    """Wall seconds of a training pass by way, `LOOP` first, in turns; a first one is not counted.

    Args:
        fresh: A network to begin with.
        states: What is passed over.
        options: Batch size, rate and weights of all ways.
        reward_scale: Q is in rewards times this.
        threads: Of Torch in the last way, left out if there is but one.
        turns: Passes of each.
    """
    ways = [LOOP, PREPARED] + ([THREADS] if threads > 1 else [])
    pupils = {}
    for way in ways:
        network = fresh()
        optimizer = torch.optim.Adam(network.parameters(), lr=options.learning_rate, fused=True)
        pupils[way] = network, optimizer, torch.Generator().manual_seed(options.seed)
    found: dict[str, list[float]] = {way: [] for way in ways}
    before = torch.get_num_threads()
    try:
        for turn in range(turns + 1):
            for way, (network, optimizer, random) in pupils.items():
                torch.set_num_threads(threads if way == THREADS else 1)
                begun = time.perf_counter()
                if way == LOOP:
                    _loop_epoch(network, states, options, optimizer, random, reward_scale)
                else:
                    part = states.prepared
                    train_epoch(network, part, options, optimizer, random, reward_scale)
                if turn:
                    found[way].append(time.perf_counter() - begun)
    finally:
        torch.set_num_threads(before)
    return found
