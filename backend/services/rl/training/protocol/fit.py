"""An offline fit of the pair network: two loss terms, seeded shuffling, early stopping.

``policy`` is the cross-entropy of the teacher's commitments (`imitation.policy_loss`), ``value``
the Huber loss of V(s) against the discounted return observed from s to the day's end, in the
agent's scaled units. Under a softmax V cancels: ``policy`` alone leaves V where it is, and the
terms meet in the encoders that both use. ``val_total`` is their *unweighted* sum on held-out days,
so that configurations of other weights are compared on the same number.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from services.rl.errors import TrainingError
from services.rl.q_networks import PairQNetwork
from services.rl.simulation.edges import NUM_EDGE

from .dataset import DataSet
from .prepared import Batch, CountedFeatures, PreparedSet

TERMS: Final = ("policy", "value")
_VAL_CHUNK = 256

OnEpoch = Callable[["Epoch"], None]


@dataclass(frozen=True)
class FitOptions:
    """One configuration.

    Attributes:
        batch_size: States per gradient step.
        learning_rate: Of Adam.
        epochs: Passes at most.
        patience: Passes without a lower ``val_total`` after which it stops.
        w_policy: Weight of ``policy`` in the loss that is minimised.
        w_value: Weight of ``value``.
        seed: Of the network's beginning and of shuffling.
        gradient_clip: Largest norm of the gradient.
        chunk: States per forward pass; a batch's gradients are summed over its chunks. It changes
            nothing but time: activations of a few hundred states stay in the processor's cache.
    """

    batch_size: int = 1024
    learning_rate: float = 1e-3
    epochs: int = 50
    patience: int = 15
    w_policy: float = 1.0
    w_value: float = 1.0
    seed: int = 0
    gradient_clip: float = 10.0
    chunk: int = 256

    def __post_init__(self) -> None:
        if min(self.batch_size, self.epochs, self.patience, self.chunk) < 1:
            raise TrainingError("batch size, epochs and patience must be at least 1")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise TrainingError(f"the learning rate must be above 0, got {self.learning_rate}")
        weights = (self.w_policy, self.w_value)
        if not all(math.isfinite(w) and w >= 0 for w in weights) or not any(weights):
            raise TrainingError(
                f"loss weights must be numbers of at least 0 and not all 0, got policy "
                f"{self.w_policy:g} and value {self.w_value:g}"
            )

    def document(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def scaled_rate(learning_rate: float, batch_size: int, to: int) -> float:
    """Learning rate of a larger batch: times the square root of the ratio (Krizhevsky 2014)."""
    return learning_rate * math.sqrt(to / batch_size)


@dataclass(frozen=True)
class Epoch:
    """One pass.

    Attributes:
        number: From 1.
        train: Mean of each term over the pass, weights moving meanwhile.
        val: Each term on the held-out days, after the pass.
        seconds: Of the training pass, by the clock on the wall.
        cpu_seconds: The same of the process' thread: a busy machine disturbs it little.
        val_seconds: Of judging.
        features: Batches whose pair features were computed meanwhile: none must be.
    """

    number: int
    train: dict[str, float]
    val: dict[str, float]
    seconds: float
    cpu_seconds: float
    val_seconds: float
    features: int

    @property
    def val_total(self) -> float:
        """Unweighted sum of the terms on held-out days."""
        return sum(self.val.values())


@dataclass
class Fit:
    """What came out.

    Attributes:
        options: The configuration.
        states: Of the training part.
        epochs: All passes.
        best: Number of the pass with the lowest ``val_total``.
        weights: Parameters after that pass.
        stopped_early: Whether patience ended it.
    """

    options: FitOptions
    states: int
    epochs: list[Epoch] = field(default_factory=list)
    best: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    stopped_early: bool = False

    @property
    def best_epoch(self) -> Epoch:
        """The pass whose weights are kept."""
        return self.epochs[self.best - 1]

    def document(self) -> dict[str, Any]:
        """Plain data, without the weights."""
        best = self.best_epoch
        seconds, cpu = (
            float(np.median([getattr(e, name) for e in self.epochs]))
            for name in ("seconds", "cpu_seconds")
        )
        return {
            "options": self.options.document(),
            "epochs": len(self.epochs),
            "best_epoch": self.best,
            "stopped_early": self.stopped_early,
            "updates": len(self.epochs) * math.ceil(self.states / self.options.batch_size),
            "val": best.val,
            "val_total": best.val_total,
            "epoch_seconds": seconds,
            "epoch_cpu_seconds": cpu,
            "val_seconds": float(np.median([e.val_seconds for e in self.epochs])),
            "samples_per_s": self.states / seconds,
            "seconds_to_best": sum(e.cpu_seconds for e in self.epochs[: self.best]),
            "features_computed": sum(e.features for e in self.epochs),
            "history": [{**asdict(e), "val_total": e.val_total} for e in self.epochs],
        }


def fit(
    network: PairQNetwork,
    data: DataSet,
    options: FitOptions,
    reward_scale: float,
    on_epoch: OnEpoch = lambda _: None,
) -> Fit:
    """Fit a network; it ends with the best pass's weights.

    One pass of a twin goes before and is not counted: it pays for what the first pass of a
    process pays for.

    Args:
        network: Fresh; with `CountedFeatures`.
        data: On one hash.
        options: The configuration.
        reward_scale: Q is in rewards times this.
        on_epoch: Told of every pass.

    Raises:
        TrainingError: If the batch is larger than the set, or a term is no longer a number.
    """
    if options.batch_size > len(data.train):
        raise TrainingError(
            f"batch size {options.batch_size:,} is larger than the data set's "
            f"{len(data.train):,} states: take fewer, or more days"
        )
    _warm_up(network, data.train, options, reward_scale)
    result = Fit(options, len(data.train))
    optimizer = torch.optim.Adam(network.parameters(), lr=options.learning_rate, fused=True)
    random = torch.Generator().manual_seed(options.seed)
    lowest = math.inf
    for number in range(1, options.epochs + 1):
        epoch = _one_epoch(network, data, options, optimizer, random, reward_scale, number)
        result.epochs.append(epoch)
        on_epoch(epoch)
        if epoch.val_total < lowest:
            lowest, result.best = epoch.val_total, number
            result.weights = {k: v.detach().clone() for k, v in network.state_dict().items()}
        elif number - result.best >= options.patience:
            result.stopped_early = True
            break
    network.load_state_dict(result.weights)
    return result


def side_by_side(
    fresh: Callable[[], PairQNetwork],
    part: PreparedSet,
    configurations: Mapping[str, FitOptions],
    reward_scale: float,
    turns: int = 5,
) -> dict[str, list[float]]:
    """Processor seconds of training passes that take turns, by configuration.

    What else runs on a machine (its caches, its memory) changes a pass by more than a batch size
    does: the same pass was seen to take 0.7 and 2.2 s. Only turns can be compared. One pass of
    each goes before and is not counted.

    Args:
        fresh: A network to begin with.
        part: What is passed over.
        configurations: By name.
        reward_scale: Q is in rewards times this.
        turns: Passes of each.
    """
    pupils = {}
    for name, options in configurations.items():
        network = fresh()
        rate = options.learning_rate
        optimizer = torch.optim.Adam(network.parameters(), lr=rate, fused=True)
        pupils[name] = network, options, optimizer, torch.Generator().manual_seed(options.seed)
    found: dict[str, list[float]] = {name: [] for name in pupils}
    for turn in range(turns + 1):
        for name, (network, options, optimizer, random) in pupils.items():
            begun = time.thread_time()
            train_epoch(network, part, options, optimizer, random, reward_scale)
            if turn:
                found[name].append(time.thread_time() - begun)
    return found


def _warm_up(
    network: PairQNetwork, part: PreparedSet, options: FitOptions, reward_scale: float
) -> None:
    twin = copy.deepcopy(network)
    optimizer = torch.optim.Adam(twin.parameters(), lr=options.learning_rate, fused=True)
    random = torch.Generator().manual_seed(options.seed)
    train_epoch(twin, part, options, optimizer, random, reward_scale)


def _one_epoch(
    network: PairQNetwork,
    data: DataSet,
    options: FitOptions,
    optimizer: torch.optim.Optimizer,
    random: torch.Generator,
    reward_scale: float,
    number: int,
) -> Epoch:
    before = _computed(network)
    begun, cpu = time.perf_counter(), time.thread_time()
    train = train_epoch(network, data.train, options, optimizer, random, reward_scale)
    seconds, cpu = time.perf_counter() - begun, time.thread_time() - cpu
    begun = time.perf_counter()
    val = judged(network, data.val, reward_scale)
    judging = time.perf_counter() - begun
    for kind, terms in (("training", train), ("validation", val)):
        for term, value in terms.items():
            if not math.isfinite(value):
                raise TrainingError(f"the {kind} term {term!r} is {value} in epoch {number}")
    return Epoch(number, train, val, seconds, cpu, judging, _computed(network) - before)


def _computed(network: PairQNetwork) -> int:
    features = network._features
    return features.computed if isinstance(features, CountedFeatures) else 0


def train_epoch(
    network: PairQNetwork,
    part: PreparedSet,
    options: FitOptions,
    optimizer: torch.optim.Optimizer,
    random: torch.Generator,
    reward_scale: float,
) -> dict[str, float]:
    """One shuffled pass of gradient steps; returns the mean of each term.

    A batch is rows of tensors that lie in memory: nothing is read, parsed or computed here but
    the network itself.
    """
    order = torch.randperm(len(part), generator=random)
    weights = torch.tensor([options.w_policy, options.w_value])
    total = torch.zeros(len(TERMS))
    parameters = list(network.parameters())
    for rows in torch.split(order, options.batch_size):
        optimizer.zero_grad(set_to_none=True)
        for chunk in torch.split(rows, options.chunk):
            terms = losses(network, part.batch(chunk), reward_scale) * (len(chunk) / len(rows))
            (weights * terms).sum().backward()  # type: ignore[no-untyped-call]
            total += terms.detach() * len(rows)
        torch.nn.utils.clip_grad_norm_(parameters, options.gradient_clip)
        optimizer.step()
    return dict(zip(TERMS, (total / len(part)).tolist(), strict=True))


def judged(network: PairQNetwork, part: PreparedSet, reward_scale: float) -> dict[str, float]:
    """Mean of each term over a part."""
    total = torch.zeros(len(TERMS), dtype=torch.float64)
    with torch.inference_mode():
        for rows in torch.split(torch.arange(len(part)), _VAL_CHUNK):
            total += losses(network, part.batch(rows), reward_scale).double() * len(rows)
    return dict(zip(TERMS, (total / len(part)).tolist(), strict=True))


def losses(network: PairQNetwork, batch: Batch, reward_scale: float) -> Tensor:
    """``policy`` and ``value`` of a batch, ``(2,)``.

    ``policy`` is `imitation.policy_loss` over the considered pairs alone, without the table of
    all actions: what all actions of a state share (V) cancels in a softmax.
    """
    state, right = batch.state, batch.right
    value, wait, pairs = advantages(network, batch)
    wait, pairs = wait / reward_scale, pairs / reward_scale
    with torch.no_grad():
        top = wait.scatter_reduce(0, state, pairs, "amax")
    mass = (wait - top).exp().index_add(0, state, (pairs - top[state]).exp())
    count = batch.right_wait.to(wait.dtype).index_add(0, state, right.to(wait.dtype))
    taken = (wait * batch.right_wait).index_add(0, state, pairs * right)
    policy = (top + mass.log() - taken / count).mean()
    return torch.stack([policy, torch.nn.functional.smooth_l1_loss(value, batch.returns)])


def advantages(network: PairQNetwork, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """`PairQNetwork.advantages` of a batch: V ``(B,)``, A of WAIT ``(B,)``, A of pairs ``(P,)``.

    The same numbers up to rounding: the three products of a pair's parts are one product of its
    row with the three weights side by side.
    """
    net, rows = network, batch.pair_rows
    encoded = net.encode(batch.states)
    parts = [net.pair_driver.weight, net.pair_booking.weight]
    if net.shape.edges:
        parts.append(net.pair_edge.weight)
    weight = torch.cat(parts, dim=1)
    base = torch.nn.functional.linear(encoded[2], net.pair_context.weight, net.pair_driver.bias)
    mixed = torch.nn.functional.linear(rows[:, : weight.shape[1]], weight)
    # In place: activations of pairs are what a pass spends its memory traffic on.
    hidden = net.pair_hidden(mixed.add_(base.index_select(0, batch.state)).relu_()).relu_()
    pairs: Tensor = net.pair_score(hidden)[:, 0]
    if net.shape.edges:
        pairs = pairs + rows[:, -NUM_EDGE:] @ net.edge_score.weight[0]
    return net.state_value(*encoded), net.wait_advantage(encoded[2]), pairs
