"""The whole API from its own description: whatever is sent, no 5xx, and errors are problems."""

import contextlib

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app import API_BLUEPRINTS

from .conftest import a_booking, commit

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture
def described(make_api):
    """The description of an app that has a little of everything."""
    api = make_api(rate_limit="100000 per minute")
    ids = [api("POST", "bookings", a_booking()).get_json()["id"] for _ in range(3)]
    commit(api, ids[0])
    api("PUT", "experiments/night", {"mode": "ab", "why": "trial"})
    schema = schemathesis.openapi.from_wsgi("/openapi.json", api.app, config=SchemathesisConfig())
    schema.key = api.keys["one"]
    return schema


TIMES = {
    "scheduled_time", "created_at", "at", "cancelled_at", "shift_end_at", "free_at",
}  # fmt: skip
OPERATIONS = [op.name for bp in API_BLUEPRINTS for op in bp.operations] + ["healthz", "readyz"]


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("name", OPERATIONS)
def test_any_request_is_answered_as_described(described, name, mode):
    """Positive: as the description says; negative: with something in it that it forbids."""
    operation = described.find_operation_by_id(name)
    seen = set()

    @hypothesis.settings(
        max_examples=6,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def property_(case):
        if mode is GenerationMode.POSITIVE:
            bring_home(case)
        answer = case.call(headers={"Authorization": f"Bearer {described.key}"})
        case.validate_response(answer, checks=CHECKS)
        seen.add(answer.status_code)
        if answer.status_code >= 400:
            assert answer.headers["content-type"][0] == "application/problem+json"

    with contextlib.suppress(hypothesis.errors.Unsatisfiable):
        property_()
    if operation.body:
        # What is wrong may be the address (404) or the body; what is right is not always possible.
        malformed = {400, 415, 422}
        assert seen & {*malformed, 404} if mode is GenerationMode.NEGATIVE else seen - malformed


def bring_home(case) -> None:
    """Ids that exist and times near the clock: any other valid ones are only refused."""
    if isinstance(case.body, dict) and "drivers" in case.body:
        case.body.pop("booking_ids", None)
        for rows in (case.body["drivers"], case.body["bookings"]):
            for i, row in enumerate(rows):
                row["id"] = i + 1
                for name in row.keys() & (TIMES | {"shift_start", "shift_end"}):
                    row[name] = "2026-03-02T10:00:00+01:00"
    for name in case.path_parameters or {}:
        if name.endswith("_id"):
            case.path_parameters[name] = 11 if name == "driver_id" else 1
    if isinstance(case.body, dict):
        for name in case.body.keys() & TIMES:
            case.body[name] = "2026-03-02T10:00:00+01:00"
