"""One look at one entry of the schedule: a message for every company whose job is due."""

import logging
from typing import Final

from celery import current_app, shared_task

from services.learning.running import due

from .performing import at_work, named

logger = logging.getLogger("atmr.tasks")

LOOKS: Final = 4
"""A message counts for so many looks."""


@shared_task(name="tasks.fan_out.send_due")
def send_due(name: str) -> int:
    """Send what is due of an entry; how many messages.

    A message that nobody has begun after a few looks is void; each look sends again what is still
    due. So a queue holds a few messages of a job that count, however long the workers were away,
    and workers that fall behind a single look still get to work.
    """
    with at_work() as (place, schedule, _):
        entry = named(schedule, name)
        jobs = due(place, entry)
    for job in jobs:
        current_app.send_task(
            entry.task,
            kwargs={"company_id": job.company_id, "period": job.period.key},
            expires=LOOKS * entry.look_s,
        )
    if jobs:
        logger.info("sent", extra={"task": name, "jobs": len(jobs)})
    return len(jobs)
