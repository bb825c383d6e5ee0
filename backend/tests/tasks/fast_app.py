"""The Celery app of the tests: real ticks, short periods, and bodies that leave a trace.

Workers import it in their own processes; the trace is a file under ``ATMR_HOME``.
"""

import os
import signal
import time
from dataclasses import replace
from datetime import time as clock_time

from celery_app import make_celery
from services.learning.bodies import BODIES
from services.learning.periods import Daily, Entry, Every
from tasks.schedule import SCHEDULE, entry_named

FAST = {"look_s": 2.0, "lease_s": 3.0}


def trace(place, *words):
    path = place.loop.home / "trace"
    with path.open("a") as file:
        file.write(" ".join(str(word) for word in words) + "\n")  # one write: whole lines


def leave_a_trace(place, job):
    trace(place, job.entry.name, job.key, os.getpid())
    return {"by": os.getpid()}


def import_torch(place, job):
    import torch

    trace(place, job.entry.name, job.key, os.getpid())
    return {"threads": torch.get_num_threads()}


def kill_the_worker(place, job):
    trace(place, job.entry.name, job.key, os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)


def hang_the_first_time(place, job):
    """Until its worker is killed; the second time it is done."""
    first = place.loop.home / "hanging"
    trace(place, job.entry.name, job.key, os.getpid())
    if first.exists():
        return {"by": os.getpid()}
    first.write_text(f"{os.getpid()} {os.getppid()}")
    time.sleep(300)
    raise AssertionError("nobody killed this worker")


# Longer than a look takes under load; all are due at once when the workers start.
NIGHT = Daily(clock_time(0, 0))

FAST_SCHEDULE = (
    replace(entry_named("tick"), **FAST),
    replace(entry_named("guardrails"), **FAST),
    replace(entry_named("collection"), **FAST),
    replace(entry_named("retraining"), **FAST, catch_up_min=None),
    Entry("often", "tasks.fast.often", Every(0.05), **FAST),
    Entry("deadly", "tasks.fast.deadly", NIGHT, per_company=False, most_attempts=2, **FAST),
    Entry("hanging", "tasks.fast.hanging", NIGHT, per_company=False, **FAST),
)

FAST_BODIES = {
    **BODIES,
    "collection": leave_a_trace,
    "retraining": import_torch,
    "often": leave_a_trace,
    "deadly": kill_the_worker,
    "hanging": hang_the_first_time,
}


def fast_celery(config=None):
    made = make_celery(config, schedule=FAST_SCHEDULE, bodies=FAST_BODIES)

    def task_for(name):
        from tasks.performing import perform

        def task(company_id=None, period=None):
            return perform(name, company_id, period)

        return task

    known = {entry.task for entry in SCHEDULE}
    for entry in FAST_SCHEDULE:
        if entry.task not in known:
            made.task(task_for(entry.name), name=entry.task)
    return made


def __getattr__(name):
    if name != "app":
        raise AttributeError(name)
    globals()["app"] = fast_celery()
    return globals()["app"]
