"""Units of randomisation: which one a booking belongs to, its bucket, and its arm for good."""

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import numpy as np

from services.rl.simulation.scenarios import MatrixTravel, Scenario
from services.rl.simulation.types import DispatchState

from .config import (
    HEURISTIC,
    RL,
    ExperimentConfig,
    ExperimentError,
    UnitKind,
    block_start,
)

BUCKETS: Final = 10_000
_KM_PER_DEGREE: Final = 111.195
_STAMP: Final = "%Y%m%dT%H%MZ"


@dataclass(frozen=True)
class UnitArm:
    """A unit with the arm it keeps.

    Attributes:
        unit: As `unit_of` names it.
        bucket: 0..9999.
        arm: ``"heuristic"`` or ``"rl"``.
        created_at: When it was first seen.
    """

    unit: str
    bucket: int
    arm: str
    created_at: datetime


class UnitStore(Protocol):
    """Where arms of units are kept for good."""

    def get_or_create(self, experiment: str, proposals: Sequence[UnitArm]) -> list[UnitArm]:
        """What is kept for each proposed unit, in their order; the unknown ones are kept now.

        The first writer wins: of two processes that propose one unit, both get what the first
        wrote. (In SQL: INSERT ... ON CONFLICT DO NOTHING, then SELECT.)
        """
        ...


class MemoryUnits:
    """Units kept in this process."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], UnitArm] = {}
        self._lock = threading.Lock()

    def get_or_create(self, experiment: str, proposals: Sequence[UnitArm]) -> list[UnitArm]:
        """See `UnitStore.get_or_create`."""
        with self._lock:
            return [self._rows.setdefault((experiment, row.unit), row) for row in proposals]

    def __len__(self) -> int:
        return len(self._rows)


def unit_of(
    config: ExperimentConfig,
    *,
    booking_id: str | int,
    company_id: str | int | None,
    zone: str | int,
    at: datetime,
) -> str:
    """The unit a booking is randomised by, when it is decided at ``at``.

    ``booking`` is the finest and the most misleading: both arms draw on one fleet. A booking
    that one arm serves well takes the driver whom the other arm needed, so each arm's figures
    contain the other's doing, and the difference is overstated; in a published ride-hailing
    simulation by 208 % of the true effect per order, against 32 % for switchback blocks of 30
    minutes and 11 % for blocks of two hours (R. Tolone, "Switchback Experiments on a Simulated
    Marketplace", ryan-tolone.com/projects/switchback).

    In our own overloaded fleet (``scripts/rl/check_experiments.py --bias``) it has even the wrong
    sign: most likely because the planner commits late, and finds the drivers taken by the arm that
    commits early.

    ``switchback``, recommended where arms share drivers, gives a zone of one company and a block
    of time to one arm, so that within it one policy has the whole fleet: Chamandy 2016
    ("Experimentation in a Ridesharing Marketplace"), Bojinov, Simchi-Levi and Zhao 2023
    ("Design and Analysis of Switchback Experiments", Management Science). What remains is
    carry-over: a block begins with the queues that the last one left, hence blocks several trips
    long, and zones large enough that drivers rarely cross them. The block is the *decision's*: a
    booking deferred across a boundary is decided by the next block's arm. Whose doing its outcome
    is, is another question: `attribution`.

    ``company`` shares nothing, and needs many companies to say anything.

    Raises:
        ExperimentError: If the company is needed and unknown, or the time has no zone.
    """
    if config.unit == UnitKind.BOOKING:
        return f"booking:{booking_id}"
    if company_id is None:
        raise ExperimentError(
            f"experiment {config.name!r} randomises by {config.unit}: it needs the company's id"
        )
    if config.unit == UnitKind.COMPANY:
        return f"company:{company_id}"
    start = block_start(at, config.block_min)
    return f"block:{company_id}:{zone}:{start.strftime(_STAMP)}"


def unit_ends_at(config: ExperimentConfig, unit: str) -> datetime | None:
    """When a switchback unit's block ends; None for units without an end.

    Raises:
        ExperimentError: If it should be a switchback unit and is none.
    """
    if config.unit != UnitKind.SWITCHBACK:
        return None
    try:
        start = datetime.strptime(unit.rpartition(":")[2], _STAMP).replace(tzinfo=UTC)
    except ValueError as error:
        raise ExperimentError(f"unit {unit!r} is no switchback unit") from error
    return start + timedelta(minutes=config.block_min)


def draw(salt: str, experiment: str, *parts: str | int) -> float:
    """A reproducible uniform number in [0, 1): the same question, the same answer.

    53 bits of a SHA-256, so that every value is a float below 1.
    """
    text = ":".join((salt, experiment, *(str(part) for part in parts)))
    return (int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 11) / 2.0**53


def bucket(salt: str, experiment: str, unit: str) -> int:
    """``sha256(salt:experiment:unit) mod 10000``."""
    digest = hashlib.sha256(f"{salt}:{experiment}:{unit}".encode()).digest()
    return int.from_bytes(digest, "big") % BUCKETS


def arms_of(
    config: ExperimentConfig, units: Sequence[str], store: UnitStore, at: datetime
) -> dict[str, UnitArm]:
    """The arm of each unit, for good: kept at first sight, whatever the split becomes later."""
    proposals = []
    for unit in dict.fromkeys(units):
        number = bucket(config.salt, config.name, unit)
        arm = RL if number < round(config.rl_share * BUCKETS) else HEURISTIC
        proposals.append(UnitArm(unit, number, arm, at))
    return {row.unit: row for row in store.get_or_create(config.name, proposals)}


def arm_of(config: ExperimentConfig, unit: str, store: UnitStore, at: datetime) -> UnitArm:
    """The arm of one unit; see `arms_of`."""
    return arms_of(config, [unit], store, at)[unit]


def grid_zone(lat: float, lon: float, base: tuple[float, float], zone_km: float) -> str:
    """Zone of a place where the scenario has none: a cell of a square grid, ``"row.column"``.

    The cell ``0.0`` is centred on the base, so that no border runs through the middle of a
    town; rows run north, columns east, measured on the plane that touches the base.
    """
    north = (lat - base[0]) * _KM_PER_DEGREE
    east = (lon - base[1]) * _KM_PER_DEGREE * float(np.cos(np.radians(base[0])))
    return f"{int(np.floor(north / zone_km + 0.5))}.{int(np.floor(east / zone_km + 0.5))}"


def booking_zone(state: DispatchState, row: int, scenario: Scenario, zone_km: float) -> str:
    """Zone of a booking's pickup: the scenario's own where it travels by zones, or the grid's.

    The column alone does not say: where travel is by coordinates it may hold -1 or 0.
    """
    booking: Any = state.bookings[row]
    if isinstance(scenario.travel, MatrixTravel):
        return str(int(booking["pickup_zone"]))
    base = (scenario.place.base.lat, scenario.place.base.lon)
    return grid_zone(float(booking["pickup_lat"]), float(booking["pickup_lon"]), base, zone_km)
