"""Experiments over HTTP: optimistic locking, a reason for every change, own company only."""

from datetime import timedelta

import pytest
from sqlalchemy import select

from models import Experiment, ExperimentEvent, ExperimentUnit

from .conftest import NOW, is_problem, on_both

AB = {"mode": "ab", "rl_share": 0.5, "why": "first_trial"}


@on_both
def test_an_experiment_is_created_read_and_changed_with_its_version(api):
    assert is_problem(api("GET", "experiments/night"), 404, "path.name")
    made = api("PUT", "experiments/night", AB)
    assert (made.status_code, made.headers["ETag"]) == (201, '"1"')
    changed = api("PUT", "experiments/night", AB | {"rl_share": 0.2}, If_Match='"1"')
    assert (changed.status_code, changed.get_json()["version"]) == (200, 2)
    read = api("GET", "experiments/night")
    assert read.headers["ETag"] == '"2"'
    assert (read.get_json()["rl_share"], read.get_json()["is_default"]) == (0.2, False)
    events = api("GET", "experiments/night/events").get_json()["events"]
    assert [(e["kind"], e["who"], e["why"]) for e in events] == [
        ("changed", "one", "first_trial"),
        ("created", "one", "first_trial"),
    ]
    assert events[0]["data"] == {"rl_share": [0.5, 0.2]}


def test_the_second_of_two_people_who_change_it_at_once_is_told(api):
    api("PUT", "experiments/night", AB)
    assert (
        api("PUT", "experiments/night", AB | {"rl_share": 0.1}, If_Match='"1"').status_code == 200
    )
    late = api("PUT", "experiments/night", AB | {"rl_share": 0.9}, If_Match='"1"')
    assert is_problem(late, 412, "header.If-Match")
    assert is_problem(api("PUT", "experiments/night", AB), 428, "header.If-Match")
    assert is_problem(api("PUT", "experiments/other", AB, If_Match='"1"'), 412, "header.If-Match")
    assert api("GET", "experiments/night").get_json()["rl_share"] == 0.1


def test_a_change_that_changes_nothing_leaves_no_trace(api):
    api("PUT", "experiments/night", AB)
    assert api("PUT", "experiments/night", AB, If_Match='"1"').get_json()["version"] == 1
    assert len(api("GET", "experiments/night/events").get_json()["events"]) == 1


def test_the_default_experiment_is_seen_until_a_company_has_its_own(api):
    with api.services.database.writing() as work:
        work.add(
            Experiment(
                name="night", mode="shadow", salt="s", guardrails={}, created_at=NOW, updated_at=NOW
            )
        )
    shown = api("GET", "experiments/night").get_json()
    assert (shown["is_default"], shown["mode"]) == (True, "shadow")
    assert api("PUT", "experiments/night", AB).status_code == 201
    assert api("GET", "experiments/night").get_json()["mode"] == "ab"
    assert api("GET", "experiments/night", key="two").get_json()["mode"] == "shadow"


def test_a_stopped_experiment_goes_on_only_when_a_person_says_so(api):
    api("PUT", "experiments/night", AB)
    with api.services.database.writing() as work:
        found = work.scalars(select(Experiment)).one()
        found.stopped_at, found.stop_reason = NOW - timedelta(hours=1), "fallback_rate"
    untouched = api("PUT", "experiments/night", AB | {"rl_share": 0.1}, If_Match='"2"').get_json()
    assert untouched["stop_reason"] == "fallback_rate"
    resumed = api("PUT", "experiments/night", AB | {"resume": True}, If_Match='"3"').get_json()
    assert (resumed["stopped_at"], resumed["stop_reason"]) == (None, None)
    with api.services.database.reading() as work:
        assert work.scalars(select(ExperimentEvent.kind)).all() == ["created", "changed", "resumed"]


def test_the_unit_cannot_change_once_units_have_their_arms(api):
    api("PUT", "experiments/night", AB)
    with api.services.database.writing() as work:
        found = work.scalars(select(Experiment)).one()
        work.add(
            ExperimentUnit(experiment_id=found.id, unit="b:1", bucket=3, arm="rl", created_at=NOW)
        )
    answer = api("PUT", "experiments/night", AB | {"unit": "company"}, If_Match='"1"')
    assert is_problem(answer, 409, "body.unit")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"rl_share": 1.01}, "body.rl_share"),
        ({"rl_share": float("nan")}, "body.rl_share"),
        ({"mode": "on"}, "body.mode"),
        ({"epsilon": -0.1}, "body.epsilon"),
        ({"block_min": 0}, "body.block_min"),
        ({"why": "Mr Smith asked for it"}, "body.why"),
        ({"webhook_url": "file:///etc/passwd"}, "body.webhook_url"),
        ({"guardrails": {"late": float("inf")}}, "body.guardrails.late"),
        ({"guardrails": {"late_margni": 0.1}}, "body.guardrails"),  # would stop every decision
        ({"guardrails": {"fallback_rate": 7.0}}, "body.guardrails"),
        ({"salt": "x"}, "body.salt"),
    ],
)
def test_what_cannot_be_is_named(api, changes, field):
    assert is_problem(api("PUT", "experiments/night", AB | changes), 422, field)


@pytest.mark.parametrize("name", ["Night%20shift", "a" * 65, "-night", "n%C3%A4cht"])
def test_a_name_that_cannot_be_is_no_address(api, name):
    assert is_problem(api("PUT", f"experiments/{name}", AB), 404)
