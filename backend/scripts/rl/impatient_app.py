"""Celery's app with short leases: what a killed worker held is taken over in seconds.

For `chaos.py`: with the schedule's own leases each kill of a worker would cost a minute and a half.
"""

from dataclasses import replace
from typing import Any, Final

from celery_app import make_celery
from tasks.schedule import SCHEDULE

LEASE_S: Final = 6.0
IMPATIENT: Final = tuple(replace(entry, lease_s=LEASE_S) for entry in SCHEDULE)


def __getattr__(name: str) -> Any:
    """``app``: made at first use, so that importing this module needs no settings."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = make_celery(schedule=IMPATIENT)
    globals()["app"] = made
    return made
