"""Celery's configuration: limits below the broker's patience, JSON only, nothing done at import."""

import subprocess
import sys
from datetime import time

import pytest
from celery import _state
from kombu import Connection

from celery_app import broker_of, hard_limit_s, make_celery, settings
from config import Config
from extensions import Database
from migrations import upgrade
from models import Driver
from services.learning.periods import TRAIN
from services.rl.errors import UsageError
from tasks import performing
from tasks.rl_feedback_task import collect_production_experiences
from tasks.schedule import SCHEDULE, entry_named

REDIS = "redis://:hunter2secret@cache:6379/1"


def config(tmp_path, **changes):
    return Config(
        **{"database_url": f"sqlite:///{tmp_path}/a.sqlite", "redis_url": REDIS, **changes}
    )


@pytest.fixture
def celery(tmp_path, atmr_home):
    """An app that is nobody's current one afterwards."""
    before = _state.get_current_app()
    made = make_celery(config(tmp_path))
    yield made
    _state._set_current_app(before)


@pytest.mark.parametrize("minutes", [1, 20, 90, 24 * 60])
def test_the_broker_is_more_patient_than_the_longest_task(tmp_path, minutes):
    told = settings(config(tmp_path, train_minutes=minutes))
    patience = told["broker_transport_options"]["visibility_timeout"]
    limits = [each["time_limit"] for each in told["task_annotations"].values()]
    assert patience > max(limits) + 60
    for each in told["task_annotations"].values():
        assert each["soft_time_limit"] < each["time_limit"]
    # A night trains two kinds of model for so long each.
    assert told["task_annotations"][entry_named("retraining").task]["time_limit"] > 120 * minutes


def test_messages_are_json_acknowledged_late_and_taken_one_by_one(celery):
    conf = celery.conf
    assert conf.accept_content == ["json"] and conf.task_serializer == "json"
    assert conf.task_acks_late and conf.task_reject_on_worker_lost
    assert conf.worker_prefetch_multiplier == 1 and conf.task_track_started
    assert conf.task_ignore_result and conf.result_backend is None
    assert "hunter2secret" not in Connection(conf.broker_url).as_uri()


def test_every_entry_is_looked_at_and_routed_and_its_task_is_there(tmp_path, celery):
    celery.loader.import_default_modules()
    for entry in SCHEDULE:
        look = celery.conf.beat_schedule[entry.name]
        assert look["task"] in celery.tasks and look["args"] == (entry.name,)
        assert look["options"]["expires"] == look["schedule"] == entry.look_s
        assert celery.conf.task_routes[entry.task]["queue"] == entry.queue
        task = celery.tasks[entry.task]
        assert task.time_limit == hard_limit_s(entry, config(tmp_path))
        assert task.acks_late and task.reject_on_worker_lost
    assert [entry.name for entry in SCHEDULE if entry.queue == TRAIN] == ["retraining"]


def test_a_lost_ticks_company_is_taken_over_within_its_epoch():
    assert entry_named("tick").lease_s + entry_named("tick").look_s < 5 * 60


def test_without_a_broker_it_says_what_to_do(tmp_path):
    with pytest.raises(UsageError, match=r"ATMR_REDIS_URL.*make loop"):
        broker_of(config(tmp_path, redis_url=None))
    assert broker_of(config(tmp_path, broker_url="amqp://rabbit")) == "amqp://rabbit"
    sock = broker_of(config(tmp_path, redis_url="unix:///run/redis.sock"))
    assert sock == "redis+socket:///run/redis.sock"


def test_importing_the_module_needs_no_settings_and_brings_no_torch():
    code = (
        "import sys, celery_app, tasks.rl_feedback_task as t, tasks.dispatch_tick, tasks.fan_out, "
        "tasks.housekeeping; print('torch' in sys.modules, callable(t.retrain_agent_daily), "
        "callable(t.collect_production_experiences))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True,
        env={"PYTHONPATH": ":".join(sys.path), "ATMR_BUDGET_MS": "nonsense"},
    )  # fmt: skip
    assert done.stdout == "False True True\n", done.stderr


def test_a_task_is_a_plain_callable_too(tmp_path, atmr_home, monkeypatch):
    """In a shell: for all companies, with the settings of the environment."""
    url = f"sqlite:///{tmp_path}/plain.sqlite"
    monkeypatch.setenv("ATMR_DATABASE_URL", url)
    database = Database(url)
    upgrade(database.engine)
    with database.writing() as session:
        session.add_all(
            Driver(company_id=company, is_active=True, shift_start=time(8), shift_end=time(16))
            for company in (3, 7)
        )
    database.dispose()
    monkeypatch.setattr(
        performing, "BODIES", {"collection": lambda place, job: {"company": job.company_id}}
    )
    first = collect_production_experiences()
    assert {run["result"]["company"] for run in first.values()} == {3, 7}
    assert {run["state"] for run in first.values()} == {"done"}
    again = collect_production_experiences()
    assert {run["state"] for run in again.values()} == {"elsewhere"}
    assert collect_production_experiences(company_id=3)["state"] == "elsewhere"
