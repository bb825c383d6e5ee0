"""The inference engine: a safe answer to "who takes which booking?", within milliseconds.

The tuned ``matching`` decides first, ``nearest`` if even that raises. The learned policy then has
the rest of the time in a thread of its own (compiled code lets go of Python's lock). If it is
late, raises, or decides what the rules do not allow, the answer already at hand is given, and the
reason is counted. A model is exchanged between decisions: each runs wholly on one of the two.
"""

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as LateError
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from services.rl.errors import AtmrError, BundleError, StateError
from services.rl.policies.base import DecisionSet, Policy
from services.rl.simulation.days import DaySource
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import DispatchState

from .bundle import MATCHING, Bundle
from .policies import Desk, Pool, copied, learned_of, matching_of, warm_state

logger = logging.getLogger(__name__)

Use = Literal["rl", "heuristic"]

BUDGET, NO_MODEL, INFEASIBLE = "budget", "no_model", "infeasible"
"""Reasons to fall back, beside ``error:<Type>``."""

_FEWEST_WORKERS: Final = 4


@dataclass(frozen=True)
class Answer:
    """What to do at one epoch, and who said so.

    Attributes:
        decisions: Assignments in the order in which they are to be committed, and the plan to
            hand back at the next epoch.
        policy: Who answered: ``dqn_matching``, ``planner``, ``matching_linear``, ``matching`` or
            ``nearest``.
        fallback_reason: Why it was not the one asked; None if it was.
        latency_ms: From the question to this answer; in a batch, to the end of the batch.
        model: Version of the bundle in force; empty without one.
    """

    decisions: DecisionSet
    policy: str
    fallback_reason: str | None
    latency_ms: float
    model: str


class _Loaded:
    """A bundle ready to decide: prototypes and pools; never changed once made."""

    def __init__(
        self, bundle: Bundle | None, scenario: Scenario, source: DaySource | None, device: str
    ) -> None:
        self.version = "" if bundle is None else bundle.version
        self.kind = None if bundle is None else bundle.kind
        matching = matching_of(bundle, scenario, source)
        self.desks: Pool[Desk] = Pool(lambda: Desk(copied(matching), scenario, source))
        learned = learned_of(bundle, scenario, source, device)
        self.learned: Pool[Policy] | None = None
        if learned is not None:
            self.learned = Pool(lambda: copied(learned))
            self.name = learned.name


_Thought = DecisionSet | Exception | None


class InferenceEngine:
    """Decides for one scenario; any number of threads may ask at once.

    Build it after a server has forked: threads do not survive a fork.

    Args:
        scenario: The world of the states that will be asked about.
        bundle: The model; None: the heuristic alone, counted as ``no_model``.
        source: Where zone matrices come from, if the scenario travels by zones.
        budget_ms: Time for a decision where the question brings none.
        device: ``"cpu"``, or ``"cuda"`` for networks where ONNX Runtime has that provider.

    Raises:
        BundleError: If the bundle is of another scenario or cannot be served here.
    """

    def __init__(
        self,
        scenario: Scenario,
        bundle: Bundle | None,
        *,
        source: DaySource | None = None,
        budget_ms: float = 50.0,
        device: str = "cpu",
    ) -> None:
        self.scenario = scenario
        self.budget_ms = budget_ms
        self.ready = False
        self._source = source
        self._device = device
        self._sha256 = scenario.sha256
        self._counts: Counter[str] = Counter()
        self._counting = threading.Lock()
        self._swapping = threading.Lock()
        # As many late policies as this may still be thinking; more would starve the answers.
        workers = max(_FEWEST_WORKERS, os.cpu_count() or 1)
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="policy")
        self._loaded = self._load(bundle)

    # --- the model -------------------------------------------------------------------------------

    @property
    def version(self) -> str:
        """Version of the bundle in force; empty without one."""
        return self._loaded.version

    def warm_up(self) -> None:
        """Compile and load everything that a decision touches; `ready` afterwards.

        A model that fails here is logged and stays in force: its decisions fall back.
        """
        self._warm(self._loaded)
        self.ready = True

    def swap(self, bundle: Bundle | None) -> None:
        """Put another model in force, loaded and warm; decisions under way end on the old one.

        Raises:
            BundleError: If it is of another scenario, cannot be served, or fails on a trial
                decision; the old one stays.
        """
        with self._swapping:
            loaded = self._load(bundle)
            error = self._warm(loaded)
            if error is not None:
                raise BundleError(
                    f"bundle {loaded.version} fails on a trial decision: {error}"
                ) from error
            self._loaded = loaded
            self.ready = True

    def close(self) -> None:
        """Let the threads end; undecided questions are dropped."""
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _load(self, bundle: Bundle | None) -> _Loaded:
        if bundle is not None and bundle.manifest.scenario_hash != self._sha256:
            raise BundleError(
                f"bundle {bundle.version} is for scenario {bundle.manifest.scenario!r} "
                f"({bundle.manifest.scenario_hash[:12]}), this engine serves "
                f"{self.scenario.name!r} ({self._sha256[:12]})"
            )
        return _Loaded(bundle, self.scenario, self._source, self._device)

    def _warm(self, loaded: _Loaded) -> Exception | None:
        state = warm_state(self.scenario)
        with loaded.desks.borrowed() as desk:
            desk.nearest.decide(state)
            desk.complaint(state, desk.matching.decide(state))
        if loaded.learned is None:
            return None
        thoughts: list[_Thought] = [None]
        self._think(loaded.learned, [state], [None], float("inf"), thoughts)
        if isinstance(thoughts[0], Exception):
            logger.error("model %s fails on a trial decision: %s", loaded.version, thoughts[0])
            return thoughts[0]
        return None

    # --- deciding --------------------------------------------------------------------------------

    @property
    def counters(self) -> Mapping[str, int]:
        """Decisions by who answered (``policy:matching``), fallbacks by reason (``fallback:...``).

        A copy; numbers only grow.
        """
        with self._counting:
            return dict(self._counts)

    def decide(
        self,
        state: DispatchState,
        *,
        plan: Any = None,
        budget_ms: float | None = None,
        use: Use = "rl",
    ) -> Answer:
        """Decide one epoch.

        Args:
            state: Drivers and all open bookings.
            plan: ``answer.decisions.plan`` of the epoch before; losing it costs time only.
            budget_ms: Time for this decision; default the engine's.
            use: ``"rl"``: the model; ``"heuristic"``: the tuned ``matching``.

        Raises:
            StateError: If the rules cannot handle the state; naming row and field.
        """
        return self.decide_batch([state], plans=[plan], budget_ms=budget_ms, use=use)[0]

    def decide_batch(
        self,
        states: Sequence[DispatchState],
        *,
        plans: Sequence[Any] | None = None,
        budget_ms: float | None = None,
        use: Use = "rl",
    ) -> list[Answer]:
        """Decide several states in one go, such as those of all companies at a tick.

        Args:
            states: One per answer.
            plans: One per state.
            budget_ms: For *each* state; the batch has their sum, and states that are done by
                then keep the model's answer.
            use: See `decide`.

        Raises:
            StateError: If a state cannot be handled; none of them is then decided.
        """
        begun = time.perf_counter()
        plans = [None] * len(states) if plans is None else plans
        each = self.budget_ms if budget_ms is None else budget_ms
        deadline = begun + each * len(states) / 1e3
        loaded = self._loaded  # read once: the whole batch on one model
        with loaded.desks.borrowed() as desk:
            safe = [
                self._safe(desk, state, plan) for state, plan in zip(states, plans, strict=True)
            ]
            answers = safe
            if use == "rl" and loaded.learned is not None:
                thoughts = self._ask(loaded.learned, states, plans, deadline)
                answers = [
                    self._judged(desk, state, thought, answer, loaded.name)
                    for state, thought, answer in zip(states, thoughts, safe, strict=True)
                ]
            elif use == "rl" and loaded.kind != MATCHING:
                answers = [replace(a, fallback_reason=a.fallback_reason or NO_MODEL) for a in safe]
        spent = (time.perf_counter() - begun) * 1e3
        answers = [replace(a, latency_ms=spent, model=loaded.version) for a in answers]
        with self._counting:
            for answer in answers:
                self._counts[f"policy:{answer.policy}"] += 1
                if answer.fallback_reason is not None:
                    self._counts[f"fallback:{answer.fallback_reason}"] += 1
        return answers

    def _safe(self, desk: Desk, state: DispatchState, plan: Any) -> Answer:
        """The answer that stands whatever the model does; the plan is kept for the next epoch."""
        reason = None
        try:
            decided, name = desk.matching.decide(state), desk.matching.name
        except StateError:
            raise  # the question is wrong, not the policy
        except Exception as error:
            logger.exception("matching failed; nearest decides")
            reason = _reason(error)
            decided, name = desk.nearest.decide(state), desk.nearest.name
        return Answer(replace(decided, plan=plan), name, reason, 0.0, "")

    def _ask(
        self,
        learned: Pool[Policy],
        states: Sequence[DispatchState],
        plans: Sequence[Any],
        deadline: float,
    ) -> list[_Thought]:
        """What the model thinks of each state by the deadline; None where it was late."""
        thoughts: list[_Thought] = [None] * len(states)
        left = deadline - time.perf_counter()
        if left <= 0.0 or not states:
            return thoughts
        job = self._workers.submit(self._think, learned, states, plans, deadline, thoughts)
        try:
            job.result(timeout=left)
        except LateError:
            job.cancel()
        return list(thoughts)  # what comes later does not count

    @staticmethod
    def _think(
        learned: Pool[Policy],
        states: Sequence[DispatchState],
        plans: Sequence[Any],
        deadline: float,
        thoughts: list[_Thought],
    ) -> None:
        for i, (state, plan) in enumerate(zip(states, plans, strict=True)):
            if time.perf_counter() >= deadline:
                return
            try:
                with learned.borrowed() as policy:
                    thoughts[i] = policy.decide(state, plan=plan)
            except Exception as error:  # noqa: BLE001 - the fallback answers; counted, logged
                thoughts[i] = error

    @staticmethod
    def _judged(
        desk: Desk, state: DispatchState, thought: _Thought, safe: Answer, name: str
    ) -> Answer:
        if thought is None:
            reason = BUDGET
        elif isinstance(thought, Exception):
            expected = isinstance(thought, AtmrError)
            logger.error("%s failed: %s", name, thought, exc_info=None if expected else thought)
            reason = _reason(thought)
        else:
            complaint = desk.complaint(state, thought)
            if complaint is None:
                return Answer(thought, name, None, 0.0, "")
            logger.error("%s decided what is not feasible: %s", name, complaint)
            reason = INFEASIBLE
        return replace(safe, fallback_reason=reason)


def _reason(error: Exception) -> str:
    return f"error:{type(error).__name__}"
