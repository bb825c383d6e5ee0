"""Rows of the log in, experiences and counts out: pure, so that everybody gets the same.

The collector writes what comes out of here, and a check compares a store with what comes out of
here. A company's snapshots come in their order; each of them closes the epoch before.

What makes no experience comes out too, with its id alone, because it may have made one before.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

from services.dispatching.operating_day import operating_day
from services.rl.data.experience import WAIT_PREFIX, Ending, Experience, RewardTerms
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.travel import TravelTables

from .payloads import Seen, UnreadableError, read_payload
from .settled import AssignmentRow, BookingRow, Came, Settling
from .worth import Worth

OTHER_SCENARIO: Final = "other_scenario"
NOT_IN_STATE: Final = "not_in_state"  # pinned: set aside before the state was logged
NO_SNAPSHOT: Final = "no_snapshot"  # a person's, without a fleet
NEXT_UNREADABLE: Final = "next_unreadable"

_FAR: Final = timedelta(hours=24)
"""A booking that was put off so far is not lost to the epoch that last deferred it."""

Item = tuple[str, Experience | None]
"""An id, and its experience; None: there is none (any more, or yet)."""


class SnapshotRow(NamedTuple):
    """One epoch."""

    id: int
    epoch_at: datetime
    day: date
    scenario_hash: str
    schema: int
    payload: bytes


class AssignRow(NamedTuple):
    """One acted-on decision that assigns."""

    id: str
    snapshot_id: int
    booking_id: int
    driver_id: int
    k: int
    propensity: float
    arm: str
    unit: str
    model: str | None
    features: Mapping[str, Any] | None
    decided_at: datetime
    source: str
    overridden_by: str | None


@dataclass
class Facts:
    """What some snapshots' experiences follow from, beside the snapshots.

    Attributes:
        assigns: By snapshot, in their order.
        deferrals: Acted-on deferrals by snapshot.
        shadows: Decisions that were not acted on, by snapshot.
        human: Snapshots whose acted-on decisions are all a person's.
        bookings: By id; those that are not there were deleted.
        assignments: By booking.
        last: Id of the last acted-on decision, by booking; of bookings that were not brought.
        put_off: Bookings whose last acted-on decision is a deferral, by its snapshot.
        never: Open or unserved bookings about which nothing was ever decided.
    """

    assigns: dict[int, list[AssignRow]] = field(default_factory=dict)
    deferrals: dict[int, int] = field(default_factory=dict)
    shadows: dict[int, int] = field(default_factory=dict)
    human: set[int] = field(default_factory=set)
    bookings: dict[int, BookingRow] = field(default_factory=dict)
    assignments: dict[int, list[AssignmentRow]] = field(default_factory=dict)
    last: dict[int, str] = field(default_factory=dict)
    put_off: dict[int, list[int]] = field(default_factory=dict)
    never: list[BookingRow] = field(default_factory=list)


@dataclass
class Tally:
    """Fates of decisions and of epochs' ends; `decisions` is the sum of the next five."""

    assigned: int = 0
    folded: int = 0
    provisional: int = 0
    shadow: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    waits: int = 0
    waits_provisional: int = 0
    waits_left_out: Counter[str] = field(default_factory=Counter)
    reconstructed: int = 0
    reconstruction_provisional: int = 0
    not_reconstructed: Counter[str] = field(default_factory=Counter)
    first_provisional: datetime | None = None

    @property
    def decisions(self) -> int:
        """Of which the fate is known here."""
        return self.assigned + self.folded + self.provisional + self.shadow + self.left_out.total()

    def wait_for(self, at: datetime) -> None:
        """Something of this moment is not known yet."""
        if self.first_provisional is None or at < self.first_provisional:
            self.first_provisional = at


@dataclass
class _Open:
    """An epoch whose end is not known yet."""

    row: SnapshotRow
    facts: Facts
    seen: Seen | None
    reason: str
    prior: tuple[tuple[int, int], ...]


class Chain:
    """Turns one company's snapshots, fed in order, into experiences.

    Args:
        scenario: The world that is served; states of others are left out.
        scenario_hash: Its hash.
        tables: Its travel times.
        company_id: Whose.
        now: The moment at which outcomes are read.
        zone: Of operating days.
        tally: Counts.
    """

    def __init__(
        self,
        scenario: Scenario,
        scenario_hash: str,
        tables: TravelTables,
        company_id: int,
        now: datetime,
        zone: ZoneInfo,
        tally: Tally,
    ) -> None:
        self._rules = scenario.rules
        self._hash = scenario_hash
        self._company_id = company_id
        self._zone = zone
        self._settling = Settling.at(now, scenario.rules)
        self._today = operating_day(now, scenario.rules, zone).date
        self._worth = Worth(scenario, tables)
        self._tally = tally
        self._open: _Open | None = None

    def feed(self, row: SnapshotRow, facts: Facts) -> Iterator[Item]:
        """One more epoch: the end of the one before, then its own assignments."""
        seen, reason = self._read(row)
        yield from self._close(row, seen)
        prior: list[tuple[int, int]] = []
        for decision in facts.assigns.get(row.id, ()):
            yield decision.id, self._assigned(row, seen, reason, decision, prior, facts)
        self._tally.shadow += facts.shadows.get(row.id, 0)
        self._open = _Open(row, facts, seen, reason, tuple(prior))

    def end(self, following: SnapshotRow | None) -> Iterator[Item]:
        """No more is fed; ``following`` is the company's next snapshot, if there is one."""
        if self._open is not None:
            yield from self._close(following, self._read(following)[0] if following else None)
        self._open = None

    def _read(self, row: SnapshotRow) -> tuple[Seen | None, str]:
        if row.scenario_hash != self._hash:
            return None, OTHER_SCENARIO
        try:
            return read_payload(row.payload, row.schema), ""
        except UnreadableError as error:
            return None, error.reason

    # --- assignments -----------------------------------------------------------------------------

    def _assigned(
        self,
        row: SnapshotRow,
        seen: Seen | None,
        reason: str,
        decision: AssignRow,
        prior: list[tuple[int, int]],
        facts: Facts,
    ) -> Experience | None:
        """The experience of an assignment; adds it to ``prior`` where the state knows it."""
        tally = self._tally
        if seen is None:
            tally.left_out[reason] += 1
            return None
        d = seen.driver_row.get(decision.driver_id)
        b = seen.booking_row.get(decision.booking_id)
        if d is None or b is None or any(b == taken for _, taken in prior):
            tally.left_out[NOT_IN_STATE] += 1
            return None
        before = tuple(prior)
        prior.append((d, b))
        came = self._settling.came(
            facts.bookings.get(decision.booking_id),
            facts.assignments.get(decision.booking_id, ()),
            decision.driver_id,
            decision.decided_at,
            decision.overridden_by is None
            and facts.last.get(decision.booking_id, decision.id) == decision.id,
        )
        if came.left_out:
            tally.left_out[came.left_out] += 1
            return None
        if came.ending is None:
            tally.provisional += 1
            tally.wait_for(row.epoch_at)
            return None
        tally.assigned += 1
        features = decision.features or {}
        return self.experience(
            decision.id, row.day, decision.decided_at, row.epoch_at, seen, before, (d, b), came,
            _number(features, "deadhead_km"), _number(features, "pickup_min"),
            _number(features, "late_min"), _number(features, "depart_min"),
            _number(features, "drive_min"),
            propensity=decision.propensity, k=decision.k, arm=decision.arm, unit=decision.unit,
            model=decision.model or "", source=decision.source,
            overridden=decision.overridden_by is not None,
        )  # fmt: skip

    def experience(
        self,
        id_: str,
        day: date,
        at: datetime,
        epoch_at: datetime,
        seen: Seen,
        prior: tuple[tuple[int, int], ...],
        action: tuple[int, int],
        came: Came,
        deadhead_km: float | None,
        planned_pickup_min: float | None,
        planned_late_min: float | None,
        depart_min: float | None,
        drive_min: float | None,
        **logged: Any,
    ) -> Experience:
        """One assignment's experience, from what it came to and how it was planned.

        Args:
            id_: Of the experience.
            day: Operating day.
            at: When it was decided.
            epoch_at: The moment of the state.
            seen: The state.
            prior: Committed before in this epoch.
            action: Rows of driver and booking.
            came: What it came to.
            deadhead_km: As planned; None: by coordinates.
            planned_pickup_min: Of the operating day.
            planned_late_min: After the booking's own window.
            depart_min: As planned.
            drive_min: As planned.
            logged: The remaining fields of `Experience`.
        """
        worth, now_min = self._worth, seen.rows.now_min
        booking = seen.rows.bookings[action[1]]
        priority, fare = seen.priority(action[1]), float(booking["fare"])
        place = (float(booking["pickup_lat"]), float(booking["pickup_lon"]))
        goal = (float(booking["dropoff_lat"]), float(booking["dropoff_lon"]))
        if deadhead_km is None:
            deadhead_km = worth.km(_end_of_work(seen, prior, action[0]), place)
        trip_km = worth.km(place, goal)
        terms, pickup_min = RewardTerms(), None
        if came.ending is Ending.COMPLETED:
            assert came.pickup_at is not None
            pickup_min = now_min + (came.pickup_at - epoch_at).total_seconds() / 60.0
            late = max(0.0, pickup_min - seen.window_end_min(action[1]))
            terms = worth.completed(priority, fare, late, deadhead_km, trip_km)
        elif came.ending is Ending.NO_SHOW:
            terms = worth.in_vain(deadhead_km)
        elif came.ending is Ending.UNSERVED:
            terms = worth.unserved(priority)
        elif came.ending is Ending.CALLED_OFF and came.called_off_at is not None:
            called = now_min + (came.called_off_at - epoch_at).total_seconds() / 60.0
            terms = worth.in_vain(deadhead_km * _driven(called, depart_min, drive_min))
        planned = None
        if planned_pickup_min is not None and planned_late_min is not None:
            planned = worth.completed(priority, fare, planned_late_min, deadhead_km, trip_km).total
        assert came.ending is not None
        return Experience(
            id=id_,
            company_id=self._company_id,
            day=day,
            at=at,
            scenario_hash=self._hash,
            state=seen.rows,
            prior=prior,
            action=action,
            dt=0.0,
            next_state=None,
            done=False,
            terms=terms,
            loss=worth.loss(priority),
            pickup_in_min=None if pickup_min is None else pickup_min - now_min,
            planned_pickup_in_min=(
                None if planned_pickup_min is None else planned_pickup_min - now_min
            ),
            planned_reward=planned,
            ending=came.ending,
            **logged,
        )

    # --- waiting ---------------------------------------------------------------------------------

    def _close(self, following: SnapshotRow | None, then: Seen | None) -> Iterator[Item]:
        """The end of the open epoch, with its deferrals."""
        opened, tally = self._open, self._tally
        if opened is None:
            return
        row, deferrals = opened.row, opened.facts.deferrals.get(opened.row.id, 0)
        id_ = f"{WAIT_PREFIX}{row.id}"
        same_day = following is not None and following.day == row.day
        reason = opened.reason
        if not reason and same_day and then is None:
            reason = NEXT_UNREADABLE
        if reason:
            tally.left_out[reason] += deferrals
            tally.waits_left_out[reason] += 1
            yield id_, None
            return
        assert opened.seen is not None
        lost = None
        if following is not None or row.day < self._today:
            lost = self._losses(opened, following if same_day else None)
        if lost is None:
            tally.provisional += deferrals
            tally.waits_provisional += 1
            tally.wait_for(row.epoch_at)
            yield id_, None
            return
        tally.folded += deferrals
        tally.waits += 1
        dt = 1.0
        if same_day:
            assert following is not None
            dt = (following.epoch_at - row.epoch_at).total_seconds() / 60.0 / self._rules.epoch_min
        loss = sum(map(self._worth.loss, lost))
        human = row.id in opened.facts.human
        yield (
            id_,
            Experience(
                id=id_,
                company_id=self._company_id,
                day=row.day,
                at=row.epoch_at,
                scenario_hash=self._hash,
                state=opened.seen.rows,
                prior=opened.prior,
                action=None,
                dt=dt,
                next_state=then.rows if same_day and then is not None else None,
                done=not same_day,
                terms=RewardTerms(cancellation=-loss),
                loss=loss,
                pickup_in_min=None,
                planned_pickup_in_min=None,
                planned_reward=None,
                ending=Ending.WAITED,
                propensity=None,
                k=1,
                arm="",
                unit="",
                model="",
                source="human" if human else "policy",
            ),
        )

    def _losses(self, opened: _Open, following: SnapshotRow | None) -> list[int] | None:
        """Priorities of the bookings that were given up in an epoch; None: not known yet."""
        found: list[int] = []
        facts, row, seen = opened.facts, opened.row, opened.seen
        assert seen is not None
        candidates: list[BookingRow] = [
            facts.bookings[i] for i in facts.put_off.get(row.id, ()) if i in facts.bookings
        ]
        candidates = [b for b in candidates if self._settling.given_up_at(b) <= row.epoch_at + _FAR]
        candidates += [b for b in facts.never if self._runs_out(b, row, following)]
        for booking in candidates:
            lost = self._settling.lost(booking)
            if lost is None:
                return None
            if lost:
                b = seen.booking_row.get(booking.id)
                found.append(booking.priority if b is None else seen.priority(b))
        return found

    def _runs_out(
        self, booking: BookingRow, row: SnapshotRow, following: SnapshotRow | None
    ) -> bool:
        """Whether the grace of a booking nobody ever decided about ran out in an epoch."""
        moment = self._settling.given_up_at(booking)
        if moment < row.epoch_at or (following is not None and moment >= following.epoch_at):
            return False
        return operating_day(moment, self._rules, self._zone).date == row.day


def _number(features: Mapping[str, Any], name: str) -> float | None:
    value = features.get(name)
    usable = isinstance(value, int | float) and abs(value) < 1e9
    return float(value) if usable else None  # type: ignore[arg-type]


def _driven(called_min: float, depart_min: float | None, drive_min: float | None) -> float:
    """Share of the empty way that was driven when the patient called."""
    if depart_min is None or drive_min is None:
        return 0.0
    if called_min >= depart_min + drive_min:
        return 1.0
    return max(0.0, (called_min - depart_min) / drive_min)


def _end_of_work(seen: Seen, prior: Sequence[tuple[int, int]], driver: int) -> tuple[float, float]:
    """Where a driver is free, with what was committed earlier in the epoch."""
    for d, b in reversed(prior):
        if d == driver:
            row = seen.rows.bookings[b]
            return float(row["dropoff_lat"]), float(row["dropoff_lon"])
    row = seen.rows.drivers[driver]
    return float(row["lat"]), float(row["lon"])
