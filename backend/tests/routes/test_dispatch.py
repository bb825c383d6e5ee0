"""Dispatching over HTTP: one decision per booking, whoever asks, how often and how many at once."""

import threading
import zlib
from datetime import UTC, datetime

import pytest
from sqlalchemy import func, select

from models import Assignment, Booking, Commitment, Decision, Driver, FleetSnapshot
from routes.problems import from_exception
from services.dispatching.fates import BusyError
from services.rl.ab_dispatcher import ABDispatcher
from services.rl.simulation.types import DispatchState

from .conftest import a_booking, commit, is_problem, on_both

SOON = "2026-03-02T10:10:00+01:00"  # in ten minutes
LATER = "2026-03-02T13:00:00+01:00"


def booked(api, when=SOON, **changes):
    answer = api("POST", "bookings", a_booking(scheduled_time=when, **changes))
    assert answer.status_code == 201, answer.get_data(as_text=True)
    return answer.get_json()["id"]


def rows(api, *models):
    with api.services.database.reading() as work:
        return [work.scalar(select(func.count()).select_from(model)) for model in models]


@on_both
def test_a_booking_that_is_due_gets_a_driver_once(api):
    booking_id = booked(api)
    first = api("POST", "dispatch", {"booking_id": booking_id})
    assert first.status_code == 200, first.get_data(as_text=True)
    given = first.get_json()
    assert given["action"] == "assign" and given["driver_id"] in (11, 12)
    assert given["policy"] == "matching" and given["arm"] == "heuristic"
    assert given["planned_pickup_at"] >= "2026-03-02T09:10:00Z" and given["late_min"] == 0
    again = api("POST", "dispatch", {"booking_id": booking_id}).get_json()
    for name in ("decision_id", "driver_id", "assignment_id", "planned_pickup_at"):
        assert again[name] == given[name]
    assert rows(api, Assignment, Commitment, Decision) == [1, 1, 1]
    assert api("GET", f"bookings/{booking_id}").get_json()["status"] == "ASSIGNED"


def test_a_booking_far_ahead_is_deferred_and_says_until_when(api):
    given = api("POST", "dispatch", {"booking_id": booked(api, LATER)}).get_json()
    assert given["action"] == "defer" and given["driver_id"] is None
    assert given["decide_again_at"] == "2026-03-02T09:05:00Z"
    assert "2026-03-02T11:00" < given["must_decide_by"] < "2026-03-02T12:15"
    assert given["serviceable"] and not given["overdue"]
    assert rows(api, Assignment, Decision) == [0, 1]


def test_a_patient_whom_no_vehicle_can_carry_is_said_so(api):
    booking_id = booked(api, wheelchair_need=True)  # neither driver has a wheelchair van
    given = api("POST", "dispatch", {"booking_id": booking_id}).get_json()
    assert given["action"] == "defer"
    assert not given["serviceable"] and given["must_decide_by"] is None


def test_an_idempotency_key_gives_the_stored_answer(api):
    booking_id = booked(api, LATER)
    first = api("POST", "dispatch", {"booking_id": booking_id}, Idempotency_Key="k1")
    again = api("POST", "dispatch", {"booking_id": booking_id}, Idempotency_Key="k1")
    assert again.get_json() == first.get_json()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert rows(api, Decision) == [1]
    other = api("POST", "dispatch", {"booking_id": booked(api)}, Idempotency_Key="k1")
    assert is_problem(other, 422, "header.Idempotency-Key")


def test_other_companies_bookings_do_not_exist(api):
    booking_id = booked(api)
    for call in (
        api("POST", "dispatch", {"booking_id": booking_id}, key="two"),
        api("POST", "dispatch/batch", {"booking_ids": [booking_id]}, key="two"),
        api("GET", f"suggestions?booking_id={booking_id}", key="two"),
        api("PUT", f"bookings/{booking_id}/pin",
            {"driver_id": 21, "reason_code": "other"}, key="two"),
    ):  # fmt: skip
        assert is_problem(call, 404)
    decision = api("POST", "dispatch", {"booking_id": booking_id}).get_json()["decision_id"]
    body = {"driver_id": 21, "reason_code": "other"}
    assert is_problem(api("POST", f"decisions/{decision}/override", body, key="two"), 404)
    assert is_problem(
        api("POST", f"decisions/{decision}/override", body), 404, "body.driver_id"
    )  # a driver of the other company


def test_a_batch_is_one_epoch(api):
    ids = [booked(api), booked(api, "2026-03-02T10:20:00+01:00"), booked(api, LATER)]
    found = api("POST", "dispatch/batch", {}).get_json()["decisions"]
    assert {d["booking_id"] for d in found} == set(ids)
    with api.services.database.reading() as work:
        assert len(set(work.scalars(select(Decision.snapshot_id)))) == 1
    assert is_problem(api("POST", "dispatch/batch", {"booking_ids": []}), 422)


@on_both
def test_two_requests_for_one_booking_or_one_place_do_not_both_win(api):
    """One driver with one place left, three bookings that are due, two requests for each."""
    with api.services.database.writing() as work:
        work.get(Driver, 12).is_active = False
    first = booked(api, "2026-03-02T10:05:00+01:00")
    commit(api, first, driver_id=11, slot=0)
    due = [booked(api) for _ in range(3)]
    answers, start = [], threading.Barrier(6)

    def ask(booking_id):
        start.wait()
        with api.app.test_client() as client:
            answers.append(
                client.post(
                    "/api/v1/dispatch",
                    json={"booking_id": booking_id},
                    headers={"Authorization": f"Bearer {api.keys['one']}"},
                )
            )

    threads = [threading.Thread(target=ask, args=(b,)) for b in due for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} <= {200, 409, 422, 503}
    with api.services.database.reading() as work:
        held = work.scalars(select(Commitment.booking_id)).all()
        assigned = work.scalars(select(Assignment.booking_id)).all()
    assert len(held) <= 2 and sorted(held) == sorted(assigned)


def test_suggestions_rank_drivers_in_plain_words_and_commit_nothing(api):
    booking_id = booked(api)
    found = api("GET", f"suggestions?booking_id={booking_id}").get_json()
    ranks = [s["rank"] for s in found["suggestions"]]
    assert ranks == [1, 2] and found["action"] == "assign"
    assert sum(s["confidence"] for s in found["suggestions"]) == pytest.approx(1.0, abs=0.02)
    best = found["suggestions"][0]
    assert best["chosen"] and best["driver_id"] == found["heuristic_driver_id"]
    assert "même choix que l'heuristique" in best["explanation"]
    english = api("GET", f"suggestions?booking_id={booking_id}&language=en&limit=1").get_json()
    assert "pickup on time" in english["suggestions"][0]["explanation"]
    assert rows(api, Assignment, Decision) == [0, 0]


@on_both
def test_a_person_overrides_and_both_decisions_stay_in_the_log(api):
    booking_id = booked(api)
    given = api("POST", "dispatch", {"booking_id": booking_id}).get_json()
    other = 23 - given["driver_id"]  # 11 or 12
    body = {"driver_id": other, "reason_code": "continuity_of_care"}
    changed = api("POST", f"decisions/{given['decision_id']}/override", body)
    assert changed.status_code == 200, changed.get_data(as_text=True)
    assert changed.get_json()["driver_id"] == other
    assert changed.get_json()["policy"] == "human"
    with api.services.database.reading() as work:
        old = work.get(Decision, given["decision_id"])
        new = work.get(Decision, old.overridden_by)
        assert (new.source, new.reason_code) == ("human", "continuity_of_care")
        assert (new.arm, new.unit) == (old.arm, old.unit)
        assert work.scalars(select(Commitment.driver_id)).all() == [other]
        states = {a.driver_id: a.status for a in work.scalars(select(Assignment))}
    assert states == {given["driver_id"]: "CANCELED", other: "ASSIGNED"}
    twice = api("POST", f"decisions/{given['decision_id']}/override", body)
    assert is_problem(twice, 409, "path.decision_id")
    nobody = {"driver_id": None, "reason_code": "patient_request"}
    again = api("POST", f"decisions/{changed.get_json()['decision_id']}/override", nobody)
    assert again.get_json()["action"] == "defer"
    assert rows(api, Commitment) == [0]
    assert api("GET", f"bookings/{booking_id}").get_json()["status"] == "PENDING"


@on_both
def test_only_the_latest_decision_about_a_booking_can_be_overridden(api):
    booking_id = booked(api, LATER)
    first = api("POST", "dispatch", {"booking_id": booking_id}).get_json()
    api.clock.advance(minutes=5)
    second = api("POST", "dispatch", {"booking_id": booking_id}).get_json()
    assert first["action"] == second["action"] == "defer"
    before = rows(api, Decision, Assignment)
    body = {"driver_id": 11, "reason_code": "other"}
    late = api("POST", f"decisions/{first['decision_id']}/override", body)
    assert is_problem(late, 409, "path.decision_id")
    assert "a later decision" in late.get_json()["detail"]
    assert second["decision_id"] in late.get_data(as_text=True)
    assert rows(api, Decision, Assignment) == before
    made = api("POST", f"decisions/{second['decision_id']}/override", body)
    assert made.get_json()["driver_id"] == 11
    # The one it replaced bears the same instant, and is not the latest either.
    twice = api("POST", f"decisions/{second['decision_id']}/override", body)
    assert is_problem(twice, 409, "path.decision_id")
    assert made.get_json()["decision_id"] in twice.get_data(as_text=True)


def test_an_override_cannot_break_what_is_physical(api):
    with api.services.database.writing() as work:
        work.get(Driver, 11).wheelchair_vehicle = True
    booking_id = booked(api, wheelchair_need=True)
    given = api("POST", "dispatch", {"booking_id": booking_id}).get_json()
    assert given["driver_id"] == 11
    body = {"driver_id": 12, "reason_code": "other"}
    wrong = api("POST", f"decisions/{given['decision_id']}/override", body)
    assert is_problem(wrong, 422, "body.driver_id")
    assert api("GET", f"bookings/{booking_id}").get_json()["commitment"]["driver_id"] == 11
    api("POST", f"assignments/{given['assignment_id']}/outcome",
        {"outcome": "picked_up", "at": "2026-03-02T09:00:00Z"})  # fmt: skip
    aboard = api("POST", f"decisions/{given['decision_id']}/override", body)
    assert is_problem(aboard, 409)


def test_a_pin_is_kept_when_it_is_time(api):
    booking_id = booked(api)
    usual = api("GET", f"suggestions?booking_id={booking_id}").get_json()["suggestions"][0]
    other = 23 - usual["driver_id"]
    pin = {"driver_id": other, "reason_code": "continuity_of_care"}
    assert api("PUT", f"bookings/{booking_id}/pin", pin).status_code == 200
    api.clock.advance(minutes=5)
    given = api("POST", "dispatch", {"booking_id": booking_id}).get_json()
    assert (given["driver_id"], given["policy"]) == (other, "human")
    second = booked(api, LATER)
    api("PUT", f"bookings/{second}/pin", pin)
    waits = api("POST", "dispatch", {"booking_id": second}).get_json()
    assert (waits["action"], waits["policy"]) == ("defer", "human")
    assert api("DELETE", f"bookings/{second}/pin").get_json()["driver_id"] is None
    free = api("POST", "dispatch", {"booking_id": second}).get_json()
    assert (free["action"], free["policy"]) == ("defer", "matching")


def test_a_pin_to_somebody_who_cannot_does_not_make_the_patient_wait(api):
    booking_id = booked(api)
    api("PUT", f"bookings/{booking_id}/pin", {"driver_id": 12, "reason_code": "other"})
    with api.services.database.writing() as work:
        work.get(Driver, 12).is_active = False
    given = api("POST", "dispatch", {"booking_id": booking_id}).get_json()
    assert (given["driver_id"], given["policy"]) == (11, "matching")


def test_an_overdue_patient_is_not_dropped(api):
    """Both drivers were busy past the grace: the booking stays, and the first who can takes it."""
    booking_id = booked(api)
    api.clock.advance(minutes=45)  # promise 10 min away, window 15, grace 15
    given = api("POST", "dispatch", {"booking_id": booking_id}).get_json()
    assert given["overdue"] and given["action"] == "assign"
    with api.services.database.reading() as work:
        assert work.get(Booking, booking_id).status == "ASSIGNED"


def test_a_fleet_that_changes_all_the_time_is_told_to_ask_again():
    problem = from_exception(BusyError("the fleet changes faster than it can be decided"))
    assert (problem.status, problem.headers) == (503, {"Retry-After": "1"})


@on_both
@pytest.mark.parametrize(
    "edit",
    [
        {"scheduled_time": "2026-03-02T10:12:00+01:00"},
        {"pickup": {"lat": 46.21, "lon": 6.15}},
        {"wheelchair_need": True},
    ],
)
def test_a_booking_that_is_edited_while_it_is_decided_is_decided_again(api, monkeypatch, edit):
    booking, real, edits = booked(api), ABDispatcher.decide, [edit]

    def decide(self, *given, **options):
        decided = real(self, *given, **options)
        if edits:
            assert api("PATCH", f"bookings/{booking}", edits.pop()).status_code == 200
        return decided

    monkeypatch.setattr(ABDispatcher, "decide", decide)
    answer = api("POST", "dispatch", {"booking_id": booking}).get_json()
    monkeypatch.undo()
    if "wheelchair_need" in edit:
        assert (answer["driver_id"], answer["serviceable"]) == (None, False)
        return
    with api.services.database.reading() as work:
        row, plan = work.get(Booking, booking), work.get(Commitment, booking)
    assert plan.planned_pickup_at >= row.scheduled_time
    with api.services.database.reading() as work:
        snapshot = work.get(FleetSnapshot, work.get(Decision, answer["decision_id"]).snapshot_id)
    seen = DispatchState.from_json(zlib.decompress(snapshot.payload).decode()).bookings[0]
    assert (seen["pickup_lat"], seen["pickup_lon"]) == (row.pickup_lat, row.pickup_lon)


# --- rows as a host may hold them --------------------------------------------------------------


@on_both
@pytest.mark.parametrize(
    ("column", "value", "left_out"),
    [
        ("pickup_lon", 1000.0, True),  # latitude and longitude interchanged, metres, ...
        ("dropoff_lat", float("inf"), True),
        ("created_at", datetime(1970, 1, 1, tzinfo=UTC), False),
        ("pickup_service_min", -5.0, False),
        ("dropoff_service_min", 1e9, False),
    ],
)
def test_one_impossible_booking_does_not_keep_the_others_from_a_driver(
    api, column, value, left_out
):
    sound, odd = (booked(api) for _ in range(2))
    with api.services.database.writing() as work:
        setattr(work.get(Booking, odd), column, value)
    assert api("POST", "dispatch", {"booking_id": sound}).get_json()["action"] == "assign"
    assert (api("POST", "dispatch", {"booking_id": odd}).status_code == 404) == left_out


@pytest.mark.parametrize(("column", "value"), [("home_lat", 1000.0), ("home_lon", float("inf"))])
def test_a_driver_whose_home_is_nowhere_starts_at_the_base(api, column, value):
    with api.services.database.writing() as work:
        setattr(work.get(Driver, 12), column, value)
    assert api("POST", "dispatch", {"booking_id": booked(api)}).status_code == 200


def test_an_open_booking_that_a_retired_driver_has_does_not_stop_the_company(api):
    kept, sound = (booked(api) for _ in range(2))
    commit(api, kept, 11)
    with api.services.database.writing() as work:  # as a host may: not by our override
        work.get(Driver, 11).is_active = False
        work.get(Booking, kept).status = "PENDING"
    decided = api("POST", "dispatch", {"booking_id": sound})
    assert (decided.status_code, decided.get_json()["driver_id"]) == (200, 12)
    assert api("POST", "dispatch/batch", {}).status_code == 200


def test_a_drivers_job_that_lost_its_place_does_not_stop_the_company(api):
    lost, sound = (booked(api) for _ in range(2))
    commit(api, lost, 11)
    with api.services.database.writing() as work:
        work.get(Booking, lost).dropoff_lat = float("inf")
    assert api("POST", "dispatch", {"booking_id": sound}).get_json()["driver_id"] == 12


def test_an_overdue_patient_is_told_of_by_their_own_window(api):
    booking_id = booked(api, SOON)
    api.clock.advance(minutes=60)
    rows = api("GET", f"suggestions?booking_id={booking_id}&language=en").get_json()
    assert rows["suggestions"][0]["late_min"] > 20
    assert not any("on time" in said for said in rows["suggestions"][0]["explanation"])
    given = api("POST", "dispatch", {"booking_id": booking_id}).get_json()
    assert given["overdue"] and given["must_decide_by"] is None
    assert given["action"] == "defer" or given["late_min"] > 20
