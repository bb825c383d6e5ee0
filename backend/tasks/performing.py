"""How a task finds this process's parts and does its job, in a worker or called by a person."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import current_app, has_app_context

from extensions import EXTENSION
from services.learning.bodies import BODIES
from services.learning.loop import open_loop
from services.learning.part import PART, LearningPart
from services.learning.periods import Entry, Job
from services.learning.running import Body, Outcome, carry_out
from services.learning.workplace import Workplace
from services.rl.errors import UsageError

from .schedule import SCHEDULE


@contextmanager
def at_work() -> Iterator[tuple[Workplace, tuple[Entry, ...], Any]]:
    """This process's workplace, schedule and bodies; without an app, of the environment."""
    if has_app_context():
        held = current_app.extensions.get(EXTENSION)
        part = None if held is None else held.parts.get(PART)
        if isinstance(part, LearningPart) and part.schedule:
            yield part.workplace(), part.schedule, part.bodies
            return
    with open_loop() as loop:
        yield Workplace(loop), SCHEDULE, BODIES


def perform(name: str, company_id: int | None = None, period: str | None = None) -> dict[str, Any]:
    """Do an entry's job, unless it is done or at work elsewhere.

    Args:
        name: Of the entry.
        company_id: Whose; None: all companies', one after the other.
        period: Its key; None: the present one.

    Returns:
        State and result of the run; where there are several, by its key.
    """
    with at_work() as (place, schedule, bodies):
        entry = named(schedule, name)
        when = (
            place.calendar.period(entry.cadence, place.loop.clock.now())
            if period is None
            else place.calendar.of_key(entry.cadence, period)
        )
        body: Body = bodies[name]
        if company_id is not None or not entry.per_company:
            return told(carry_out(place, Job(entry, when, company_id), body))
        return {
            job.key: told(carry_out(place, job, body))
            for job in (Job(entry, when, company) for company in place.companies())
        }


def told(outcome: Outcome) -> dict[str, Any]:
    """An outcome in plain values."""
    found: dict[str, Any] = {"state": outcome.state, "result": outcome.result}
    return {**found, "error": outcome.error} if outcome.error else found


def named(schedule: tuple[Entry, ...], name: str) -> Entry:
    """The entry of a name.

    Raises:
        UsageError: If there is none.
    """
    for entry in schedule:
        if entry.name == name:
            return entry
    raise UsageError(f"the schedule has no task {name!r}")
