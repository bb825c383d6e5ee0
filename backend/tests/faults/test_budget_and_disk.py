"""An engine slower than its budget, and a disk that is full (SQLite)."""

import resource

from .served import Callers, check_rows

SLOW, FULL = 1, [2]
_FULL_AT = 1 << 20  # bytes of one file; the metrics' files are as large and do not grow


def test_an_engine_slower_than_its_budget_the_heuristic_answers_with_the_reason(sqlite_site):
    site = sqlite_site
    answers = [site.dispatch(SLOW, b, f"slow-{b}") for b in site.companies[SLOW].open]
    assert [answer.status for answer in answers] == [200] * len(answers)
    asked = [answer.body for answer in answers if answer.body["policy"] != "overdue"]
    assert {(a["policy"], a["fallback_reason"]) for a in asked} == {("matching", "budget")}
    assert site.metric("atmr_fallbacks_total", 'reason="budget"') == len(asked)
    check_rows(site, [SLOW], answers)


def test_a_full_disk_refuses_cleanly_keeps_nothing_half_and_heals(sqlite_site):
    site = sqlite_site
    workers = site.app.workers()
    kept = [resource.prlimit(pid, resource.RLIMIT_FSIZE) for pid in workers]
    for pid, (_, hard) in zip(workers, kept, strict=True):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (_FULL_AT, hard))
    callers = Callers(site, FULL)
    try:
        assert callers.await_status(503)
        refused = next(answer for answer in callers.seen if answer.status == 503)
    finally:
        for pid, limits in zip(workers, kept, strict=True):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
    statuses = callers.join()
    assert set(statuses) == {200, 503}
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert [answer.status for answer in callers.answers] == [200] * callers.asked
    check_rows(site, FULL, callers.answers)
