"""The dispatcher as a part of the app: made at first use, after a server has forked."""

import threading
from typing import Final

from extensions import Services, services
from services.rl.errors import AtmrError, DataError

from .desk import Desk
from .dispatcher import Dispatcher

PART: Final = "dispatcher"


class DispatcherPart:
    """Makes the process's dispatcher once.

    Args:
        at_work: The app's services.
    """

    def __init__(self, at_work: Services) -> None:
        self._at_work = at_work
        self._lock = threading.Lock()
        self._made: Dispatcher | None = None

    def get(self) -> Dispatcher:
        """The dispatcher of this process; the first call compiles and loads."""
        if self._made is None:
            with self._lock:
                if self._made is None:
                    at_work = self._at_work
                    desk = Desk(
                        at_work.scenario,
                        at_work.database,
                        at_work.clock,
                        at_work.registry,
                        budget_ms=at_work.config.budget_ms,
                        device=at_work.config.device,
                    )
                    desk.warm_up()
                    self._made = Dispatcher(
                        desk, at_work.database, at_work.clock, at_work.config.zone
                    )
        return self._made

    def check(self) -> None:
        """For ``/readyz``: whether decisions can be made.

        Raises:
            DataError: If not yet.
        """
        try:
            self.get()
        except AtmrError as error:
            raise DataError(f"the engine is not ready: {error}") from error

    def degraded(self) -> str | None:
        """For ``/readyz``: which models the heuristic stands in for, in this process.

        Not why: that names folders of this machine, and anybody may ask. The log has it.
        """
        if self._made is None:
            return None
        versions = self._made.desk.stood_in_for()
        return "; ".join(f"{each}: not loaded, the log says why" for each in versions) or None


def hang_in(at_work: Services) -> None:
    """Add the dispatcher to an app; one of `create_app`'s ``set_up``."""
    part = DispatcherPart(at_work)
    at_work.parts[PART] = part
    at_work.readiness["engine"] = part.check
    at_work.degraded["models"] = part.degraded


def dispatcher() -> Dispatcher:
    """The dispatcher of the app at work.

    Raises:
        DataError: If this app has none.
    """
    part = services().parts.get(PART)
    if not isinstance(part, DispatcherPart):
        raise DataError("this server does not dispatch")
    return part.get()
