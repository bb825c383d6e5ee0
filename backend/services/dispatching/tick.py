"""The tick: every epoch, all companies' open bookings are decided; and what is overdue is told.

A function here; a beat task calls it (and an operator's command, without a broker).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from extensions import Database
from models import Driver
from services.rl.errors import AtmrError

from .dispatcher import Dispatcher
from .fates import Epoch
from .unreported import release_unreported

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tick:
    """What a tick did.

    Attributes:
        epochs: Per company that has bookings or drivers.
        failed: Why a company could not be dispatched, by company; the others were.
        released: Bookings whose outcome nobody ever told, taken off their drivers.
    """

    epochs: tuple[Epoch, ...]
    failed: dict[int, str]
    released: tuple[int, ...] = ()

    @property
    def assigned(self) -> int:
        """Bookings that got a driver."""
        return sum(f.driver_id is not None for epoch in self.epochs for f in epoch.fates)

    @property
    def overdue(self) -> int:
        """Patients whom nobody can reach within the grace."""
        return sum(f.overdue for epoch in self.epochs for f in epoch.fates)


def companies(database: Database) -> list[int]:
    """Companies with an active driver."""
    with database.reading() as session:
        return list(
            session.scalars(
                select(Driver.company_id)
                .where(Driver.is_active)
                .distinct()
                .order_by(Driver.company_id)
            )
        )


def dispatch_open_bookings(
    dispatcher: Dispatcher,
    company_ids: list[int],
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Tick:
    """Decide everything that is open; one company's failure does not stop the others.

    Args:
        dispatcher: Of this process.
        company_ids: Whose bookings.
        on_epoch: Called after each company (metrics).
    """
    epochs: list[Epoch] = []
    failed: dict[int, str] = {}
    released: list[int] = []
    for company_id in company_ids:
        try:
            released += release_unreported(dispatcher.database, company_id, dispatcher.now())
            epoch = dispatcher.dispatch(company_id)
        except (AtmrError, SQLAlchemyError) as error:
            logger.error("company %d was not dispatched: %s", company_id, error)
            failed[company_id] = str(error)
            continue
        epochs.append(epoch)
        for fate in epoch.fates:
            if fate.overdue:
                logger.warning("booking %d of company %d is overdue", fate.booking_id, company_id)
        if on_epoch is not None:
            on_epoch(epoch)
    return Tick(tuple(epochs), failed, tuple(released))
