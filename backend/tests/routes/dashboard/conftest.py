"""Somebody in front of the dashboard: the app with a secret, and a client that keeps cookies."""

import re
from dataclasses import dataclass

import pytest
from flask.testing import FlaskClient

from models import Experiment

from ..conftest import NOW, Api, a_booking

SECRET = "0123456789abcdef" * 3
SOON, LATER = "2026-03-02T10:10:00+01:00", "2026-03-02T13:00:00+01:00"


@dataclass
class Somebody:
    """One person at a browser without scripts."""

    api: Api
    client: FlaskClient

    def get(self, path="", **kwargs):
        return self.client.get(f"/dashboard{path}", **kwargs)

    def text(self, path="", status=200):
        answer = self.get(path)
        assert answer.status_code == status, answer.get_data(as_text=True)[:2000]
        return answer.get_data(as_text=True)

    def token(self, path="") -> str:
        return re.search(r'name="csrf" value="([0-9a-f]{64})"', self.text(path)).group(1)

    def post(self, path, *, csrf=None, page="", **fields):
        fields["csrf"] = self.token(page) if csrf is None else csrf
        return self.client.post(f"/dashboard{path}", data=fields)

    def log_in(self, key="one"):
        return self.post("/login", page="/login", key=self.api.keys.get(key, key))


@pytest.fixture
def secret_api(make_api) -> Api:
    return make_api(secret_key=SECRET)


@pytest.fixture
def visitor(secret_api) -> Somebody:
    return Somebody(secret_api, secret_api.app.test_client())


@pytest.fixture
def manager(visitor) -> Somebody:
    assert visitor.log_in().status_code == 303
    return visitor


def other(somebody: Somebody, key: str) -> Somebody:
    found = Somebody(somebody.api, somebody.api.app.test_client())
    assert found.log_in(key).status_code == 303
    return found


def booked(api: Api, when=SOON, key="one", **changes) -> int:
    answer = api("POST", "bookings", a_booking(scheduled_time=when, **changes), key=key)
    assert answer.status_code == 201, answer.get_data(as_text=True)
    return answer.get_json()["id"]


def dispatched(api: Api, booking_id: int, key="one") -> dict:
    answer = api("POST", "dispatch", {"booking_id": booking_id}, key=key)
    assert answer.status_code == 200, answer.get_data(as_text=True)
    return answer.get_json()


def experiment(api: Api, **changes) -> None:
    values = {
        "company_id": 1, "name": "dispatch", "mode": "ab", "unit": "booking", "salt": "s",
        "rl_share": 0.5, "block_min": 30, "epsilon": 0.0, "guardrails": {}, "created_at": NOW,
        "updated_at": NOW, **changes,
    }  # fmt: skip
    with api.services.database.writing() as work:
        work.add(Experiment(**values))
