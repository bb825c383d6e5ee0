"""When everything is done, by whichever process: a plain list, with a broker or without one."""

from datetime import time
from typing import Final

from services.learning.periods import TRAIN, Daily, Entry, Every

SCHEDULE: Final[tuple[Entry, ...]] = (
    # Every decision epoch: what is open is decided.
    Entry(
        name="tick", task="tasks.dispatch_tick.tick", cadence=Every(None), look_s=15.0,
        skip_late=True, alone=True, limit_min=5.0,
    ),
    # As often: what became of both arms is weighed, over all companies together.
    Entry(
        name="guardrails", task="tasks.dispatch_tick.watch_guardrails", cadence=Every(None),
        per_company=False, look_s=30.0, skip_late=True, alone=True, limit_min=5.0,
    ),
    # Every hour: decisions and their outcomes become experiences.
    Entry(
        name="collection", task="tasks.rl_feedback_task.collect_production_experiences",
        cadence=Every(60.0), alone=True, limit_min=30.0,
        most_attempts=10,  # a minute apart: a Redis that is restarted is no dead letter
    ),
    # What a person would do with candidates and stopped arms, for companies that ask for it.
    Entry(
        name="rollout", task="tasks.rl_feedback_task.roll_out_models", cadence=Every(60.0),
        alone=True,
    ),
    # In the night: yesterday in numbers, before anything of it may go.
    Entry(
        name="report", task="tasks.housekeeping.daily_report", cadence=Daily(time(1, 15)),
        per_company=False,
    ),
    # Models learn from what happened; a candidate, never the champion. Two kinds of model.
    Entry(
        name="retraining", task="tasks.rl_feedback_task.retrain_agent_daily",
        cadence=Daily(time(2, 0)), queue=TRAIN, catch_up_min=8 * 60.0, most_attempts=2,
        limit_min=60.0, trainings=2,
    ),
    # What is older than the settings keep goes.
    Entry(
        name="purge", task="tasks.housekeeping.purge", cadence=Daily(time(3, 45)),
        per_company=False, limit_min=60.0,
    ),
)  # fmt: skip
"""Times of day are on the company's clock (ATMR_TIMEZONE)."""


def entry_named(name: str, schedule: tuple[Entry, ...] = SCHEDULE) -> Entry:
    """The entry of a name.

    Raises:
        UsageError: If there is none.
    """
    from services.rl.errors import UsageError

    for entry in schedule:
        if entry.name == name:
            return entry
    known = ", ".join(entry.name for entry in schedule)
    raise UsageError(f"the schedule has no task {name!r}; it has {known}")
