"""The A/B dispatcher: which arm decides a booking, and what comes of two arms sharing a fleet.

Arms are ``heuristic`` (the tuned ``matching``) and ``rl`` (the champion). Modes: ``off`` (the
heuristic alone), ``shadow`` (the heuristic acts, the learned policy is asked and logged), ``ab``
(each unit has its arm). Units, and why ``switchback`` is recommended: `experiments.units`. How
two arms share one epoch: `experiments.composition`. Exploration: `experiments.exploration`. When
the learned arm is stopped: `experiments.guardrails`.

    dispatcher = ABDispatcher(config, heuristic, rl, units, monitor, scenario=..., clock=...)
    epoch = dispatcher.decide(state, company_id=7)          # all open bookings: the tick
    routed = dispatcher.dispatch_with_ab("b-12", state)     # one booking: POST /dispatch

Nothing is committed here: the caller writes what is returned, in its order.
"""

import threading
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Any, Final

from .experiments.arms import Answered, ArmAnswer, Decider, EngineArm, PolicyArm
from .experiments.composition import Composition, compose
from .experiments.config import (
    HEURISTIC,
    RL,
    Clock,
    ExperimentConfig,
    ExperimentError,
    ExperimentStore,
    Guardrails,
    MemoryExperiment,
    Mode,
    UnitKind,
    aware,
    parse_experiment,
)
from .experiments.epoch_world import EpochWorld
from .experiments.exploration import Choice, explore
from .experiments.guardrails import Breach, GuardrailMonitor
from .experiments.notification import NullNotifier, WebhookNotifier, notifier_for
from .experiments.routed import ArmPlans, Epoch, Routed, RoutedEpoch, routed, shadowed
from .experiments.units import (
    MemoryUnits,
    UnitArm,
    UnitStore,
    arm_of,
    arms_of,
    booking_zone,
    bucket,
    unit_of,
)
from .policies.base import DecisionSet
from .simulation.days import DaySource
from .simulation.scenarios import Scenario
from .simulation.types import DispatchState

__all__ = [
    "HEURISTIC",
    "RL",
    "ABDispatcher",
    "ArmAnswer",
    "Breach",
    "EngineArm",
    "ExperimentConfig",
    "ExperimentError",
    "GuardrailMonitor",
    "Guardrails",
    "MemoryExperiment",
    "MemoryUnits",
    "Mode",
    "NullNotifier",
    "PolicyArm",
    "Routed",
    "RoutedEpoch",
    "UnitKind",
    "WebhookNotifier",
    "arm_of",
    "bucket",
    "configure",
    "dispatch_with_ab",
    "notifier_for",
    "parse_experiment",
    "unit_of",
]

NOT_FEASIBLE: Final = "infeasible"


class ABDispatcher:
    """Routes bookings between two arms; for several threads at once.

    Args:
        config: The experiment, or the store that keeps it (then a stop reaches all processes).
        heuristic: The control arm; an error of it is the caller's to handle.
        rl: The learned arm; if it raises or answers with what cannot be done, the heuristic's
            decisions stand in and the reason is noted.
        units: Where arms of units are kept.
        monitor: Fed with the learned arm's decisions; None: the caller feeds it from the log.
        scenario: Rules, travel and base: feasibility and zones.
        clock: Where the time comes from if a call gives none.
        source: Where zone matrices come from.
    """

    def __init__(
        self,
        config: ExperimentConfig | ExperimentStore,
        heuristic: Decider,
        rl: Decider,
        units: UnitStore,
        monitor: GuardrailMonitor | None = None,
        *,
        scenario: Scenario,
        clock: Clock | None = None,
        source: DaySource | None = None,
    ) -> None:
        self.experiments: ExperimentStore = (
            MemoryExperiment(config) if isinstance(config, ExperimentConfig) else config
        )
        self.monitor = monitor
        self._arms: dict[str, Decider] = {HEURISTIC: heuristic, RL: rl}
        self._units = units
        self._scenario = scenario
        self._source = source
        self._clock = clock
        self._local = threading.local()

    # --- the two questions -----------------------------------------------------------------------

    def dispatch_with_ab(
        self,
        booking: Any,
        state: DispatchState,
        plan: Any = None,
        *,
        company_id: str | int | None = None,
        at: datetime | None = None,
        budget_ms: float | None = None,
    ) -> Routed:
        """Who takes this booking, by the arm that the experiment says.

        Args:
            booking: Its id, or an object with an ``id`` (and perhaps a ``company_id``).
            state: All drivers and all open bookings, this one among them.
            plan: Of the last epoch.
            company_id: Whose booking; default: the object's, then the experiment's.
            at: The time; default: the clock's.
            budget_ms: Time for the arm's policy.

        Raises:
            ExperimentError: If the booking is not in the state, or company or time are needed
                and unknown.
        """
        name = booking_id_of(booking)
        if company_id is None:
            company_id = getattr(booking, "company_id", None)
        epoch = self.decide(
            state, plan=plan, company_id=company_id, at=at, budget_ms=budget_ms, only=[name]
        )
        return epoch.decisions[0]

    def decide(
        self,
        state: DispatchState,
        *,
        plan: Any = None,
        company_id: str | int | None = None,
        at: datetime | None = None,
        budget_ms: float | None = None,
        only: Collection[str] | None = None,
        units: UnitStore | None = None,
    ) -> RoutedEpoch:
        """Decide one epoch.

        Policies always see the whole state; where all bookings asked for are one arm's, only
        that arm is asked. Deciding the same epoch again gives the same answer, as far as the
        policies are deterministic.

        Args:
            state: All drivers and all open bookings.
            plan: The last epoch's ``plan``; anything else is ignored.
            company_id: Whose fleet; default: the experiment's.
            at: The time; default: the clock's.
            budget_ms: Time for each arm's policy, each time it is asked.
            only: Ids of the bookings to decide; default: all.
            units: Where arms are looked up; default: the dispatcher's own, which keeps them.

        Raises:
            ExperimentError: If a booking asked for is not in the state, or company or time are
                needed and unknown.
            StateError: If the state is malformed or of another scenario.
        """
        config = self.experiments.current()
        # An empty store is a store: it is not asked whether it is true.
        store = self._units if units is None else units
        epoch = self._epoch(config, state, plan, company_id, at, budget_ms, only, store)
        arms = sorted({epoch.arm(row) for row in epoch.rows}) or [HEURISTIC]
        answers = {arm: self._ask(arm, epoch) for arm in arms}
        composition, choices, order = self._compose(epoch, answers)
        decisions = routed(epoch, answers, composition, choices, order)
        shadow: tuple[Routed, ...] = ()
        plans = {arm: answer.decisions.plan for arm, answer in answers.items()}
        if config.asks_rl and config.mode == Mode.SHADOW:
            answer = self._ask(RL, epoch)
            shadow = shadowed(epoch, answer)
            plans[RL] = answer.decisions.plan
        return RoutedEpoch(
            decisions, shadow, ArmPlans(plans.get(HEURISTIC), plans.get(RL)), config, epoch.at
        )

    # --- its steps -------------------------------------------------------------------------------

    def _epoch(
        self,
        config: ExperimentConfig,
        state: DispatchState,
        plan: Any,
        company_id: str | int | None,
        at: datetime | None,
        budget_ms: float | None,
        only: Collection[str] | None,
        store: UnitStore,
    ) -> Epoch:
        if at is None:
            if self._clock is None:
                raise ExperimentError("the A/B dispatcher has no clock: pass the time as `at`")
            at = self._clock.now()
        at = aware(at)
        rows = tuple(range(len(state.booking_ids)))
        if only is not None:
            row_of = {name: row for row, name in enumerate(state.booking_ids)}
            missing = [name for name in only if name not in row_of]
            if missing:
                raise ExperimentError(f"booking {missing[0]!r} is not among the open bookings")
            rows = tuple(sorted(row_of[name] for name in only))
        units: dict[int, UnitArm] = {}
        if config.asks_rl and config.mode == Mode.AB:
            company = config.company_id if company_id is None else company_id
            names = {row: self._unit(config, state, row, company, at) for row in rows}
            known = arms_of(config, list(names.values()), store, at)
            units = {row: known[name] for row, name in names.items()}
        plans = plan if isinstance(plan, ArmPlans) else ArmPlans()
        return Epoch(state, config, at, rows, units, plans, budget_ms)

    def _unit(
        self,
        config: ExperimentConfig,
        state: DispatchState,
        row: int,
        company_id: str | int | None,
        at: datetime,
    ) -> str:
        zone = ""
        if config.unit == UnitKind.SWITCHBACK:
            zone = booking_zone(state, row, self._scenario, config.zone_km)
        return unit_of(
            config, booking_id=state.booking_ids[row], company_id=company_id, zone=zone, at=at
        )

    def _ask(self, arm: str, epoch: Epoch) -> Answered:
        """An arm's answer; of the learned arm one that can be carried out, whatever happens."""
        plan = epoch.plans.rl if arm == RL else epoch.plans.heuristic
        if arm == HEURISTIC:
            return self._arms[arm].decide(epoch.state, plan=plan, budget_ms=epoch.budget_ms)
        answer = self._guarded(epoch.state, plan, epoch.budget_ms)
        if self.monitor is not None:
            self.monitor.record_decision(
                epoch.at,
                fallback=answer.fallback_reason is not None,
                infeasible=answer.fallback_reason == NOT_FEASIBLE,
                latency_ms=answer.latency_ms,
            )
        return answer

    def _guarded(self, state: DispatchState, plan: Any, budget_ms: float | None) -> Answered:
        try:
            answer = self._arms[RL].decide(state, plan=plan, budget_ms=budget_ms)
            decisions = answer.decisions.decisions
            _late, refused = self._world().lateness(state, decisions)
            if not refused:
                return answer
            reason, latency_ms, model = NOT_FEASIBLE, answer.latency_ms, answer.model
        except Exception as error:  # noqa: BLE001 - whatever a learned policy does, patients ride
            reason, latency_ms, model = f"error:{type(error).__name__}", 0.0, ""
        instead = self._arms[HEURISTIC].decide(state, budget_ms=budget_ms)
        return ArmAnswer(
            instead.decisions, instead.policy, reason, latency_ms + instead.latency_ms, model
        )

    def _compose(
        self, epoch: Epoch, answers: Mapping[str, Answered]
    ) -> tuple[Composition, dict[int, Choice], list[int]]:
        """Whose booking gets which driver, after exploration, and in which order."""

        def redecide(arm: str, state: DispatchState) -> DecisionSet:
            if arm == RL:
                return self._guarded(state, None, epoch.budget_ms).decisions
            return self._arms[arm].decide(state, budget_ms=epoch.budget_ms).decisions

        world = self._world()
        composition = compose(
            world,
            epoch.state,
            {row: epoch.arm(row) for row in epoch.rows},
            {arm: answer.decisions for arm, answer in answers.items()},
            redecide,
            epoch.draws("turn"),
        )
        planned = [placed.decision for placed in composition.placed]
        config = epoch.config
        epsilon = config.epsilon if config.asks_rl else 0.0
        if epsilon <= 0.0 or not planned:
            return composition, {}, [d.booking for d in planned]
        order, choices = explore(world, epoch.state, planned, epsilon, epoch.draws("explore"))
        return composition, choices, order

    def _world(self) -> EpochWorld:
        """This thread's world: compiled memory is not shared."""
        world: EpochWorld | None = getattr(self._local, "world", None)
        if world is None:
            world = self._local.world = EpochWorld(self._scenario, self._source)
        return world


# --- the dispatcher of a process ---------------------------------------------------------------

StateSource = Callable[[Any], DispatchState]
"""The fleet's state with a booking among the open ones, given the booking."""

_configured: tuple[ABDispatcher, StateSource | None] | None = None


def configure(dispatcher: ABDispatcher | None, state_of: StateSource | None = None) -> None:
    """Make a dispatcher the one that `dispatch_with_ab` uses; None: none.

    Args:
        dispatcher: For this process.
        state_of: Reads the fleet's state where a call brings none.
    """
    global _configured
    _configured = None if dispatcher is None else (dispatcher, state_of)


def dispatch_with_ab(booking: Any, state: DispatchState | None = None, plan: Any = None) -> Routed:
    """Who takes this booking, by the arm that the experiment says; see `ABDispatcher`.

    Args:
        booking: Its id, or an object with an ``id``.
        state: All drivers and all open bookings; default: as configured.
        plan: Of the last epoch.

    Raises:
        ExperimentError: If no dispatcher is configured, or no state can be had.
    """
    if _configured is None:
        raise ExperimentError(
            "no A/B dispatcher is configured: call ab_dispatcher.configure(...) at start"
        )
    dispatcher, state_of = _configured
    if state is None:
        if state_of is None:
            raise ExperimentError(
                "dispatch_with_ab needs the fleet's state: pass it, or configure(state_of=...)"
            )
        state = state_of(booking)
    return dispatcher.dispatch_with_ab(booking, state, plan)


def booking_id_of(booking: Any) -> str:
    """The id of a booking given as id or as an object with one.

    Raises:
        ExperimentError: If it has none.
    """
    name = booking if isinstance(booking, (str, int)) else getattr(booking, "id", None)
    if name is None or isinstance(name, bool) or not str(name):
        raise ExperimentError(f"a {type(booking).__name__} is no booking: it has no id")
    return str(name)
