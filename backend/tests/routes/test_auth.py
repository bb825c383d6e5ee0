"""API keys: scopes, expiry, revocation, limits; only a hash is stored."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from access import create_key, revoke_key
from models import ApiKey

from .conftest import NOW, is_problem


@pytest.mark.parametrize(
    "key", ["", "nonsense", "atmr_", "atmr__", "atmr_%_x", "atmr_0123456789ab_" + "x" * 43, "\xe9"]
)
def test_without_a_valid_key_nothing_is_answered(api, key):
    answer = api("GET", "bookings", key=key)
    assert is_problem(answer, 401, "header.Authorization")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_key_with_one_wrong_letter_is_no_key(api):
    key = api.keys["one"]
    wrong = key[:-1] + ("a" if key[-1] != "a" else "b")
    assert is_problem(api("GET", "bookings", key=wrong), 401)


def test_the_database_holds_no_key(api):
    with api.services.database.reading() as work:
        rows = work.scalars(select(ApiKey)).all()
    stored = " ".join(str(vars(row)) for row in rows)
    assert len(rows) == len(api.keys)
    assert not any(key.split("_", 2)[2] in stored for key in api.keys.values())


def test_a_key_may_also_come_in_its_own_header(api):
    answer = api.client.get("/api/v1/bookings", headers={"X-API-Key": api.keys["one"]})
    assert answer.status_code == 200


def test_a_scope_that_the_key_lacks_is_named(api):
    assert api("GET", "bookings", key="reader").status_code == 200
    assert is_problem(api("POST", "bookings", {}, key="reader"), 403)
    assert is_problem(api("GET", "bookings", key="dispatcher"), 403)
    assert is_problem(api("PUT", "experiments/x", {}, key="dispatcher"), 403)


def test_an_expired_and_a_revoked_key_are_no_keys(api):
    with api.services.database.writing() as work:
        _, short = create_key(
            work, api.clock, company_id=1, name="short", scopes=("read",),
            expires_at=NOW + timedelta(hours=1),
        )  # fmt: skip
    assert api("GET", "bookings", key=short).status_code == 200
    api.clock.advance(minutes=61)
    assert is_problem(api("GET", "bookings", key=short), 401)
    with api.services.database.writing() as work:
        revoke_key(work, api.keys["reader"].split("_")[1], api.clock.now())
    assert is_problem(api("GET", "bookings", key="reader"), 401)


def test_the_last_use_is_noted_to_a_few_minutes(api):
    def used():
        with api.services.database.reading() as work:
            return work.scalars(select(ApiKey).where(ApiKey.name == "one")).one().last_used_at

    api("GET", "bookings")
    assert used() == NOW
    api.clock.advance(minutes=1)
    api("GET", "bookings")
    assert used() == NOW
    api.clock.advance(minutes=5)
    api("GET", "bookings")
    assert used() == NOW + timedelta(minutes=6)


def test_a_key_beyond_its_rate_waits_and_others_do_not(make_api):
    api = make_api(rate_limit="3 per minute")
    answers = [api("GET", "bookings") for _ in range(4)]
    assert [a.status_code for a in answers[:3]] == [200] * 3
    assert is_problem(answers[3], 429)
    assert answers[3].headers["Retry-After"] == "60"
    assert api("GET", "bookings", key="two").status_code == 200


def test_an_address_that_tries_keys_is_slowed_down(api):
    answers = [api("GET", "bookings", key=f"atmr_{i:012x}_guess") for i in range(31)]
    assert [a.status_code for a in answers] == [401] * 30 + [429]
    assert api("GET", "bookings").status_code == 200  # who shares the address and has a key


def test_a_redis_that_is_gone_limits_nobody_and_is_counted(make_api):
    api = make_api(redis_url="redis://127.0.0.1:1/0", rate_limit="1 per minute")
    assert [api("GET", "bookings").status_code for _ in range(3)] == [200] * 3
    text = api("GET", "/metrics").get_data(as_text=True)
    assert "atmr_rate_limit_store_errors_total 0.0" not in text
    assert api("GET", "/readyz").status_code == 200
