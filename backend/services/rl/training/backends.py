"""Backends of one network side by side: what each answers, how fast, how large.

The reference is Torch in float32, the form that was trained. A backend may serve if it passes a
gate on states recorded from whole days: in float, Q within 1e-4 (as the network is trained, before
it is brought to rewards: there float32 itself rounds by as much); in INT8, the same decision on at
least 99 % of the states, and on paired days a reward that is, at the lower end of its 95 %
interval, at most 1 % below. The fastest that passes *on this machine* is chosen. Times are those of
one thread's processor, so that a busy machine disturbs them little.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from services.rl.evaluation.paired import relative_gain
from services.rl.evaluation.runner import DayBook, play_day
from services.rl.policies.base import Policy
from services.rl.policies.edge_policies import pair_policy
from services.rl.policies.flat_network import FlatForward, FlatPolicy
from services.rl.policies.model_files import ModelManifest, read_arrays
from services.rl.policies.pair_network import pair_scores, pair_weights
from services.rl.serving.onnx_network import OnnxPairPolicy, pair_inputs
from services.rl.simulation.host import HostWorld
from services.rl.simulation.types import DispatchState, FloatArray

MOST_DIFFERENCE: Final = 1e-4
LEAST_AGREEMENT: Final = 0.99
LEAST_REWARD_PCT: Final = -1.0
REFERENCE: Final = "torch_fp32"
BATCHES: Final = (1, 8, 64)
_CALLS: Final = {1: 40, 8: 12, 64: 4}
"""Calls per turn and batch: backends take turns, so that a busy moment hits all of them."""

Feed = Mapping[str, npt.NDArray[Any]]
Run = Callable[[Any], Any]


@dataclass
class Backend:
    """One way to run a network.

    Attributes:
        name: Such as ``onnx_fp32``.
        policy: The policy on it.
        run: Computes Q (or advantages) of one of `Contest.batches`.
        size: Bytes of the model file.
        servable: Whether the serving process may use it (no Torch there).
        exact: Whether it computes in float32 throughout.
        q: Q of a recorded state, ``(A,)``; relative to waiting where `relative`.
        relative: Whether only advantages over waiting are computed.
    """

    name: str
    policy: Policy
    run: Run
    size: int
    servable: bool
    exact: bool
    q: Callable[[int], FloatArray]
    relative: bool = False


@dataclass
class Row:
    """What was found out about a backend.

    Attributes:
        name: Of the backend.
        servable: See `Backend`.
        max_difference: Largest difference in Q from the reference on recorded states, in units
            of reward (in advantage over waiting where the backend computes no Q).
        agreement: Share of recorded states with the same decisions.
        reward_pct: Reward against the reference on paired days, percent.
        reward_low_pct: Lower end of its 95 % interval.
        passes: The gate.
        decide_ms: p50 and p99 of a whole decision.
        forward_us: p50 and p99 of the network alone, by batch.
        speedup: How many times faster than the reference, by batch: median over turns.
        sequential: How many times faster one batch of 64 is than 64 single states.
        size: Bytes.
        rss_mb: Memory of a process that has decided with it; None where not measured.
    """

    name: str
    servable: bool
    max_difference: float
    agreement: float
    reward_pct: float
    reward_low_pct: float
    passes: bool
    decide_ms: tuple[float, float]
    forward_us: dict[int, tuple[float, float]]
    speedup: dict[int, float]
    sequential: float
    size: int
    rss_mb: float | None = None


@dataclass
class Contest:
    """Backends of one model, and the states and days they meet on.

    Attributes:
        book: Paired days.
        states: Recorded from them, at most ``limit``, all with open bookings.
        backends: By name; `REFERENCE` among them.
        scale: The reward scale: Q as trained is Q in rewards times this.
        single_actions: A decision is the argmax of one state (the flat network), not an epoch's.
    """

    book: DayBook
    states: list[DispatchState]
    scale: float
    backends: dict[str, Backend] = field(default_factory=dict)
    single_actions: bool = False

    def rows(self, *, turns: int = 12, say: Callable[[str], None] = lambda _: None) -> list[Row]:
        """Compare all backends with the reference."""
        say(f"{len(self.states)} states, {len(self.book)} days")
        reference = self.backends[REFERENCE]
        expected = self._decisions(reference)
        rewards = {name: self._rewards(b) for name, b in self.backends.items()}
        decide = self._decide_times()
        forward = self._forward_times(turns)
        rows = []
        for name, backend in self.backends.items():
            found = self._decisions(backend)
            agree = [a == b for a, b in zip(found, expected, strict=True)]
            difference = max(
                _largest(backend.q(i), reference.q(i), backend.relative)
                for i in range(len(self.states))
            )
            gain = relative_gain(rewards[name], rewards[REFERENCE])
            mean, low = float(gain.mean), float(gain.low)
            if np.isnan(mean):  # the reference earns nothing: compare in units of reward
                mean = low = float((rewards[name] - rewards[REFERENCE]).mean())
            agreement = float(np.mean(agree))
            passes = (
                difference * self.scale <= MOST_DIFFERENCE
                if backend.exact
                else agreement >= LEAST_AGREEMENT and low >= LEAST_REWARD_PCT
            )
            times = forward[name]
            rows.append(
                Row(
                    name=name,
                    servable=backend.servable,
                    max_difference=difference,
                    agreement=agreement,
                    reward_pct=mean,
                    reward_low_pct=low,
                    passes=passes,
                    decide_ms=_p50_p99(decide[name]),
                    forward_us={b: _p50_p99(np.concatenate(times[b]) * 1e6) for b in BATCHES},
                    speedup={b: _ratio(forward[REFERENCE][b], times[b]) for b in BATCHES},
                    sequential=64.0 * _ratio(times[1], times[64]),
                    size=backend.size,
                )
            )
            say(f"  {name}: {'passes' if passes else 'fails'}")
        return rows

    def _decisions(self, backend: Backend) -> list[Any]:
        if self.single_actions:
            return [int(backend.q(i).argmax()) for i in range(len(self.states))]
        return [_decided(backend.policy, state) for state in self.states]

    def _rewards(self, backend: Backend) -> FloatArray:
        days = range(len(self.book))
        play = getattr(backend.policy, "play", None)
        engine = self.book.engine(days)
        if play is not None:
            play(engine)
        else:
            for e in days:
                play_day(backend.policy, engine, e)
        return np.array([engine.kpis(e)["reward"] for e in days])

    def _decide_times(self) -> dict[str, FloatArray]:
        """Milliseconds of whole decisions; backends take turns state by state."""
        times: dict[str, list[float]] = {name: [] for name in self.backends}
        for state in self.states:
            for name, backend in self.backends.items():
                begun = time.thread_time()
                backend.policy.decide(state)
                times[name].append((time.thread_time() - begun) * 1e3)
        return {name: np.array(found) for name, found in times.items()}

    def _forward_times(self, turns: int) -> dict[str, dict[int, list[FloatArray]]]:
        """Seconds of the network alone, by backend, batch and turn."""
        found: dict[str, dict[int, list[FloatArray]]] = {
            name: {b: [] for b in BATCHES} for name in self.backends
        }
        for batch in BATCHES:
            for backend in self.backends.values():
                backend.run(batch)
        for _ in range(turns):
            for batch in BATCHES:
                for name, backend in self.backends.items():
                    spent = np.empty(_CALLS[batch])
                    for i in range(spent.size):
                        begun = time.thread_time()
                        backend.run(batch)
                        spent[i] = time.thread_time() - begun
                    found[name][batch].append(spent)
        return found


def chosen(rows: Sequence[Row]) -> Row | None:
    """The fastest servable backend that passes, by the middle of a whole decision."""
    able = [row for row in rows if row.servable and row.passes]
    return min(able, key=lambda row: row.decide_ms[0]) if able else None


def _decided(policy: Policy, state: DispatchState) -> list[tuple[int | None, int]]:
    return [(d.driver, d.booking) for d in policy.decide(state).decisions]


def _largest(q: FloatArray, reference: FloatArray, advantages: bool) -> float:
    considered = reference > -1e8
    if advantages:
        reference = np.where(considered, reference - reference[0], reference)
    return float(np.abs(q - reference)[considered].max())


def _p50_p99(values: FloatArray) -> tuple[float, float]:
    return float(np.percentile(values, 50)), float(np.percentile(values, 99))


def _ratio(slow: Sequence[FloatArray], fast: Sequence[FloatArray]) -> float:
    """Median over turns of the ratio of medians."""
    return float(np.median([np.median(a) / np.median(b) for a, b in zip(slow, fast, strict=True)]))


# --- recording -----------------------------------------------------------------------------------


def recorded_states(policy: Policy, book: DayBook, limit: int) -> list[DispatchState]:
    """States with open bookings from a policy's days, evenly spaced over them, at most so many."""
    states: list[DispatchState] = []
    engine = book.engine(range(len(book)))
    for e in range(len(book)):
        while not engine.ended(e):
            state, rows = engine.state(e), engine.open_rows(e)
            if rows.size:
                states.append(state)
                for d in policy.decide(state).decisions:
                    if d.driver is not None:
                        engine.commit(e, d.driver, int(rows[d.booking]))
            engine.wait(e)
    step = max(1, -(-len(states) // limit))
    return states[::step]


def _running(session: Any, batches: Mapping[int, Feed]) -> Run:
    return lambda batch: session.run(None, batches[batch])


def _asking(session: Any, feeds: Sequence[Feed]) -> Callable[[int], FloatArray]:
    def ask(i: int) -> FloatArray:
        q: FloatArray = session.run(None, feeds[i])[0][0]
        return q

    return ask


# --- the two networks ----------------------------------------------------------------------------


def pair_contest(
    model: Path,
    manifest: ModelManifest,
    book: DayBook,
    sessions: Mapping[str, Any],
    sizes: Mapping[str, int],
    *,
    limit: int = 600,
) -> Contest:
    """`PairQNetwork`: our compiled forward pass and dense graphs.

    Args:
        model: Its folder.
        manifest: Its manifest.
        book: Days.
        sessions: ONNX Runtime or Torch sessions by backend.
        sizes: Bytes by backend.
        limit: States that are compared.
    """
    scenario, source = book.scenario, book.source
    hold_back = float(manifest.network["hold_back_min"])
    own = pair_policy("dqn_matching", model, scenario, source)
    states = recorded_states(own, book, limit)
    wide = max(20, *(len(s.booking_ids) for s in states))
    host = HostWorld(scenario, max_bookings=wide, observation="rows", source=source)
    feeds, pairs = [], []
    for state in states:
        host.load(state)
        feed, driver, booking = pair_inputs(host, hold_back)
        feeds.append({name: array.copy() for name, array in feed.items()})
        pairs.append((driver, booking))
    batches = _pair_batches(scenario, source, states, hold_back)
    weights = pair_weights(read_arrays(model), scale=1.0 / manifest.reward_scale)
    if not manifest.network.get("edges", True):
        weights = weights._replace(
            pair_edge=np.zeros_like(weights.pair_edge),
            edge_score=np.zeros_like(weights.edge_score),
        )

    def scores(feed: Feed, k: int, pair: tuple[Any, Any]) -> tuple[FloatArray, Any]:
        driver, booking = pair
        drivers, count = feed["edges"].shape[1:3]
        rows = np.concatenate([feed[n][k].ravel() for n in ("context", "drivers", "bookings")])
        edges = np.ascontiguousarray(feed["edges"][k][driver, booking])
        out = np.zeros(len(driver), dtype=np.float32)
        arguments = (weights, rows, drivers, count, edges, driver, booking, out)
        pair_scores(*arguments)
        q = np.full(drivers * count + 1, -1e9)
        q[0], q[1 + driver * count + booking] = 0.0, out
        return q, arguments

    contest = Contest(book, states, manifest.reward_scale)
    prepared = {
        b: [scores(feed, k, _pairs_of(feed, k))[1] for k in range(b)] for b, feed in batches.items()
    }

    def run_own(batch: int) -> None:
        for arguments in prepared[batch]:
            pair_scores(*arguments)

    contest.backends["numba"] = Backend(
        "numba", own, run_own, sizes["numba"], servable=True, exact=True,
        q=lambda i: scores(feeds[i], 0, pairs[i])[0], relative=True,
    )  # fmt: skip
    for name, session in sessions.items():
        policy = OnnxPairPolicy(session, scenario, hold_back_min=hold_back, source=source)
        contest.backends[name] = Backend(
            name,
            policy,
            _running(session, batches),
            sizes[name],
            servable=not name.startswith("torch"),
            exact="int8" not in name,
            q=_asking(session, feeds),
        )
    return contest


def _pairs_of(feed: Feed, k: int) -> tuple[Any, Any]:
    drivers, count = feed["edges"].shape[1:3]
    driver, booking = np.nonzero(feed["mask"][k, 1:].reshape(drivers, count))
    return driver, booking


def _pair_batches(
    scenario: Any, source: Any, states: Sequence[DispatchState], hold_back: float
) -> dict[int, dict[str, npt.NDArray[Any]]]:
    """Feeds of the fullest recorded states, each with exactly 20 bookings shown."""
    host = HostWorld(scenario, max_bookings=20, observation="rows", source=source)
    fullest = sorted(states, key=lambda s: -len(s.booking_ids))[: max(BATCHES)]
    parts: list[dict[str, npt.NDArray[Any]]] = []
    for k in range(max(BATCHES)):
        host.load(fullest[k % len(fullest)])
        feed = {name: array.copy() for name, array in pair_inputs(host, hold_back)[0].items()}
        parts.append(_padded(feed, 20))
    return {b: {n: np.concatenate([p[n] for p in parts[:b]]) for n in parts[0]} for b in BATCHES}


def _padded(feed: dict[str, npt.NDArray[Any]], bookings: int) -> dict[str, npt.NDArray[Any]]:
    """The feed of one state filled up to so many bookings."""
    drivers, count = feed["edges"].shape[1:3]
    more = bookings - count
    mask = feed["mask"][:, 1:].reshape(1, drivers, count)
    wider = np.pad(mask, ((0, 0), (0, 0), (0, more))).reshape(1, -1)
    return {
        **feed,
        "bookings": np.pad(feed["bookings"], ((0, 0), (0, more), (0, 0))),
        "edges": np.pad(feed["edges"], ((0, 0), (0, 0), (0, more), (0, 0))),
        "mask": np.concatenate([feed["mask"][:, :1], wider], axis=1),
    }


def flat_contest(
    model: Path,
    manifest: ModelManifest,
    book: DayBook,
    sessions: Mapping[str, Any],
    sizes: Mapping[str, int],
    *,
    limit: int = 600,
) -> Contest:
    """`QNetwork`: NumPy and graphs; see `pair_contest`. Decisions are whole epochs of argmax."""
    scenario, source = book.scenario, book.source
    own = FlatPolicy(model, manifest, scenario, source)
    states = recorded_states(own, book, limit)
    environment = manifest.environment
    host = HostWorld(
        scenario,
        max_bookings=environment["max_bookings"],
        observation=environment["observation"],
        source=source,
    )
    seen = [host.observation(state) for state in states]
    feeds = [{"state": o[None], "mask": (m != 0)[None]} for o, m in seen]
    batches = {
        b: {n: np.concatenate([feeds[i % len(feeds)][n] for i in range(b)]) for n in feeds[0]}
        for b in BATCHES
    }
    scale = np.float32(manifest.reward_scale)
    forward = FlatForward(read_arrays(model), dueling=bool(manifest.network.get("dueling")))

    def numpy_q(feed: Feed) -> Any:
        q = forward(feed["state"], feed["mask"]) / scale
        return np.where(feed["mask"], q, np.float32(-1e9))

    contest = Contest(book, states, manifest.reward_scale, single_actions=True)
    contest.backends["numpy"] = Backend(
        "numpy", own, lambda b: numpy_q(batches[b]), sizes["numba"], servable=True, exact=True,
        q=lambda i: numpy_q(feeds[i])[0],
    )  # fmt: skip
    for name, session in sessions.items():

        def through(states: Any, masks: Any, session: Any = session) -> Any:
            return session.run(None, {"state": states, "mask": masks})[0]

        contest.backends[name] = Backend(
            name,
            own.running(through),
            _running(session, batches),
            sizes[name],
            servable=not name.startswith("torch"),
            exact="int8" not in name,
            q=_asking(session, feeds),
        )
    return contest
