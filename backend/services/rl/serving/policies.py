"""From a bundle to policies: the learned one, and the two that answer when it does not.

A policy keeps memory that one decision at a time may use, so each thread borrows one of its own.
Prototypes hold the weights, are never asked themselves, and are copied: copies share the weights.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Generic, TypeVar

import numpy as np

from services.rl.errors import BundleError
from services.rl.policies import kernels
from services.rl.policies.base import DecisionSet, Policy
from services.rl.policies.baselines import CompiledPolicy, make_baseline
from services.rl.policies.edge_matching import LINEAR as LINEAR_KIND
from services.rl.policies.edge_policies import EdgePolicy, pair_policy
from services.rl.policies.planner import DEFAULT_MOVES, SearchPolicy
from services.rl.policies.planner_values import VALUES_FILE, PlannerValues
from services.rl.policies.tuning import MatchingWeights
from services.rl.simulation.days import DaySource
from services.rl.simulation.demand import DemandModel
from services.rl.simulation.edges import EDGE
from services.rl.simulation.host import HostWorld
from services.rl.simulation.sampling import fleet_rows
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import STATE_BOOKING_DTYPE, STATE_DRIVER_DTYPE, DispatchState

from .bundle import (
    EXPECTED_DEMAND,
    LINEAR,
    LINEAR_FILE,
    MATCHING,
    MATCHING_FILE,
    NETWORK_FOLDER,
    PLANNER,
    Bundle,
)

T = TypeVar("T")

NUMBA = "numba"
"""The backend that runs networks in our own compiled code."""


class Pool(Generic[T]):
    """Things that one thread at a time may use; as many are made as are in use at once."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._free: deque[T] = deque()  # append and pop are atomic

    @contextmanager
    def borrowed(self) -> Iterator[T]:
        """One for the caller alone; after an error it is not given back, its memory is suspect."""
        try:
            thing = self._free.pop()
        except IndexError:
            thing = self._make()
        yield thing
        self._free.append(thing)


def matching_of(
    bundle: Bundle | None, scenario: Scenario, source: DaySource | None
) -> CompiledPolicy:
    """The tuned ``matching``: with the bundle's weights, or without one with those filed."""
    if bundle is None:
        policy = make_baseline("matching", scenario, source=source)
        assert policy is not None
        policy.name = MATCHING
        return policy
    weights = MatchingWeights.load(bundle.file(MATCHING_FILE))
    return CompiledPolicy(
        MATCHING,
        kernels.MATCHING,
        scenario,
        source=source,
        weights=weights,
        hold_back_min=weights.hold_back_min,
        note=f"bundle {bundle.version}",
    )


def learned_of(
    bundle: Bundle | None, scenario: Scenario, source: DaySource | None, device: str
) -> Policy | None:
    """The bundle's own policy; None where it is ``matching`` itself, or there is no bundle.

    Raises:
        BundleError: If the bundle cannot be served here.
        PolicyError: If a file of the model is of another version.
    """
    if bundle is None or bundle.kind == MATCHING:
        return None
    if bundle.kind == PLANNER:
        moves = bundle.policy.get("moves", DEFAULT_MOVES)
        if not isinstance(moves, int) or moves < 1:
            raise BundleError(f"bundle {bundle.path}: moves is {moves!r}, expected a whole number")
        expected = None
        if EXPECTED_DEMAND in bundle.manifest.files:
            expected = DemandModel.load(bundle.file(EXPECTED_DEMAND))
        return SearchPolicy(
            PLANNER,
            scenario,
            source=source,
            values=PlannerValues.load(bundle.file(VALUES_FILE)),
            expected=expected,
            moves=moves,
            note=f"bundle {bundle.version}; {moves} moves per epoch",
        )
    if bundle.kind == LINEAR:
        weights = MatchingWeights.load(bundle.file(LINEAR_FILE), EDGE)
        return EdgePolicy(
            LINEAR,
            scenario,
            LINEAR_KIND,
            hold_back_min=weights.hold_back_min,
            weights=weights.array(),
            source=source,
            note=f"bundle {bundle.version}",
        )
    if device == "cpu" and bundle.manifest.backend == NUMBA:
        return pair_policy(bundle.kind, bundle.path / NETWORK_FOLDER, scenario, source)
    from .onnx_network import onnx_pair_policy

    return onnx_pair_policy(bundle, scenario, source, device)


def copied(prototype: Policy) -> Policy:
    """A policy with the weights of one that has never decided, and memory of its own."""
    return copy.copy(prototype)


class Desk:
    """What answers for sure: ``matching``, then ``nearest``; and the judge of all decisions.

    Args:
        matching: A copy of its own.
        scenario: The world.
        source: Where zone matrices come from.
    """

    def __init__(self, matching: Policy, scenario: Scenario, source: DaySource | None) -> None:
        nearest = make_baseline("nearest", scenario, source=source)
        assert nearest is not None
        self.matching = matching
        self.nearest: Policy = nearest
        self._host = HostWorld(scenario, observation="compact", source=source)

    def complaint(self, state: DispatchState, answer: DecisionSet) -> str | None:
        """What is wrong with decisions on a state; None if they can be carried out as they stand.

        They are committed one after the other in the simulator's own world: what its mask
        refuses, or a booking decided twice, is not feasible.
        """
        bookings, drivers = len(state.booking_ids), len(state.driver_ids)
        rows = [decision.booking for decision in answer.decisions]
        for i, row in enumerate(rows):
            if not 0 <= row < bookings or row in rows[:i]:
                return f"booking row {row} of {bookings} is unknown or decided twice"
        if not rows:
            return None
        # Whether a driver may take a booking depends on no other booking: the rest stay away.
        self._host.load(
            replace(
                state,
                booking_ids=tuple(state.booking_ids[row] for row in rows),
                bookings=state.bookings[rows],
            )
        )
        for i, decision in enumerate(answer.decisions):
            driver = decision.driver
            if driver is None:
                continue
            if not 0 <= driver < drivers or not self._host.engine.commit(0, driver, i):
                return f"driver row {driver} cannot take booking row {decision.booking}"
        return None


def warm_state(scenario: Scenario) -> DispatchState:
    """A state in which every policy of the scenario has something to decide, to compile by."""
    fleet = fleet_rows(scenario)
    now = max(0.0, float(fleet["shift_start_min"].min()))
    drivers = np.zeros(len(fleet), dtype=STATE_DRIVER_DTYPE)
    for name in ("lat", "lon", "shift_start_min", "shift_end_min", "wheelchair", "emergency"):
        drivers[name] = fleet[name]
    drivers["free_at_min"] = np.maximum(now, drivers["shift_start_min"])
    bookings = np.zeros(4, dtype=STATE_BOOKING_DTYPE)
    for where in ("pickup", "dropoff"):
        bookings[f"{where}_lat"], bookings[f"{where}_lon"] = (
            scenario.place.base.lat,
            scenario.place.base.lon,
        )
    bookings["dropoff_lat"] += np.linspace(0.01, 0.02, 4)
    bookings["created_min"] = now
    bookings["promised_min"] = now + np.array([0.0, 10.0, 60.0, 120.0])
    bookings["window_end_min"] = bookings["promised_min"] + scenario.rules.window_min
    bookings["priority"] = 5
    bookings["fare"] = np.nan
    return DispatchState(
        now_min=now,
        driver_ids=tuple(f"driver-{d}" for d in range(len(drivers))),
        drivers=drivers,
        booking_ids=tuple(f"booking-{b}" for b in range(len(bookings))),
        bookings=bookings,
        scenario=scenario.name,
        scenario_hash=scenario.sha256,
    )
