"""What one process does tasks with: the loop, a dispatcher, and who watches the guardrails.

Made after a server or a pool has forked; what is heavy is made at first use.
"""

import threading
from collections.abc import Callable

from clock import Clock, SystemClock
from services.dispatching.desk import Desk
from services.dispatching.dispatcher import Dispatcher
from services.dispatching.tick import companies
from services.dispatching.watch import Watches

from .loop import Loop
from .periods import Calendar


class Workplace:
    """One process's.

    Args:
        loop: Settings, database, clock, models, scenario, experiences.
        dispatcher: Gives this process's; default: one of its own.
        machine: The machine's clock, of signs of life.

    Attributes:
        loop: As given.
        machine: As given.
        calendar: Turns instants into periods.
    """

    def __init__(
        self,
        loop: Loop,
        *,
        dispatcher: Callable[[], Dispatcher] | None = None,
        machine: Clock | None = None,
    ) -> None:
        self.loop = loop
        self.machine = machine or SystemClock()
        self.calendar = Calendar(loop.config.zone, float(loop.scenario.rules.epoch_min))
        self._give = dispatcher or self._make
        self._dispatcher: Dispatcher | None = None
        self._watches: Watches | None = None
        self._lock = threading.Lock()

    def companies(self) -> list[int]:
        """Companies with an active driver."""
        return companies(self.loop.database)

    def dispatcher(self) -> Dispatcher:
        """This process's dispatcher; the first call compiles and loads."""
        with self._lock:
            if self._dispatcher is None:
                self._dispatcher = self._give()
        return self._dispatcher

    def watches(self) -> Watches:
        """Who watches the guardrails in this process; the evidence is rebuilt from the log."""
        with self._lock:
            if self._watches is None:
                self._watches = Watches(self.loop.database, self.loop.scenario.rules)
            return self._watches

    def _make(self) -> Dispatcher:
        loop = self.loop
        desk = Desk(
            loop.scenario,
            loop.database,
            loop.clock,
            loop.registry,
            budget_ms=loop.config.budget_ms,
            device=loop.config.device,
        )
        desk.warm_up()
        return Dispatcher(desk, loop.database, loop.clock, loop.config.zone)
