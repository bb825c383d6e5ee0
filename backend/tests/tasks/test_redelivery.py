"""A broker that delivers a message again while its task is still at work."""

import pytest
from celery import Celery
from sqlalchemy import select

from clock import SystemClock
from extensions import Database
from models.learning import TaskRun
from scripts.rl.busy_companies import fill
from services.rl.simulation.scenarios import load_scenario

from ..redis_server import RedisServer, find_redis
from .workers import wait_until, worker


@pytest.mark.slow
def test_a_message_redelivered_while_its_task_is_at_work_does_nothing_twice(tmp_path):
    """The visibility timeout is set far below the task's length, as it must never be."""
    program = find_redis()
    if program is None:
        pytest.skip("MISSING ROOT PACKAGE: no Redis on this machine")
    url = f"sqlite:///{tmp_path / 'runs.sqlite'}"
    database = Database(url)
    now, geneva = SystemClock().now(), load_scenario("geneva")
    fill(database, geneva, now, companies=1, bookings=1, unit="company")

    def run():
        with database.reading() as session:
            return session.scalars(select(TaskRun).where(TaskRun.task == "long")).first()

    with RedisServer(program) as redis:
        settings = {
            "ATMR_HOME": str(tmp_path), "ATMR_DATABASE_URL": url, "ATMR_REDIS_URL": redis.url
        }  # fmt: skip
        app = "tests.tasks.impatient_app:app"
        with (
            worker(tmp_path / "one", settings, processes=1, app=app) as one,
            worker(tmp_path / "two", settings, processes=1, app=app) as two,
        ):
            broker = f"redis+socket://{redis.url.removeprefix('unix://')}"
            with Celery(broker=broker, set_as_current=False) as sender:
                sender.send_task("tests.long", queue="default")
            wait_until(
                lambda: run() is not None and run().state == "done",
                280,
                what=lambda: one.said() + two.said(),
            )
    assert run().attempts == 1
    assert (tmp_path / "done").read_text() == "done\n"
    assert len((tmp_path / "delivered").read_text().splitlines()) > 1
    database.dispose()
