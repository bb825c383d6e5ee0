"""Bookings over HTTP: created, read, edited and cancelled; what is wrong is named."""

import threading

import pytest
from sqlalchemy import func, select

from models import Assignment, Booking, Commitment

from .conftest import a_booking, commit, is_problem, on_both


@on_both
def test_a_booking_is_created_read_listed_edited_and_cancelled(api):
    made = api("POST", "bookings", a_booking(priority=5))
    assert made.status_code == 201
    booking = made.get_json()
    assert booking["scheduled_time"] == "2026-03-02T10:30:00Z"
    assert (booking["status"], booking["priority"]) == ("PENDING", 5)
    path = f"bookings/{booking['id']}"
    assert api("GET", path).get_json() == booking
    edited = api("PATCH", path, {"wheelchair_need": True, "pickup_service_min": 4})
    assert edited.get_json() == booking | {"wheelchair_need": True, "pickup_service_min": 4.0}
    assert api("GET", "bookings?status=PENDING").get_json()["bookings"] == [edited.get_json()]
    cancelled = api("POST", f"{path}/cancel", {}).get_json()
    assert (cancelled["status"], cancelled["cancelled_at"]) == ("CANCELED", "2026-03-02T09:00:00Z")
    api.clock.advance(minutes=3)
    assert api("POST", f"{path}/cancel", {}).get_json() == cancelled
    assert is_problem(api("PATCH", path, {"priority": 1}), 409)


def test_a_list_is_read_page_by_page(api):
    ids = [api("POST", "bookings", a_booking()).get_json()["id"] for _ in range(5)]
    seen, after = [], 0
    while after is not None:
        page = api("GET", f"bookings?limit=2&after={after}").get_json()
        seen += [booking["id"] for booking in page["bookings"]]
        after = page["next_after"]
    assert seen == ids


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"pickup": {"lat": 91, "lon": 6}}, "body.pickup.lat"),
        ({"pickup": {"lat": "46.2", "lon": 6}}, "body.pickup.lat"),
        ({"pickup": {"lat": float("nan"), "lon": 6}}, "body.pickup.lat"),
        ({"dropoff": {"lat": 46, "lon": float("inf")}}, "body.dropoff.lon"),
        ({"dropoff": None}, "body.dropoff"),
        ({"priority": 6}, "body.priority"),
        ({"priority": 1.5}, "body.priority"),
        ({"priority": True}, "body.priority"),
        ({"scheduled_time": "2026-03-02T11:30:00"}, "body.scheduled_time"),
        ({"scheduled_time": 1772447400}, "body.scheduled_time"),
        ({"scheduled_time": "2026-02-30T11:30:00Z"}, "body.scheduled_time"),
        ({"scheduled_time": "9999-12-31T23:59:59-12:00"}, "body.scheduled_time"),
        ({"scheduled_time": "2026-03-02T08:29:00Z"}, "body.scheduled_time"),
        ({"scheduled_time": "2028-03-02T08:29:00Z"}, "body.scheduled_time"),
        ({"scheduled_time": None}, "body.scheduled_time"),
        ({"patient_name": "A. Person"}, "body.patient_name"),
    ],
)
def test_a_wrong_field_is_named_and_its_content_is_not_repeated(api, changes, field):
    answer = api("POST", "bookings", a_booking(**changes))
    assert is_problem(answer, 422, field)
    assert "Person" not in answer.get_data(as_text=True)


def test_an_urgent_booking_needs_no_time(api):
    body = a_booking(is_urgent=True)
    del body["scheduled_time"]
    assert api("POST", "bookings", body).get_json()["scheduled_time"] == "2026-03-02T09:00:00Z"


@pytest.mark.parametrize(
    ("data", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"", "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"[" * 10_000, "application/json", 400),
        (b"[]", "application/json", 422),
        (b"null", "application/json", 422),
        (b"{}", "text/plain", 415),
    ],
)
def test_what_is_no_booking_at_all_is_refused(api, data, content_type, status):
    answer = api.client.post(
        "/api/v1/bookings",
        data=data,
        content_type=content_type,
        headers={"Authorization": f"Bearer {api.keys['one']}"},
    )
    assert is_problem(answer, status)


@on_both
def test_another_companys_booking_is_not_there(api):
    booking_id = api("POST", "bookings", a_booking(), key="two").get_json()["id"]
    for method, path, body in (
        ("GET", f"bookings/{booking_id}", None),
        ("PATCH", f"bookings/{booking_id}", {"priority": 1}),
        ("POST", f"bookings/{booking_id}/cancel", {}),
    ):
        theirs, nobodys = (
            api(method, path, body),
            api(method, path.replace(str(booking_id), "999"), body),
        )
        assert is_problem(theirs, 404, "path.booking_id")
        assert theirs.get_json()["detail"] == nobodys.get_json()["detail"]
    assert api("GET", "bookings").get_json()["bookings"] == []
    assert api("GET", f"bookings/{booking_id}", key="two").get_json()["priority"] == 3


@pytest.mark.parametrize("booking_id", ["0", "-1", "x", "1.5", "2147483648", "9" * 40, "%00"])
def test_an_id_that_cannot_be_is_not_there(api, booking_id):
    assert is_problem(api("GET", f"bookings/{booking_id}"), 404)


@on_both
def test_cancelling_frees_the_drivers_place(api):
    booking_id = api("POST", "bookings", a_booking()).get_json()["id"]
    assignment_id = commit(api, booking_id)
    assert api("GET", f"bookings/{booking_id}").get_json()["commitment"]["driver_id"] == 11
    assert is_problem(api("PATCH", f"bookings/{booking_id}", {"priority": 1}), 409)
    assert api("POST", f"bookings/{booking_id}/cancel", {}).get_json()["commitment"] is None
    with api.services.database.reading() as work:
        assert work.get(Commitment, booking_id) is None
        assert work.get(Assignment, assignment_id).status == "CANCELED"


@on_both
def test_a_repeated_request_with_a_key_creates_one_booking(api):
    first = api("POST", "bookings", a_booking(), Idempotency_Key="k1")
    again = api("POST", "bookings", a_booking(), Idempotency_Key="k1")
    assert (first.status_code, first.get_json()) == (again.status_code, again.get_json())
    assert again.headers["Idempotent-Replayed"] == "true"
    other = api("POST", "bookings", a_booking(priority=1), Idempotency_Key="k1")
    assert is_problem(other, 422, "header.Idempotency-Key")
    theirs = api("POST", "bookings", a_booking(), key="two", Idempotency_Key="k1")
    assert theirs.status_code == 201
    assert "Idempotent-Replayed" not in theirs.headers
    assert len(api("GET", "bookings").get_json()["bookings"]) == 1


@on_both
def test_a_refused_request_does_not_use_up_its_key(api):
    wrong = api("POST", "bookings", a_booking(scheduled_time=None), Idempotency_Key="k1")
    assert is_problem(wrong, 422)
    assert api("POST", "bookings", a_booking(), Idempotency_Key="k1").status_code == 201


def test_a_key_may_be_used_again_when_its_time_is_over(api):
    first = api(
        "POST", "bookings", a_booking(scheduled_time="2026-03-20T09:00:00Z"), Idempotency_Key="k1"
    )
    api.clock.advance(minutes=25 * 60)
    second = api(
        "POST", "bookings", a_booking(scheduled_time="2026-03-21T09:00:00Z"), Idempotency_Key="k1"
    )
    assert first.get_json()["id"] != second.get_json()["id"]


def test_a_malformed_key_is_named(api):
    answer = api("POST", "bookings", a_booking(), Idempotency_Key="two words")
    assert is_problem(answer, 422, "header.Idempotency-Key")


@on_both
def test_of_requests_with_one_key_at_the_same_time_one_is_carried_out(api):
    answers = []

    def send() -> None:
        client = api.app.test_client()
        answers.append(
            client.post(
                "/api/v1/bookings",
                json=a_booking(),
                headers={"Authorization": f"Bearer {api.keys['one']}", "Idempotency-Key": "k1"},
            )
        )

    threads = [threading.Thread(target=send) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [a.status_code for a in answers] == [201] * 6
    assert len({a.get_json()["id"] for a in answers}) == 1
    with api.services.database.reading() as work:
        assert work.scalar(select(func.count()).select_from(Booking)) == 1
