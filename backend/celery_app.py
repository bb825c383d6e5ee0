"""Celery inside the app: workers of two queues, and the beat that looks what is due.

    celery -A celery_app:app worker --queues default
    celery -A celery_app:app worker --queues train --concurrency 1
    celery -A celery_app:app beat

The beat asks, for each entry of `tasks.schedule`, what is due; a worker answers by sending one
message per company. Runs in the database (`services.learning.task_runs`) make it harmless that two
beats ask, that messages come twice, and that a broker forgets them: what was not done is still due
at the next look. So Celery itself repeats nothing, keeps no results, and a message that nobody has
begun in time is void.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from celery import Celery, Task
from celery.beat import Scheduler
from celery.signals import heartbeat_sent, worker_init
from flask import Flask

from app import create_app
from config import Config
from services.dispatching.part import hang_in as hang_in_dispatcher
from services.learning.bodies import BODIES
from services.learning.part import hang_in
from services.learning.periods import DEFAULT, Entry
from services.learning.running import Body
from services.learning.training_process import ONE_THREAD
from services.rl.errors import UsageError
from tasks.schedule import SCHEDULE

MARGIN_S: Final = 600.0
"""Between the longest task's end and the broker's giving up on it."""

_GRACE_S: Final = 60.0
"""For a task to end itself, before its process is killed."""

TASK_MODULES: Final = (
    "tasks.fan_out",
    "tasks.dispatch_tick",
    "tasks.rl_feedback_task",
    "tasks.housekeeping",
)

FIRST, LATER = 0, 5
"""Priorities on Redis: ticks before everything else that waits."""


class AppTask(Task):  # type: ignore[misc]
    """A task that runs inside the Flask app."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do it in the app's context."""
        with flask_app(self.app).app_context():
            return self.run(*args, **kwargs)


class WatchedScheduler(Scheduler):  # type: ignore[misc]
    """The beat's clockwork, in memory (periods are in the database), with a sign of life."""

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """See Celery's."""
        alive_file("beat").touch()
        waits: float = super().tick(*args, **kwargs)
        return waits


def make_celery(
    config: Config | None = None,
    *,
    schedule: Sequence[Entry] = SCHEDULE,
    bodies: Mapping[str, Body] = BODIES,
) -> Celery:
    """The Celery app, inside a Flask app of its own.

    Nothing connects here: each process of a pool makes its database, dispatcher and store when it
    first needs them, after the fork.

    Args:
        config: Settings; default: of the environment.
        schedule: What is done when.
        bodies: What each entry does.

    Raises:
        UsageError: If no broker is named.
    """
    config = config or Config.from_environment()
    flask = create_app(
        config,
        set_up=(
            hang_in_dispatcher,
            lambda at_work: hang_in(at_work, schedule=schedule, bodies=bodies),
        ),
    )
    made = Celery("atmr", task_cls=AppTask, include=TASK_MODULES, set_as_current=True)
    made.conf.update(settings(config, schedule))
    made.flask_app = flask
    flask.extensions["celery"] = made
    return made


def flask_app(celery: Celery) -> Flask:
    """The app that a Celery app was made inside."""
    found: Flask = celery.flask_app
    return found


def settings(config: Config, schedule: Sequence[Entry] = SCHEDULE) -> dict[str, Any]:
    """Celery's configuration.

    Raises:
        UsageError: If no broker is named.
    """
    longest_s = max(hard_limit_s(entry, config) for entry in schedule)
    return {
        "broker_url": broker_of(config),
        "broker_connection_retry_on_startup": True,
        "broker_transport_options": {
            # Redis delivers a message anew that is not acknowledged so long: above every limit.
            "visibility_timeout": longest_s + MARGIN_S,
            "socket_keepalive": True,
            "priority_steps": [FIRST, LATER],
            "queue_order_strategy": "priority",
        },
        "task_default_queue": DEFAULT,
        "task_default_priority": LATER,
        "task_routes": {
            entry.task: {"queue": entry.queue, "priority": FIRST if entry.skip_late else LATER}
            for entry in schedule
        }
        | {"tasks.fan_out.send_due": {"queue": DEFAULT, "priority": FIRST}},
        "task_annotations": {
            entry.task: {
                "soft_time_limit": entry.limit_s(config.train_minutes),
                "time_limit": hard_limit_s(entry, config),
            }
            for entry in schedule
        }
        | {"tasks.fan_out.send_due": {"soft_time_limit": 60, "time_limit": 90}},
        # Acknowledged when done: what a killed worker held comes again, and `task_runs` counts.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        "worker_cancel_long_running_tasks_on_connection_loss": False,  # they end and are written
        "task_track_started": True,
        "task_ignore_result": True,
        "result_backend": None,
        # Pickle would let whoever can write to the broker run code here.
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "event_serializer": "json",
        "timezone": "UTC",
        "enable_utc": True,
        "beat_schedule": {
            entry.name: {
                "task": "tasks.fan_out.send_due",
                "schedule": entry.look_s,
                "args": (entry.name,),
                # A look that waited until the next one is void: no broker piles them up.
                "options": {"queue": DEFAULT, "priority": FIRST, "expires": entry.look_s},
            }
            for entry in schedule
        },
        "beat_scheduler": WatchedScheduler,
        "beat_max_loop_interval": 5.0,
        "worker_hijack_root_logger": True,
        "worker_redirect_stdouts": False,
    }


def hard_limit_s(entry: Entry, config: Config) -> float:
    """After so many seconds a task's process is killed; a little after it was told to end."""
    return entry.limit_s(config.train_minutes) + _GRACE_S


def broker_of(config: Config) -> str:
    """The broker's URL, as Celery takes it.

    Raises:
        UsageError: If none is named.
    """
    url = config.broker_url or config.redis_url
    if url is None:
        raise UsageError(
            "workers need a broker: set ATMR_REDIS_URL (or ATMR_BROKER_URL); "
            "without one, `make loop` does the same in one process"
        )
    told = url.get_secret_value()
    return f"redis+socket://{told.removeprefix('unix://')}" if told.startswith("unix://") else told


def alive_file(role: str) -> Path:
    """Touched by a process that is still at work: for health checks."""
    return Path(tempfile.gettempdir()) / f"atmr-{role}.alive"


@heartbeat_sent.connect  # type: ignore[untyped-decorator]
def _worker_is_alive(**_: Any) -> None:
    """The worker's main process, every two seconds, while it has its broker."""
    alive_file("worker").touch()


@worker_init.connect  # type: ignore[untyped-decorator]
def _one_thread_each(**_: Any) -> None:
    """One thread for each numerical library: a pool's processes share the cores already.

    A Torch call with two threads in a parent makes its forked child hang.
    """
    for library in ONE_THREAD:
        os.environ.setdefault(library, "1")


def __getattr__(name: str) -> Any:
    """``app``: made at first use, so that importing this module needs no settings."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = make_celery()
    globals()["app"] = made
    return made
