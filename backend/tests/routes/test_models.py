"""Models over HTTP: promoted and rolled back for the key's company, once."""

from .conftest import is_problem

A, B, DAMAGED = "aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"
WHY = {"why": "gate_passed"}


def champion(api, key="one"):
    models = api("GET", "models", key=key).get_json()["models"]
    return [model["version"] for model in models if "champion" in model["aliases"]]


def test_promotion_and_rollback_move_one_company_only(api):
    assert champion(api) == []
    assert api("POST", f"models/{A}/promote", WHY | {"gate_report": "g1"}).status_code == 200
    api("POST", f"models/{B}/promote", WHY)
    assert (champion(api), champion(api, "two")) == ([B], [])
    api("POST", f"models/{B}/rollback", {"why": "complaints"})
    assert champion(api) == [A]
    assert is_problem(api("POST", f"models/{B}/rollback", WHY), 409, "path.version")
    history = api("GET", "models").get_json()["history"]
    assert [(e["who"], e["why"], e["to_version"]) for e in history][-1] == ("one", "gate_passed", A)
    assert api("GET", "models", key="two").get_json()["history"] == []


def test_the_first_champion_has_nothing_to_go_back_to(api):
    api("POST", f"models/{A}/promote", WHY)
    assert is_problem(api("POST", f"models/{A}/rollback", WHY), 409, "path.version")
    assert champion(api) == [A]


def test_a_damaged_version_is_shown_and_never_promoted(api):
    shown = api("GET", "models").get_json()["models"]
    assert [model["version"] for model in shown if model["damaged"]] == [DAMAGED]
    answer = api("POST", f"models/{DAMAGED}/promote", WHY)
    assert is_problem(answer, 409, "path.version")
    assert "/srv" not in answer.get_data(as_text=True)
    assert champion(api) == []


def test_promoting_the_champion_again_keeps_the_previous_one(api):
    for version in (A, B, B):
        api("POST", f"models/{version}/promote", WHY)
    api("POST", f"models/{B}/rollback", WHY)
    assert champion(api) == [A]


def test_an_unknown_version_and_a_missing_registry_are_not_there(api):
    assert is_problem(api("POST", "models/dddd/promote", WHY), 404, "path.version")
    api.services.registry = None
    assert is_problem(api("GET", "models"), 404)


def test_only_an_admin_promotes(api):
    assert is_problem(api("POST", f"models/{A}/promote", WHY, key="dispatcher"), 403)
    assert is_problem(api("POST", f"models/{A}/promote", {"why": "a sentence"}), 422, "body.why")
