"""One look at one entry of the schedule: a message for every company whose job is due."""

import logging

from celery import current_app, shared_task

from services.learning.running import due

from .performing import at_work, named

logger = logging.getLogger("atmr.tasks")


@shared_task(name="tasks.fan_out.send_due")
def send_due(name: str) -> int:
    """Send what is due of an entry; how many messages.

    A message that nobody has begun when the next look comes is void: that look sends it again. So
    a queue never holds more than one of a job that counts, however long the workers were away.
    """
    with at_work() as (place, schedule, _):
        entry = named(schedule, name)
        jobs = due(place, entry)
    for job in jobs:
        current_app.send_task(
            entry.task,
            kwargs={"company_id": job.company_id, "period": job.period.key},
            expires=entry.look_s,
        )
    if jobs:
        logger.info("sent", extra={"task": name, "jobs": len(jobs)})
    return len(jobs)
