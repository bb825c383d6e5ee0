"""Every learned value term of the compiled search, against plain formulas on a hand-made epoch."""

from math import exp, floor, log

import numpy as np
import pytest

from services.rl.policies.planner_values import Grid
from services.rl.policies.route_clock import NUM_TERMS, TERM, DemandGrid, Routes, adopt
from services.rl.policies.route_problem import problem_of
from services.rl.policies.routing import problem_of_state, scenario_travel, visit_next
from services.rl.simulation.compiled import allocating
from services.rl.simulation.host import HostWorld
from services.rl.simulation.memory import unpack
from tests.rl.policies.geneva_days import KM_LAT, LAT, LON, booking, day_of, driver, even_scenario
from tests.rl.policies.geneva_days import state_of as state_at

NOW, LOOK_AHEAD, SLOT = 100.0, 150.0, 30.0
SLOTS, ROWS, COLUMNS = 20, 16, 3


@allocating
def route_worth(m, x, near, hour, from_base, shape, terms, look_ahead, driver, order):
    """What the search thinks of a driver's route, given as rows of the state's bookings."""
    w, s, _out = unpack(m, x)
    g = DemandGrid(
        near, hour, from_base, shape[0], shape[1], shape[2], shape[3], int(shape[4]), shape[5]
    )
    q = problem_of(w, s, 0, look_ahead, g, terms)
    count, drivers = q.jobs.row.size, q.fleet.free.size
    r = Routes(
        np.zeros((drivers, count + 1), dtype=np.int64),
        np.zeros(drivers, dtype=np.int64),
        np.zeros((drivers, count + 1)),
        np.zeros((drivers, count + 1)),
        np.zeros(drivers),
        np.full(count, -1, dtype=np.int64),
        np.zeros(count, dtype=np.int64),
    )
    jobs = np.empty(order.size, dtype=np.int64)
    for k in range(order.size):
        for j in range(count):
            if q.jobs.row[j] == order[k]:
                jobs[k] = j
    adopt(q, r, driver, jobs, jobs.size, 0)
    return r.value[driver]


def grid():
    """Demand that differs from cell to cell and from half hour to half hour."""
    rng = np.random.default_rng(7)
    return Grid(
        near=rng.uniform(0.5, 2.0, (SLOTS, ROWS * COLUMNS)),
        hour=rng.uniform(0.5, 2.0, SLOTS),
        from_base=rng.uniform(0.1, 1.5, ROWS * COLUMNS),
        shape=np.array([LAT - 4 * KM_LAT, LON - 0.015, 2 * KM_LAT, 0.01, float(COLUMNS), SLOT]),
    )


def epoch(shift_end):
    """A van's route to a patient on time and an urgent one too late, and others beside it."""
    bookings = [
        booking(114, 5, 8, window=10.0, priority=3, pickup_service_min=2.0),
        booking(116, 14, 6, window=5.0, priority=5, immediate=True, wheelchair=True),
        booking(140, 3, 2),  # in nobody's route, but part of the load
        booking(NOW + LOOK_AHEAD + 1, 3, 2),  # not seen yet
    ]
    fleet = [driver(0, end=shift_end, wheelchair=True), driver(7, end=shift_end), driver(0, end=60)]
    return state_at(day_of(bookings, fleet), NOW)


def cell(lat, lon):
    g = grid().shape
    row = min(ROWS - 1, max(0, floor((lat - g[0]) / g[2])))
    return row * COLUMNS + min(COLUMNS - 1, max(0, floor((lon - g[1]) / g[3])))


def slot(minute):
    return min(SLOTS - 1, max(0, floor(minute / SLOT)))


def plain_worth(scenario, state, weights, d, route):
    """The same in plain Python: `route_clock.TERM` as its comments describe it."""
    t = dict(zip(TERM, weights, strict=True))
    problem, demand = problem_of_state(state, scenario, scenario_travel(scenario)), grid()
    load = log(1.0 + 3 / 2)  # three bookings in view, two drivers on duty
    end_of_work = float(problem.work_end[d])
    free, last, total = NOW, -1, 0.0
    at = cell(state.drivers["lat"][d], state.drivers["lon"][d])
    for b in route:
        row = state.bookings[b]
        visit = visit_next(problem, d, last, free, b)
        assert visit.feasible
        weight = scenario.reward.priority[row["priority"] - 1]
        slack = float(row["window_end_min"]) - visit.pickup
        pickup_cell = cell(row["pickup_lat"], row["pickup_lon"])
        value = visit.value + problem.loss[b]  # a booking in the plan is not lost
        value += t["booking"] + t["priority"] * (weight - 1.0)
        value += t["pre_booked"] * (not row["immediate"])
        value += t["pickup_demand"] * demand.near[slot(row["promised_min"]), pickup_cell]
        value += t["urgency"] * exp(-(float(row["window_end_min"]) - NOW) / 20.0)
        value += t["trip"] * 2.0 * problem.trip_km[b] / 10.0  # two minutes a kilometre
        value -= (t["late"] + t["late_urgent"] * (row["priority"] >= 4)) * max(0.0, -slack)
        value -= t["deadhead"] * visit.deadhead_km
        value += t["slack"] * min(15.0, max(0.0, slack)) / 15.0
        value += t["spare_van"] * (state.drivers["wheelchair"][d] and not row["wheelchair"])
        value *= exp(-t["far"] * (visit.pickup - NOW) / 60.0 / 10.0)
        middle = (visit.depart + visit.done) / 2.0
        price = (
            t["minute"] + t["minute_load"] * load + t["minute_demand"] * demand.hour[slot(middle)]
        )
        price += t["minute_left"] * min(2.0, (end_of_work - visit.done) / 60.0)
        value -= price * (visit.done - visit.depart) / 10.0
        value -= t["idle"] * (visit.depart - free) / 10.0
        total += value
        free, last = visit.done, b
        at = cell(row["dropoff_lat"], row["dropoff_lon"])
    hours = (end_of_work - free) / 60.0
    end = t["end_demand"] * demand.near[slot(free), at]
    end += t["end_later"] * demand.near[slot(free + 60.0), at]
    end += t["end_from_base"] * demand.from_base[at]
    end += t["free_early"] + t["free_early_load"] * load
    return total + min(1.0, hours) * end + t["free_later"] * min(3.0, hours)


def both(shift_end, weights, d, route):
    scenario = even_scenario()
    state = epoch(shift_end)
    host = HostWorld(scenario)
    host.load(state)
    g, order = grid(), np.array(route, dtype=np.int64)
    found = route_worth(
        *host.memory, g.near, g.hour, g.from_base, g.shape, weights, LOOK_AHEAD, d, order
    )
    return found, plain_worth(scenario, state, weights, d, route)


ROUTE = (0, [0, 1])
LONG, SHORT = 480.0, 130.0  # more than the three hours at which hours of work are capped, or less


def only(name, weight):
    weights = np.zeros(NUM_TERMS)
    weights[TERM.index(name)] = weight
    return weights


@pytest.mark.parametrize("shift_end", [LONG, SHORT])
@pytest.mark.parametrize("name", TERM)
def test_each_term_is_what_its_formula_says(name, shift_end):
    plain, _ = both(shift_end, np.zeros(NUM_TERMS), *ROUTE)
    found, expected = both(shift_end, only(name, 1.7), *ROUTE)
    assert found == pytest.approx(expected, abs=1e-9)
    assert abs(found - plain) > 0.01, "here the term counts: its sign can be told"


@pytest.mark.parametrize("shift_end", [LONG, SHORT])
@pytest.mark.parametrize("route", [ROUTE, (0, [0]), (1, [0]), (0, []), (1, [])])
def test_terms_add_up(route, shift_end):
    weights = np.random.default_rng(3).uniform(-1.5, 1.5, NUM_TERMS)
    found, expected = both(shift_end, weights, *route)
    assert found == pytest.approx(expected, abs=1e-9)


def test_urgent_lateness_costs_beside_the_other_and_only_where_it_is_urgent():
    def cost(name, window, priority):
        """Of a pickup that is 6 minutes late."""
        scenario = even_scenario()
        day = day_of(
            [booking(104, 5, 8, window=window, priority=priority)], [driver(0), driver(50)]
        )
        host, g = HostWorld(scenario), grid()
        host.load(state_at(day, NOW))
        worth = [
            route_worth(
                *host.memory, g.near, g.hour, g.from_base, g.shape, terms, LOOK_AHEAD, 0,
                np.zeros(1, dtype=np.int64),
            )
            for terms in (np.zeros(NUM_TERMS), only(name, 1.0))
        ]  # fmt: skip
        return worth[0] - worth[1]

    assert cost("late_urgent", 0.0, 4) == pytest.approx(6.0)
    assert cost("late_urgent", 0.0, 5) == pytest.approx(6.0)
    assert cost("late_urgent", 0.0, 3) == 0.0
    assert cost("late_urgent", 6.0, 5) == pytest.approx(0.0, abs=1e-6)
    assert cost("late", 0.0, 3) == pytest.approx(6.0)
    assert cost("late", 0.0, 5) == pytest.approx(6.0)
