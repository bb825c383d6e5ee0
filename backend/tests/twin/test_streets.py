"""The twin's truth: order, luck, and what can still be taken away."""

import pytest

from services.dispatching.reach import km_between
from services.rl.simulation.engine import travel_tables
from services.rl.simulation.scenarios import load_scenario
from services.rl.simulation.travel import arrive_min
from services.twin.streets import DriverOnDuty, Job, Luck, Streets, luck_of

TABLES = travel_tables(load_scenario("geneva"))
HOME, CLINIC, STATION = (46.2044, 6.1432), (46.1935, 6.1487), (46.2103, 6.1423)
AS_PLANNED = Luck(1.0, 1.0, False)


def job(booking: int, promised: float, *, luck: Luck = AS_PLANNED, assigned: float = 0.0) -> Job:
    return Job(booking, 100 + booking, assigned, promised, CLINIC, STATION, 4.0, 3.0, luck)


@pytest.fixture
def streets() -> Streets:
    return Streets(TABLES, [DriverOnDuty(1, HOME, 0.0), DriverOnDuty(2, HOME, 0.0)])


def told(streets: Streets, until: float) -> list[tuple[str, int, float]]:
    return [(h.kind, h.job.booking_id, h.at_min) for h in streets.until(until)]


def test_a_driver_with_normal_luck_is_there_at_the_promised_time(streets):
    streets.give(1, job(1, 60.0))
    assert told(streets, 59.9) == []
    (kind, booking, at), *rest = told(streets, 200.0)
    assert (kind, booking, at) == ("picked_up", 1, pytest.approx(60.0, abs=1e-6))
    ride = arrive_min(TABLES, 64.0, km_between(TABLES, CLINIC, STATION), 0, 0)
    assert rest == [("completed", 1, pytest.approx(ride))]


def test_jobs_are_done_in_the_order_in_which_they_were_given(streets):
    streets.give(1, job(1, 120.0))
    streets.give(1, job(2, 60.0))  # promised earlier, given later
    order = [booking for kind, booking, _ in told(streets, 400.0) if kind == "picked_up"]
    assert order == [1, 2]


def test_nobody_leaves_for_a_job_before_it_was_given(streets):
    streets.give(1, job(1, 10.0, assigned=30.0))
    (_, _, at), *_ = told(streets, 100.0)
    assert at > 30.0


def test_slow_streets_make_the_patient_wait_and_the_next_one_too(streets):
    streets.give(1, job(1, 60.0, luck=Luck(3.0, 3.0, False)))
    streets.give(1, job(2, 70.0))
    streets.give(2, job(3, 60.0))
    streets.give(2, job(4, 70.0))
    at = {b: m for kind, b, m in told(streets, 400.0) if kind == "picked_up"}
    assert at[1] > at[3]
    assert at[2] > at[4]


def test_who_is_not_there_is_no_pickup_and_the_driver_goes_on_from_the_door(streets):
    streets.give(1, job(1, 60.0, luck=Luck(1.0, 1.0, True)))
    assert told(streets, 100.0) == [("no_show", 1, pytest.approx(65.0))]
    assert streets.drivers[1].place == CLINIC


def test_only_a_job_that_has_not_begun_can_be_taken_away(streets):
    streets.give(1, job(1, 60.0))
    streets.give(1, job(2, 120.0))
    streets.until(59.0)
    assert streets.under_way(1)
    assert not streets.take_away(101)
    assert streets.take_away(102)
    assert [b for _, b, _ in told(streets, 400.0)] == [1, 1]


def test_luck_belongs_to_the_booking():
    assert luck_of(1, 7, 0.1) == luck_of(1, 7, 0.1) != luck_of(1, 8, 0.1)
    assert sum(luck_of(3, b, 0.25).no_show for b in range(400)) == pytest.approx(100, abs=40)
