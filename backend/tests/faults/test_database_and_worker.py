"""PostgreSQL restarted, a worker killed, Redis gone, models broken: dispatch goes on."""

import os
import signal
import time

import pytest

from clock import SystemClock
from services.model_registry import SqlRegistry
from services.rl.policies.planner_values import VALUES_FILE
from services.rl.serving.bundle import MATCHING, write_bundle
from services.rl.simulation.scenarios import load_scenario

from .served import Callers, check_rows, planner

RESTART, KILL, REDIS, CORRUPT, MISSING, INCOMPATIBLE = [1], [2, 3], 4, 5, 6, 7


def test_database_restarted_requests_in_the_gap_fail_cleanly_and_later_ones_succeed(site):
    callers = Callers(site, RESTART)
    callers.await_answers(8)
    site.postgres.stop()
    assert callers.await_status(503)
    assert site.ready()[0] == 503
    site.postgres.start()
    statuses = callers.join()
    assert set(statuses) == {200, 503}
    refused = next(answer for answer in callers.seen if answer.status == 503)
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert int(refused.headers["Retry-After"]) >= 1
    assert refused.body["status"] == 503
    assert [answer.status for answer in callers.answers] == [200] * callers.asked
    assert site.ready()[0] == 200
    check_rows(site, RESTART, callers.answers)


def test_worker_killed_in_mid_request_every_request_can_be_retried_under_its_key(site):
    before = site.app.workers()
    callers = Callers(site, KILL)
    callers.await_answers(10)
    os.kill(before[0], signal.SIGKILL)
    statuses = callers.join()
    assert statuses[0] > 0  # or the kill met nobody, and this test shows nothing
    assert set(statuses) == {0, 200}
    assert [answer.status for answer in callers.answers] == [200] * callers.asked
    check_rows(site, KILL, callers.answers)
    deadline = time.monotonic() + 20
    while len(set(site.app.workers()) - set(before)) < 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert before[0] not in site.app.workers()


@pytest.mark.parametrize("how", ["stop", "hold_up"])
def test_redis_gone_or_mute_requests_are_answered_and_counted(site, how):
    name = "atmr_rate_limit_store_errors_total"
    bookings = site.companies[REDIS].open
    before = _counting(site, bookings[0], how)
    getattr(site.redis, how)()
    try:
        begun = time.monotonic()
        answers = [site.dispatch(REDIS, b, f"{how}-{b}") for b in bookings[:10]]
        took = time.monotonic() - begun
    finally:
        site.redis.resume()
        if how == "stop":
            site.redis.start()
    assert [answer.status for answer in answers] == [200] * 10
    # One limit is looked at in each: of the key, which is a right one.
    assert site.metric(name) - before == 10
    assert took < 10


def _counting(site, booking, how):
    """Requests are counted in Redis by now; the errors until then."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        before = site.metric("atmr_rate_limit_store_errors_total")
        answers = [site.dispatch(REDIS, booking, f"{how}-before") for _ in range(8)]
        assert [answer.status for answer in answers] == [200] * 8
        if site.metric("atmr_rate_limit_store_errors_total") == before:
            return before
        time.sleep(0.5)
    raise AssertionError("Redis is there, and nothing is counted in it")


@pytest.mark.parametrize("company", [CORRUPT, MISSING, INCOMPATIBLE])
def test_a_broken_model_is_replaced_by_the_heuristic_counted_and_shown(site, company):
    registry = SqlRegistry(site.database, SystemClock(), site.home)
    folder = site.home / f"bundle-{company}"
    if company == INCOMPATIBLE:  # of another world
        bundle = write_bundle(folder, MATCHING, load_scenario("geneva_overload"))
    else:
        bundle = planner(folder, 200 + company)
    version = registry.register(bundle.path, "test", "test")
    registry.promote(version, "test", "test", company)
    if company == CORRUPT:
        path = site.home / "models" / version / VALUES_FILE
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    if company == MISSING:
        (site.home / "models" / version).rename(site.home / f"elsewhere-{version}")
    before = site.metric("atmr_fallbacks_total", 'reason="no_model"')
    answers = [
        site.dispatch(company, b, f"broken-{company}-{b}") for b in site.companies[company].open
    ]
    assert [answer.status for answer in answers] == [200] * len(answers)
    asked = [answer.body for answer in answers if answer.body["policy"] != "overdue"]
    assert {(a["arm"], a["policy"], a["fallback_reason"]) for a in asked} == {
        ("rl", "matching", "no_model")
    }
    assert site.metric("atmr_fallbacks_total", 'reason="no_model"') - before == len(asked)
    check_rows(site, [company], answers)
    status, ready = site.ready()
    assert status == 200  # taking requests: the heuristic answers
    assert version in ready["degraded"]["models"]
