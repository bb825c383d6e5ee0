"""An app whose broker gives up on a message long before its task is done."""

from datetime import time as clock_time

from celery_app import make_celery
from services.learning.periods import Daily, Entry
from tests.tasks.workers import wait_until

LONG = Entry("long", "tests.long", Daily(clock_time(0, 0)), per_company=False, look_s=3600.0)


def long(place, job):
    """Goes on until its message was delivered again."""
    delivered = place.loop.home / "delivered"
    wait_until(lambda: len(delivered.read_text().splitlines()) > 1, 240)
    with (place.loop.home / "done").open("a") as file:
        file.write("done\n")
    return {}


def impatient_celery():
    made = make_celery(schedule=(LONG,), bodies={"long": long})
    made.conf.broker_transport_options["visibility_timeout"] = 2

    def deliver(company_id=None, period=None):
        from services.rl import paths
        from tasks.performing import perform

        with (paths.home() / "delivered").open("a") as file:
            file.write("delivered\n")
        return perform("long", company_id, period)

    made.task(deliver, name="tests.long")
    return made


def __getattr__(name):
    if name != "app":
        raise AttributeError(name)
    globals()["app"] = impatient_celery()
    return globals()["app"]
