"""Drivers over HTTP: where they are and whether they work."""

from datetime import time

import pytest

from models import Driver

from .conftest import a_booking, commit, is_problem, on_both


@on_both
def test_a_driver_starts_moves_breaks_down_and_stops(api):
    assert api("GET", "drivers/11").get_json()["on_shift"] is False
    body = {"shift_end_at": "2026-03-02T18:00:00+01:00"}
    assert api("POST", "drivers/11/on-shift", body).get_json()["on_shift"] is True
    moved = api("PUT", "drivers/11/position", {"lat": 46.21, "lon": 6.13}).get_json()
    assert (moved["lat"], moved["lon"], moved["position_at"]) == (
        46.21,
        6.13,
        "2026-03-02T09:00:00Z",
    )
    assert moved["shift_end_at"] == "2026-03-02T17:00:00Z"
    assert api("PUT", "drivers/11/vehicle", {"down": True}).get_json()["down"] is True
    stopped = api("POST", "drivers/11/off-shift", {}).get_json()
    assert (stopped["on_shift"], stopped["down"]) == (False, True)
    assert api("GET", "drivers").get_json()["drivers"][0] == stopped


def test_a_position_that_arrives_late_does_not_move_the_driver_back(api):
    api("PUT", "drivers/11/position", {"lat": 46.21, "lon": 6.13})
    late = {"lat": 46.30, "lon": 6.20, "at": "2026-03-02T08:59:00Z"}
    assert api("PUT", "drivers/11/position", late).get_json()["lat"] == 46.21


def test_a_list_shows_own_drivers_and_how_much_they_have_to_do(api):
    commit(api, api("POST", "bookings", a_booking()).get_json()["id"], driver_id=12)
    shown = api("GET", "drivers").get_json()["drivers"]
    assert [(d["id"], d["commitments"]) for d in shown] == [(11, 0), (12, 1)]
    assert api("GET", "drivers?limit=1").get_json()["next_after"] == 11


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "drivers/21", None),
        ("PUT", "drivers/21/position", {"lat": 46, "lon": 6}),
        ("POST", "drivers/21/on-shift", {}),
        ("POST", "drivers/21/off-shift", {}),
        ("PUT", "drivers/21/vehicle", {"down": True}),
    ],
)
def test_another_companys_driver_is_not_there(api, method, path, body):
    assert is_problem(api(method, path, body), 404, "path.driver_id")
    assert api("GET", "drivers/21", key="two").get_json()["on_shift"] is False


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("position", {"lat": 46.2}, "body.lon"),
        ("position", {"lat": 46.2, "lon": 181}, "body.lon"),
        ("position", {"lat": 46.2, "lon": 6, "at": "2026-03-02T10:00:00Z"}, "body.at"),
        ("vehicle", {"down": "yes"}, "body.down"),
    ],
)
def test_what_cannot_be_is_named(api, path, body, field):
    assert is_problem(api("PUT", f"drivers/11/{path}", body), 422, field)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"shift_end_at": "2026-03-02T08:00:00Z"}, "body.shift_end_at"),
        ({"shift_start_at": "2026-03-12T08:00:00Z"}, "body.shift_start_at"),
        ({"shift_end": "2026-03-02T18:00:00Z"}, "body.shift_end"),
    ],
)
def test_a_shift_that_cannot_be_is_named(api, body, field):
    assert is_problem(api("POST", "drivers/11/on-shift", body), 422, field)


SOON = "2026-03-02T10:05:00+01:00"  # in five minutes
HOURS = {"shift_start_at": "2026-03-02T08:00:00+01:00", "shift_end_at": "2026-03-02T16:00:00+01:00"}


def driver_for(api, scheduled_time=SOON):
    booking = api("POST", "bookings", a_booking(scheduled_time=scheduled_time)).get_json()["id"]
    return api("POST", "dispatch", {"booking_id": booking}).get_json()["driver_id"]


@pytest.mark.parametrize("began", [None, {}, HOURS])
def test_who_went_off_shift_gets_nothing_today_and_works_by_roster_tomorrow(api, began):
    for driver in (11, 12):
        if began is not None:
            api("POST", f"drivers/{driver}/on-shift", began)
        api("POST", f"drivers/{driver}/off-shift", {})
        api("PUT", f"drivers/{driver}/position", {"lat": 46.2, "lon": 6.14})
    assert driver_for(api) is None
    api("POST", "drivers/12/on-shift", {})
    assert driver_for(api) == 12
    api.clock.advance(minutes=24 * 60)
    api("POST", "drivers/12/off-shift", {})
    assert driver_for(api, "2026-03-03T10:05:00+01:00") == 11


def test_who_calls_in_sick_before_the_day_begins_is_off_for_that_day(api):
    api.clock.advance(minutes=-6 * 60)  # four in the morning
    for driver in (11, 12):
        api("POST", f"drivers/{driver}/off-shift", {})
    api.clock.advance(minutes=6 * 60)
    assert driver_for(api) is None


@pytest.mark.parametrize(
    ("shift", "off_after_h", "asked_after_h", "promised", "drives"),
    [
        ((8, 16), 7.0, 24, "2026-03-03T10:05:00+01:00", True),  # off at 17:00, works tomorrow
        ((14, 22), 10.0, 10.5, "2026-03-02T20:35:00+01:00", False),  # in the evening's gap
        ((22, 6), 16.0, 16.5, "2026-03-03T02:35:00+01:00", False),  # at two in the night
        ((22, 6), 16.0, 37.0, "2026-03-03T23:05:00+01:00", True),  # and tonight again
    ],
)
def test_going_off_ends_the_shift_that_is_running_and_not_the_next(
    api, shift, off_after_h, asked_after_h, promised, drives
):
    with api.services.database.writing() as work:
        for driver in (11, 12):
            row = work.get(Driver, driver)
            row.shift_start, row.shift_end = (time(hour) for hour in shift)
    api.clock.advance(minutes=60 * off_after_h)
    for driver in (11, 12):
        api("POST", f"drivers/{driver}/off-shift", {})
    api.clock.advance(minutes=60 * (asked_after_h - off_after_h))
    assert (driver_for(api, promised) is not None) == drives


def test_hours_that_were_said_for_one_day_do_not_hold_on_the_next(api):
    for driver in (11, 12):
        api("POST", f"drivers/{driver}/on-shift", HOURS)
    api.clock.advance(minutes=24 * 60)
    assert driver_for(api, "2026-03-03T10:05:00+01:00") is not None


@pytest.mark.parametrize(
    ("shift", "hours_later", "promised"),
    [
        ((14, 22), 9, "2026-03-02T19:10:00+01:00"),  # the scenario's day has ended at 16:30
        ((22, 6), 17, "2026-03-03T03:10:00+01:00"),
        ((0, 0), 9, "2026-03-02T19:10:00+01:00"),  # around the clock
        ((0, 0), 13.9, "2026-03-03T00:00:00+01:00"),
    ],
)
def test_whose_shift_is_running_drives_between_two_operating_days_too(
    api, shift, hours_later, promised
):
    with api.services.database.writing() as work:
        for driver in (11, 12):
            row = work.get(Driver, driver)
            row.shift_start, row.shift_end = (time(hour) for hour in shift)
    api.clock.advance(minutes=60 * hours_later)
    assert driver_for(api, promised) is not None


def test_a_booking_right_after_the_days_last_hour_is_decided_before_it_is_late(api):
    with api.services.database.writing() as work:
        work.get(Driver, 11).shift_end = time(22)
    api.clock.advance(minutes=6 * 60 + 10)  # 16:10; the scenario's day lasts until 16:00
    assert driver_for(api, "2026-03-02T16:20:00+01:00") == 11


def test_whose_shift_is_over_does_not_drive_between_two_operating_days(api):
    api.clock.advance(minutes=9 * 60)
    assert driver_for(api, "2026-03-02T19:10:00+01:00") is None


def test_a_pin_to_who_went_off_shift_does_not_keep_the_patient_waiting(api):
    booking = api("POST", "bookings", a_booking(scheduled_time=SOON)).get_json()["id"]
    pin = {"driver_id": 11, "reason_code": "continuity_of_care"}
    assert api("PUT", f"bookings/{booking}/pin", pin).status_code == 200
    api("POST", "drivers/11/off-shift", {})
    assert api("POST", "dispatch", {"booking_id": booking}).get_json()["driver_id"] == 12


def test_a_driver_is_hired_and_dispatched(api):
    made = api("POST", "drivers", {"shift_start": "00:00", "shift_end": "23:59",
                                   "home": {"lat": 46.2, "lon": 6.14}})  # fmt: skip
    assert made.status_code == 201
    driver = made.get_json()
    assert driver["shift_end"] == "23:59" and driver["driver_type"] == "REGULAR"
    listed = api("GET", "drivers").get_json()["drivers"]
    assert driver["id"] in [each["id"] for each in listed]
    assert is_problem(api("POST", "drivers", {"shift_start": "24:00", "shift_end": "08:00"}), 422,
                      "body.shift_start")  # fmt: skip
    wanted = {"shift_start": "08:00", "shift_end": "16:00"}
    assert is_problem(api("POST", "drivers", wanted, key="dispatcher"), 403)


def test_a_shift_that_is_over_is_not_begun(api):
    over = {
        "shift_start_at": "2026-03-02T08:00:00+01:00",
        "shift_end_at": "2026-03-02T09:00:00+01:00",
    }
    assert is_problem(api("POST", "drivers/11/on-shift", over), 422, "body.shift_end_at")
