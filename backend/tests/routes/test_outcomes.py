"""Outcomes move assignment, booking and commitment together; telling one twice changes nothing."""

import pytest
from sqlalchemy import select

from models import Assignment, Booking, BookingChange, Commitment

from .conftest import a_booking, commit, is_problem, on_both

PICKUP, DROPOFF = "2026-03-02T09:10:00Z", "2026-03-02T09:30:00Z"


@pytest.fixture
def given(api):
    """A booking that driver 11 has, half an hour later."""
    booking_id = api("POST", "bookings", a_booking()).get_json()["id"]
    assignment_id = commit(api, booking_id)
    api.clock.advance(minutes=40)
    return booking_id, assignment_id


def tell(api, assignment_id, **body):
    return api("POST", f"assignments/{assignment_id}/outcome", body)


def states(api, booking_id, assignment_id):
    with api.services.database.reading() as work:
        commitment = work.get(Commitment, booking_id)
        return (
            work.get(Assignment, assignment_id).status,
            work.get(Booking, booking_id).status,
            None if commitment is None else commitment.state,
        )


@on_both
def test_pickup_then_dropoff(api, given):
    _, assignment_id = given
    assert tell(api, assignment_id, outcome="picked_up", at=PICKUP).status_code == 200
    assert states(api, *given) == ("IN_PROGRESS", "IN_PROGRESS", "onboard")
    done = tell(api, assignment_id, outcome="completed", at=DROPOFF)
    assert states(api, *given) == ("COMPLETED", "COMPLETED", None)
    assert done.get_json()["actual_pickup_at"] == PICKUP
    assert done.get_json()["actual_dropoff_at"] == DROPOFF


@on_both
def test_an_outcome_told_again_is_accepted_and_a_different_one_is_not(api, given):
    _, assignment_id = given
    body = {"outcome": "completed", "at": DROPOFF, "picked_up_at": PICKUP}
    first = tell(api, assignment_id, **body)
    assert tell(api, assignment_id, **body).get_json() == first.get_json()
    assert tell(api, assignment_id, outcome="picked_up", at=PICKUP).status_code == 200
    assert is_problem(tell(api, assignment_id, **(body | {"at": "2026-03-02T09:31:00Z"})), 409)
    assert is_problem(tell(api, assignment_id, outcome="no_show", at=DROPOFF), 409, "body.outcome")
    assert states(api, *given) == ("COMPLETED", "COMPLETED", None)


@on_both
@pytest.mark.parametrize(("outcome", "status"), [("no_show", "NO_SHOW"), ("cancelled", "CANCELED")])
def test_a_patient_who_does_not_come_frees_the_driver(api, given, outcome, status):
    _, assignment_id = given
    assert tell(api, assignment_id, outcome=outcome, at=PICKUP).status_code == 200
    assert tell(api, assignment_id, outcome=outcome, at=PICKUP).status_code == 200
    assert states(api, *given) == (status, status, None)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"outcome": "completed", "at": DROPOFF}, "body.picked_up_at"),
        ({"outcome": "completed", "at": PICKUP, "picked_up_at": DROPOFF}, "body.at"),
        ({"outcome": "picked_up", "at": PICKUP, "picked_up_at": PICKUP}, "body.picked_up_at"),
        ({"outcome": "picked_up", "at": "2026-03-02T19:00:00Z"}, "body.at"),
        ({"outcome": "picked_up", "at": "2026-03-01T09:00:00Z"}, "body.at"),
        ({"outcome": "vanished", "at": PICKUP}, "body.outcome"),
    ],
)
def test_times_that_cannot_be_are_named_and_change_nothing(api, given, body, field):
    assert is_problem(tell(api, given[1], **body), 422, field)
    assert states(api, *given) == ("ASSIGNED", "ASSIGNED", "queued")


def test_another_companys_assignment_is_not_there(api, given):
    path = f"assignments/{given[1]}"
    assert is_problem(api("GET", path, key="two"), 404, "path.assignment_id")
    body = {"outcome": "no_show", "at": PICKUP}
    assert is_problem(api("POST", f"{path}/outcome", body, key="two"), 404)
    assert states(api, *given) == ("ASSIGNED", "ASSIGNED", "queued")


def test_an_outcome_of_a_booking_that_went_to_another_driver_is_refused(api, given):
    booking_id, old = given
    with api.services.database.writing() as work:
        work.delete(work.get(Commitment, booking_id))
    commit(api, booking_id, driver_id=12)
    assert is_problem(tell(api, old, outcome="picked_up", at=PICKUP), 409)


def test_what_is_told_or_called_off_is_noted_for_the_learner(api, given):
    """In the transaction of the change: what is refused, or told again, leaves no note."""

    def noted():
        with api.services.database.reading() as session:
            return session.scalars(select(BookingChange.booking_id)).all()

    booking_id, assignment_id = given
    assert tell(api, assignment_id, outcome="completed", at=DROPOFF).status_code == 422
    assert noted() == []
    assert tell(api, assignment_id, outcome="picked_up", at=PICKUP).status_code == 200
    assert tell(api, assignment_id, outcome="picked_up", at=PICKUP).status_code == 200
    assert noted() == [booking_id]
    other = api("POST", "bookings", a_booking()).get_json()["id"]
    assert api("POST", f"bookings/{other}/cancel", {}).status_code == 200
    assert api("POST", f"bookings/{other}/cancel", {}).status_code == 200
    assert noted() == [booking_id, other]
