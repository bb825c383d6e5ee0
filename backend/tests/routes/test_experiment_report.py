"""An experiment's report over HTTP and on the dashboard, from rows whose truth is known."""

import re
from datetime import timedelta
from itertools import count
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from models import Assignment, Booking, Experiment, ExperimentUnit
from services.dispatching.verdict import judge_experiment
from services.rl.ab_dispatcher import HEURISTIC, RL

from ..rows import a_decision
from .conftest import GENEVA, NOW, is_problem, on_both
from .dashboard.conftest import SECRET, Somebody

ZURICH = ZoneInfo("Europe/Zurich")
BEGUN = NOW - timedelta(days=15)
_IDS = count(1)


def add_experiment(work, **changes):
    values = {
        "id": 1, "company_id": 1, "name": "dispatch", "mode": "ab", "unit": "switchback",
        "salt": "s", "rl_share": 0.5, "block_min": 60, "epsilon": 0.0, "guardrails": {},
        "created_at": BEGUN, "updated_at": BEGUN, **changes,
    }  # fmt: skip
    work.add(Experiment(**values))
    work.flush()


def add_unit(work, unit, arm, at):
    work.add(ExperimentUnit(experiment_id=1, unit=unit, bucket=0, arm=arm, created_at=at))


def block(at):
    return f"block:1:0.0:{at.strftime('%Y%m%dT%H00Z')}"


def add_booking(work, promised, wait_min, *, unit, arm, priority=3):
    """A pre-booked booking that was decided by the unit; ``wait_min`` None: nobody came."""
    number = next(_IDS)
    status = "UNASSIGNED" if wait_min is None else "COMPLETED"
    work.add(
        Booking(
            id=number, company_id=1, pickup_lat=46.2, pickup_lon=6.14, dropoff_lat=46.19,
            dropoff_lon=6.15, scheduled_time=promised, created_at=promised - timedelta(days=1),
            status=status, priority=priority,
        )
    )  # fmt: skip
    work.flush()
    if wait_min is not None:
        pickup = promised + timedelta(minutes=wait_min)
        work.add(
            Assignment(booking_id=number, driver_id=11, assigned_at=promised, status="COMPLETED",
                       actual_pickup_at=pickup)
        )  # fmt: skip
    driver = {"driver_id": 11} if wait_min is not None else {"action": "defer", "driver_id": None}
    work.add(
        a_decision(
            f"{number:032x}", promised, None, booking_id=number, arm=arm, unit=unit, **driver
        )
    )


def a_month(api, *, good=(0.5, 0.9), per_block=2, **experiment):
    """Fifteen days of eight blocks, arms drawn; bookings in the middle of each block."""
    rng = np.random.default_rng(1)
    with api.services.database.writing() as work:
        add_experiment(work, **experiment)
        for hour in range(15 * 24):
            begins = BEGUN.replace(minute=0) + timedelta(hours=hour)
            if not 7 <= begins.hour < 15:
                continue
            learned = bool(rng.random() < 0.5)
            arm = RL if learned else HEURISTIC
            add_unit(work, block(begins), arm, begins)
            for _ in range(per_block):
                fine = rng.random() < good[learned]
                promised = begins + timedelta(minutes=45)
                wait = 5.0 if fine else (25.0 if rng.random() < 0.5 else None)
                add_booking(work, promised, wait, unit=block(begins), arm=arm, priority=4)


def judged(api, now=NOW, company=1):
    with api.services.database.reading() as work:
        row = work.get(Experiment, 1)
        return judge_experiment(work, row, company, now, GENEVA.rules, ZURICH)


@on_both
def test_a_report_tells_what_is_in_the_rows(api):
    a_month(api)
    answer = api("GET", "experiments/dispatch/report")
    assert answer.status_code == 200
    told = answer.get_json()
    assert (told["answer"], told["unit"], told["notes"]) == ("better", "switchback", [])
    assert told["differences"]["on_time"]["low"] > 0.05
    assert told["arms"]["rl"]["kpis"]["on_time"]["value"] == pytest.approx(0.9, abs=0.08)
    assert told["arms"]["rl"]["kpis"]["wait_min"]["value"] < 9
    assert told["arms"]["heuristic"]["kpis"]["late_min"]["value"] > 1
    assert told["differences"]["urgent_unserved"]["value"] < -0.1
    assert sum(told["ratio"]["drawn"]) == 120 and not told["ratio"]["blocked"]
    assert told["outlook"]["bookings_per_unit"] == 2 and told["outlook"][
        "units_per_day"
    ] == pytest.approx(8, abs=0.6)
    assert told["outlook"]["days_always_valid"] > told["outlook"]["days_fixed"]
    assert is_problem(api("GET", "experiments/night/report"), 404, "path.name")
    assert is_problem(api("GET", "experiments/dispatch/report", key="two"), 404, "path.name")


def test_a_booking_belongs_to_the_block_in_which_its_car_was_due(api):
    """Not to the one whose arm, as the last, put it off."""
    begins = NOW.replace(minute=0) - timedelta(hours=5)
    after = begins + timedelta(hours=1)
    with api.services.database.writing() as work:
        add_experiment(work)
        add_unit(work, block(begins), RL, begins)
        add_unit(work, block(after), HEURISTIC, after)
        # Due at 05:55, put off until the heuristic's block: the learned arm's doing.
        add_booking(work, after + timedelta(minutes=10), None, unit=block(after), arm=HEURISTIC)
        # In the first quarter of a block: nobody's.
        add_booking(work, after + timedelta(minutes=20), 5.0, unit=block(after), arm=HEURISTIC)
        add_booking(work, after + timedelta(minutes=40), 5.0, unit=block(after), arm=HEURISTIC)
    report = judged(api).report
    rl, heuristic = report.arms["rl"], report.arms["heuristic"]
    assert (rl.bookings, rl.kpis["unserved"].value) == (1, 1.0)
    assert (heuristic.bookings, heuristic.kpis["on_time"].value) == (1, 1.0)


def test_only_what_is_settled_counts(api):
    """A pickup is known sooner than that nobody came; counting it sooner would flatter."""
    begins = NOW.replace(minute=0) - timedelta(hours=2)
    with api.services.database.writing() as work:
        add_experiment(work)
        add_unit(work, block(begins), RL, begins)
        add_booking(work, begins + timedelta(minutes=35), 1.0, unit=block(begins), arm=RL)
    patience = GENEVA.rules.window_min + GENEVA.rules.grace_min
    settled = begins + timedelta(minutes=60 + 15 + patience)
    assert judged(api, settled - timedelta(minutes=1)).report.arms["rl"].bookings == 0
    assert judged(api, settled).report.arms["rl"].bookings == 1


def test_a_change_of_the_draw_begins_anew_and_a_change_of_the_guardrails_does_not(api):
    a_month(api, per_block=1)
    settings = {
        "mode": "ab", "unit": "switchback", "rl_share": 0.5, "block_min": 60, "why": "trial",
    }  # fmt: skip
    before = judged(api)
    api("PUT", "experiments/dispatch", settings | {"guardrails": {"slow_rate": 0.1}}, If_Match="1")
    assert judged(api) == before and before.since == BEGUN
    api("PUT", "experiments/dispatch", settings | {"rl_share": 0.2}, If_Match="2")
    anew = judged(api)
    assert anew.since == NOW and anew.report.answer == "no_data"


def test_units_of_bookings_and_of_the_default_experiment(api):
    rng = np.random.default_rng(2)
    with api.services.database.writing() as work:
        add_experiment(work, unit="booking", company_id=None)
        for i in range(200):
            arm = RL if rng.random() < 0.5 else HEURISTIC
            at = BEGUN + timedelta(hours=i)
            add_unit(work, f"booking:{i}", arm, at)
            add_booking(work, at, 5.0, unit=f"booking:{i}", arm=arm)
    told = api("GET", "experiments/dispatch/report").get_json()
    assert (told["answer"], told["notes"]) == ("undecided", ["shared_fleet"])
    assert sum(arm["bookings"] for arm in told["arms"].values()) == 200
    other = api("GET", "experiments/dispatch/report", key="two").get_json()
    assert other["answer"] == "no_data" and other["ratio"]["drawn"] == [0, 0]


def test_a_company_alone_has_nothing_to_compare(api):
    with api.services.database.writing() as work:
        add_experiment(work, unit="company")
        add_unit(work, "company:1", RL, BEGUN)
        for i in range(60):
            add_booking(work, BEGUN + timedelta(hours=6 * i), 5.0, unit="company:1", arm=RL)
    found = judged(api)
    assert found.report.answer == "no_data" and found.report.notes == ("few_looks",)
    assert found.until == BEGUN + timedelta(days=14)  # the last look; what came after waits
    assert found.report.arms["rl"].bookings == 56


def test_more_bookings_than_are_read_leave_the_first_ones(api):
    a_month(api, per_block=1)
    with api.services.database.reading() as work:
        row = work.get(Experiment, 1)
        part = judge_experiment(work, row, 1, NOW, GENEVA.rules, ZURICH, most=50)
    assert part.cut and sum(arm.bookings for arm in part.report.arms.values()) == 50


def test_a_stopped_experiment_says_so_beside_its_verdict(api):
    a_month(api, stopped_at=NOW, stop_reason="Too many late bookings.")
    told = api("GET", "experiments/dispatch/report").get_json()
    assert told["breaches"] == ["Too many late bookings."] and told["answer"] == "better"


@pytest.mark.parametrize("block_min", [7, 4, 50, 1441])
def test_blocks_divide_the_day(api, block_min):
    body = {"mode": "ab", "unit": "switchback", "block_min": block_min, "why": "trial"}
    assert is_problem(api("PUT", "experiments/night", body), 422, "body.block_min")


def test_the_dashboard_tells_the_same_in_both_languages(make_api):
    api = make_api(secret_key=SECRET)
    a_month(api, block_min=60)
    visitor = Somebody(api, api.app.test_client())
    visitor.log_in()
    page = re.sub(r"\s+", " ", visitor.text("/experiment"))
    assert "La politique apprise est plus ponctuelle" in page
    assert "conforme au tirage" in page and "Non servies, priorité 4 et 5" in page
    assert "jours depuis le début" in page
    english = visitor.text("/experiment?lang=en")
    assert "The learned policy is more punctual" in english
    assert "days from the start" in english and "Unserved, priority 4 and 5" in english
