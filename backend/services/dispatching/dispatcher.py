"""Decide for a company: read its fleet, ask the experiment's arms, commit what they decide.

A decision is made outside the transaction that commits it, on a state that was read before; if
what it rests on has changed meanwhile, it is made again (`ledger`).
"""

import logging
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from clock import Clock
from extensions import Database

from .desk import Desk
from .experiments import LookedUpUnits
from .fates import BusyError, ConflictError, DispatchError, Epoch, Limit, NotOpenError
from .fleet import Fleet, read_fleet
from .ledger import Ledger
from .operating_day import operating_day
from .pins import set_pins_aside

logger = logging.getLogger(__name__)

_ATTEMPTS: Final = 4


class Dispatcher:
    """Dispatches for all companies of this process.

    Args:
        desk: Who decides.
        database: Rows.
        clock: The present moment.
        zone: Of drivers' shifts and operating days.

    Attributes:
        desk: As given.
        database: As given.
        zone: As given.
        ledger: Commits and logs.
    """

    def __init__(self, desk: Desk, database: Database, clock: Clock, zone: ZoneInfo) -> None:
        self.desk = desk
        self.ledger = Ledger(desk.scenario, desk.tables)
        self.database = database
        self._clock = clock
        self.zone = zone

    def fleet(self, session: Session, company_id: int) -> Fleet | None:
        """The company's fleet now."""
        now = self._clock.now()
        scenario = self.desk.scenario
        day = operating_day(now, scenario.rules, self.zone)
        return read_fleet(session, company_id, now, day, scenario, self.desk.tables, self.zone)

    def now(self) -> datetime:
        """The present moment."""
        return self._clock.now()

    def looked_up_units(self, company_id: int) -> LookedUpUnits:
        """The company's experiment's units, for a question that keeps none."""
        return LookedUpUnits(self.database, company_id)

    def look(self, company_id: int) -> tuple[Fleet, list[Limit]]:
        """The fleet, and per booking until when it must be decided and whether a vehicle fits.

        Raises:
            DispatchError: If there is no active driver.
        """
        with self.database.reading() as session:
            fleet = self.fleet(session, company_id)
        if fleet is None:
            raise DispatchError("this company has no active driver")
        return fleet, self.ledger.limits(fleet)

    def dispatch(
        self,
        company_id: int,
        only: Collection[int] | None = None,
        *,
        before: Callable[[Session], None] | None = None,
        after: Callable[[Session, Epoch], None] | None = None,
    ) -> Epoch:
        """Decide all open bookings of a company, or some; commit and log.

        Args:
            company_id: Whose.
            only: Ids of open bookings; None: all of them.
            before: Called first in the transaction that commits; what it raises ends it.
            after: Called last in it.

        Raises:
            NotOpenError: If a booking asked for is not open.
            BusyError: If the fleet changed again and again meanwhile.
            DispatchError: If there is no active driver.
        """
        for attempt in range(_ATTEMPTS):
            with self.database.reading() as session:
                fleet = self.fleet(session, company_id)
            if fleet is None:
                raise DispatchError("this company has no active driver")
            at = fleet.day.instant(fleet.state.now_min)
            everything = self._wanted(fleet, only)
            fleet, pins = set_pins_aside(fleet, self.desk.scenario, self.desk.tables)
            pinned = tuple(pin for pin in pins if pin.booking.id in everything)
            left = {pin.booking.id for pin in pins}
            wanted = [booking for booking in everything if booking not in left]
            if not everything:
                epoch = Epoch(company_id, at, (), None)
                if before is not None or after is not None:
                    with self.database.writing() as session:
                        if before is not None:
                            before(session)
                        if after is not None:
                            after(session, epoch)
                return epoch
            decided = self.desk.dispatcher(company_id).decide(
                fleet.state,
                plan=self.desk.plan(company_id),
                company_id=company_id,
                at=at,
                only=None if only is None else [str(b) for b in wanted],
            )
            try:
                with self.database.writing() as session:
                    if before is not None:
                        before(session)
                    epoch = self.ledger.commit(session, company_id, fleet, decided, pinned, at)
                    if after is not None:
                        after(session, epoch)
            except (ConflictError, IntegrityError):
                logger.info("company %d changed while deciding; attempt %d", company_id, attempt)
                continue
            if only is None:
                self.desk.keep_plan(company_id, decided.plan)
            return epoch
        raise BusyError("the fleet changes faster than it can be decided; try again")

    def _wanted(self, fleet: Fleet, only: Collection[int] | None) -> list[int]:
        known = [booking.id for booking in fleet.bookings]
        if only is None:
            return known
        missing = sorted(set(only) - set(known))
        forgotten = sorted(set(missing) & set(fleet.forgotten))
        if forgotten:
            raise DispatchError(
                f"booking {forgotten[0]} was promised more than a day ago: a person must close it, "
                "or give it a new time"
            )
        if missing:
            raise NotOpenError(f"booking {missing[0]} is not open")
        return sorted(set(only))
