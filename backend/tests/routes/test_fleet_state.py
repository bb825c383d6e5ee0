"""A fleet that the request brings: decided as the company's own rows would be, nothing written."""

import copy

import pytest
from sqlalchemy import func, select

from models import Assignment, Commitment, Decision, ExperimentUnit, FleetSnapshot

from .conftest import a_booking, is_problem

SOON = "2026-03-02T10:10:00+01:00"  # in ten minutes
LATER = "2026-03-02T13:00:00+01:00"
SHIFT = {"shift_start": "2026-03-02T08:00:00+01:00", "shift_end": "2026-03-02T16:00:00+01:00"}


def a_state(**changes):
    return {
        "drivers": [
            {"id": 11, "lat": 46.2, "lon": 6.14, **SHIFT},
            {"id": 12, "lat": 46.25, "lon": 6.2, **SHIFT},
        ],
        "bookings": [
            a_booking(id=1, created_at="2026-03-02T09:00:00+01:00", scheduled_time=SOON),
            a_booking(id=2, created_at="2026-03-02T09:00:00+01:00", scheduled_time=LATER),
        ],
        **changes,
    }


def decided(api, state, **headers):
    answer = api("POST", "dispatch/state", state, **headers)
    assert answer.status_code == 200, answer.get_data(as_text=True)
    return {each["booking_id"]: each for each in answer.get_json()["decisions"]}


def test_the_nearest_goes_and_what_is_far_ahead_waits(api):
    found = decided(api, a_state())
    assert (found[1]["action"], found[1]["driver_id"]) == ("assign", 11)
    assert (found[2]["action"], found[2]["driver_id"]) == ("defer", None)
    assert found[2]["decide_again_at"] == "2026-03-02T09:05:00Z" and found[2]["must_decide_by"]
    with api.services.database.reading() as session:
        for model in (Assignment, Commitment, Decision, ExperimentUnit, FleetSnapshot):
            assert session.scalar(select(func.count()).select_from(model)) == 0


def test_the_same_fleet_in_rows_is_decided_alike(api):
    ids = [
        api("POST", "bookings", a_booking(scheduled_time=when)).get_json()["id"]
        for when in (SOON, SOON, LATER)
    ]
    state = a_state(
        drivers=[{"id": i, "lat": 46.2, "lon": 6.14, **SHIFT} for i in (11, 12)],
        bookings=[
            a_booking(id=i, created_at="2026-03-02T10:00:00+01:00", scheduled_time=when)
            for i, when in zip(ids, (SOON, SOON, LATER), strict=True)
        ],
    )
    brought = decided(api, state)
    rows = api("POST", "dispatch/batch", {}).get_json()["decisions"]
    assert {each["booking_id"] for each in rows} == set(brought)
    for each in rows:
        other = brought[each["booking_id"]]
        for name in set(other) - {"latency_ms"}:
            assert other[name] == each[name], name


def test_a_running_experiment_says_whose_arm_and_keeps_no_unit(api):
    experiment = {"mode": "ab", "unit": "booking", "rl_share": 0.5, "why": "x"}
    assert api("PUT", "experiments/dispatch", experiment).status_code == 201
    ids = [api("POST", "bookings", a_booking(scheduled_time=SOON)).get_json()["id"] for _ in "ab"]
    others = range(900, 930)
    state = a_state(
        bookings=[
            a_booking(id=i, created_at="2026-03-02T10:00:00+01:00", scheduled_time=SOON)
            for i in (*ids, *others)
        ]
    )
    asked = {i: each["arm"] for i, each in decided(api, state).items()}
    assert {asked[i] for i in others} == {"heuristic", "rl"}
    with api.services.database.reading() as session:
        assert session.scalar(select(func.count()).select_from(ExperimentUnit)) == 0
    rows = api("POST", "dispatch/batch", {}).get_json()["decisions"]
    assert {each["booking_id"]: each["arm"] for each in rows} == {i: asked[i] for i in ids}
    with api.services.database.writing() as session:  # as an earlier split would have drawn it
        kept = session.scalars(select(ExperimentUnit)).all()
        assert len(kept) == 2
        turned = {"rl": "heuristic", "heuristic": "rl"}
        kept[0].arm = turned[kept[0].arm]
        booking, arm = int(kept[0].unit.rpartition(":")[2]), kept[0].arm
    assert decided(api, state)[booking]["arm"] == arm


def test_what_a_driver_has_to_do_first_counts(api):
    state = a_state()
    state["drivers"][0] |= {"free_at": "2026-03-02T12:00:00+01:00", "committed": 1}
    assert decided(api, state)[1]["driver_id"] == 12
    state["drivers"][1]["down"] = True
    assert decided(api, state | {"booking_ids": [1]}).keys() == {1}
    state["drivers"][0]["down"] = True
    assert not decided(api, state)[1]["serviceable"]


def test_an_overdue_patient_is_told_of_and_not_dropped(api):
    state = a_state(at="2026-03-02T11:30:00+01:00")
    assert decided(api, state)[1]["overdue"]
    assert not decided(api, state)[2]["overdue"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda s: s["drivers"].clear(), "body.drivers"),
        (lambda s: s["bookings"].clear(), "body.bookings"),
        (lambda s: s["drivers"][1].update(id=11), "body.drivers.1.id"),
        (lambda s: s["bookings"][1].update(id=1), "body.bookings.1.id"),
        (lambda s: s["drivers"][0].update(lat=float("nan")), "body.drivers.0.lat"),
        (lambda s: s["drivers"][0].update(lon="6.1"), "body.drivers.0.lon"),
        (lambda s: s["bookings"][0]["pickup"].update(lat=1e9), "body.bookings.0.pickup.lat"),
        (lambda s: s["bookings"][0].update(patient="X"), "body.bookings.0.patient"),
        (lambda s: s["drivers"][0].update(shift_end=LATER[:11] + "07:00:00+01:00"),
         "body.drivers.0.shift_end"),
        (lambda s: s.update(booking_ids=[3]), "body.booking_ids.0"),
        (lambda s: s.update(at="yesterday"), "body.at"),
        (lambda s: s.update(at="2097-12-31T23:59:59Z"), "body.drivers.0.shift_start"),
        (lambda s: s["drivers"][1].update(free_at="2060-01-01T00:00:00Z"),
         "body.drivers.1.free_at"),
        (lambda s: s["bookings"][1].update(created_at="2002-01-01T00:00:00Z"),
         "body.bookings.1.created_at"),
        (lambda s: s["drivers"][0].update(committed=4), "body.drivers.0.committed"),
        (lambda s: s.update(bookings=s["bookings"] * 5_000), "body.bookings"),
    ],
)  # fmt: skip
def test_a_malformed_state_is_refused_by_field(api, change, field):
    state = copy.deepcopy(a_state())
    change(state)
    assert is_problem(api("POST", "dispatch/state", state), 422, field)


def test_reading_is_not_enough(api):
    assert is_problem(api("POST", "dispatch/state", a_state(), key="reader"), 403)
