"""The exact clock of a route, against arithmetic done by hand."""

import pytest

from services.rl.errors import PolicyError
from services.rl.policies.routing import (
    feasible_route,
    nearest_feasible,
    plan_value,
    problem_of_day,
    scenario_travel,
    time_route,
)
from services.rl.simulation.scenarios import load_scenario
from tests.rl.policies.geneva_days import booking, day_of, driver, even_scenario, random_day


def problem_for(bookings, drivers, **rules):
    scenario = even_scenario(**rules)
    return problem_of_day(day_of(bookings, drivers), scenario, scenario_travel(scenario))


def test_a_route_is_timed_as_by_hand():
    # 30 km/h: 2 min a kilometre. First job: 3 km away, promised at 100, so leave at 94.
    # Pickup 100, 4 min service, 5 km = 10 min, 3 min service: done at 117, 8 km north.
    # Second: 10 km back = 20 min, promised 90, window to 120: pickup 137, 17 late of grace 15.
    first = booking(100, 3, 8, pickup_service_min=4, dropoff_service_min=3)
    second = booking(90, -2, 0, priority=5)
    problem = problem_for([first, second], [driver()])
    a, b = time_route(problem, 0, [0, 1])
    assert (a.depart, a.pickup, a.done) == pytest.approx((94, 100, 117), abs=1e-6)
    assert a.value == pytest.approx(10 - 0.5 * 3, abs=1e-6)
    assert (b.depart, b.pickup, b.done) == pytest.approx((117, 137, 141), abs=1e-6)
    assert b.late_min == pytest.approx(17, abs=1e-6)
    assert b.value == pytest.approx(16 - 0.3 * 17 - 0.5 * 10, abs=1e-6)
    assert a.feasible and not b.feasible


def test_the_value_of_a_plan_counts_lateness_and_the_unserved():
    first = booking(100, 3, 8, pickup_service_min=4, dropoff_service_min=3)
    second = booking(95, -2, 0, priority=5)  # pickup 137: 12 late
    third = booking(300, 0, 1, priority=4)
    problem = problem_for([first, second, third], [driver()])
    assert plan_value(problem, [[0, 1]]) == pytest.approx(
        (10 - 1.5) + (16 - 0.3 * 12 - 5.0) - 14, abs=1e-6
    )
    assert plan_value(problem, [[]]) == pytest.approx(-10 - 16 - 14)


def test_a_plan_that_breaks_a_rule_has_no_value():
    problem = problem_for([booking(100, 3, 8), booking(70, -2, 0)], [driver(), driver()])
    with pytest.raises(PolicyError, match="served twice"):
        plan_value(problem, [[0], [0]])
    with pytest.raises(PolicyError, match="cannot be served by driver 0 in time"):
        plan_value(problem, [[0, 1], []])


def test_work_ends_with_the_overtime():
    # Done 10 min after the promise; the shift ends at 480, the overtime at 510.
    for promised, feasible in ((499.9, True), (500.1, False)):
        problem = problem_for([booking(promised, 0, 5)], [driver()])
        assert time_route(problem, 0, [0])[0].feasible is feasible


def test_known_noise_lengthens_the_way_and_the_trip():
    noisy = booking(100, 5, 10, deadhead_noise=1.5, trip_noise=2.0)
    visit = time_route(problem_for([noisy], [driver()]), 0, [0])[0]
    # It leaves at 90 as planned, arrives after 15 min instead of 10, rides 20 instead of 10.
    assert (visit.depart, visit.pickup, visit.done) == pytest.approx((90, 105, 125), abs=1e-6)


def test_eligibility_is_wheelchair_and_driver_type():
    jobs = [booking(100, 0, 1, wheelchair=True), booking(100, 0, 1, priority=4)]
    jobs += [booking(100, 0, 1, priority=3)]
    fleet = [driver(), driver(wheelchair=True), driver(emergency=True)]
    problem = problem_for(jobs, fleet)
    assert problem.eligible.tolist() == [
        [False, True, True],
        [True, True, True],
        [False, True, False],
    ]


def test_what_cannot_be_made_is_dropped_and_the_rest_timed_again():
    jobs = [booking(100, 0, 10), booking(60, 0, 5), booking(130, 10, 5)]
    problem = problem_for(jobs, [driver()])
    kept = feasible_route(problem, 0, [0, 1, 2])
    assert [visit.job for visit in kept] == [0, 2]
    assert kept[1].pickup == pytest.approx(130)


def test_a_greedy_plan_serves_nobody_twice_and_breaks_no_rule():
    scenario = load_scenario("geneva")
    for seed in range(5):
        problem = problem_of_day(random_day(seed), scenario, scenario_travel(scenario))
        plan = nearest_feasible(problem)
        assert sum(map(len, plan)) > 5
        assert plan_value(problem, plan) > plan_value(problem, [[] for _ in plan])


def test_zone_travel_without_its_tables_is_refused():
    with pytest.raises(PolicyError, match="needs the travel tables of its data folder"):
        scenario_travel(load_scenario("manhattan_11"))
