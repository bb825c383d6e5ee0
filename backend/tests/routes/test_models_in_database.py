"""Models over HTTP on the real registry: folders on disk, aliases and events in the database."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from app import create_app
from clock import FixedClock
from config import Config
from extensions import EXTENSION
from migrations import upgrade
from services.dispatching.part import hang_in
from services.model_registry import SqlRegistry
from services.rl.simulation.scenarios import load_scenario
from tests.rl.serving.models import bundle_of

from .conftest import GENEVA, NOW, Api, fill, is_problem, on_both

WHY = {"why": "gate_passed"}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return [bundle_of(kind, folder, GENEVA) for kind in ("planner", "matching")]


@pytest.fixture
def api(database_url, atmr_home):
    clock = FixedClock(NOW)
    app = create_app(
        Config.from_environment(database_url=database_url), scenario=GENEVA, clock=clock
    )
    database = app.extensions[EXTENSION].database
    upgrade(database.engine)
    yield Api(app, app.test_client(), fill(database, clock), clock)
    database.dispose()


@pytest.fixture
def two(api, bundles):
    """Two versions that another process (a script's registry) has registered."""
    elsewhere = SqlRegistry(api.services.database, api.clock)
    return [elsewhere.register(bundle.path, "night", "first") for bundle in bundles]


def champion(api, key="one"):
    models = api("GET", "models", key=key).get_json()["models"]
    return [model["version"] for model in models if "champion" in model["aliases"]]


@on_both
def test_one_company_promotes_and_rolls_back_and_the_other_does_not_notice(api, two):
    first, second = two
    assert api("POST", f"models/{first}/promote", WHY).status_code == 200
    assert api("POST", f"models/{second}/promote", WHY | {"gate_report": "g"}).status_code == 200
    assert (champion(api), champion(api, "two")) == ([second], [])
    answer = api("POST", f"models/{second}/rollback", {"why": "complaints"}).get_json()
    assert champion(api) == [first]
    told = [
        (e["alias"], e["who"], e["why"], e["from_version"], e["to_version"])
        for e in answer["history"]
    ]
    assert ("champion", "one", "complaints", second, first) in told
    other = api("GET", "models", key="two").get_json()["history"]
    assert {e["who"] for e in other} == {"night"}  # the default's only


def test_a_model_of_another_world_is_no_champion_here(api, two, tmp_path):
    world = load_scenario("geneva_small")
    foreign = api.services.registry.register(
        bundle_of("matching", tmp_path, world).path, "night", "other world"
    )
    answer = api("POST", f"models/{foreign}/promote", WHY)
    assert is_problem(answer, 409, "path.version")
    assert "another scenario" in answer.get_json()["detail"]
    assert champion(api) == []


def test_what_cannot_be_promoted(api, two):
    _, second = two
    assert is_problem(api("POST", f"models/{'0' * 12}/promote", WHY), 404, "path.version")
    (api.services.registry.folders.folder / second / "matching.json").write_text("{}")
    answer = api("POST", f"models/{second}/promote", WHY)
    assert is_problem(answer, 409, "path.version")
    assert str(api.services.registry.folders.folder) not in answer.get_data(as_text=True)
    shown = api("GET", "models").get_json()["models"]
    assert [model["version"] for model in shown if model["damaged"]] == [second]
    assert champion(api) == []


def test_readiness_tells_which_champion_is_not_served_and_no_path(atmr_home, database_url, bundles):
    config = Config.from_environment(database_url=database_url)
    app = create_app(config, scenario=GENEVA, clock=FixedClock(NOW), set_up=(hang_in,))
    services = app.extensions[EXTENSION]
    upgrade(services.database.engine)
    sound, broken = (services.registry.register(b.path, "night", "x") for b in bundles)
    for version in (sound, broken):
        services.registry.promote(version, "night", "x")
    (atmr_home / "models" / broken / "matching.json").write_text("{}")
    try:
        told = app.test_client().get("/readyz")
        assert told.status_code == 200 and broken in told.get_json()["degraded"]["models"]
        assert str(atmr_home) not in told.get_data(as_text=True)
        desk = services.parts["dispatcher"].get().desk
        desk._champion.clear()  # two seconds later
        services.registry.rollback("ana", "damaged")
        assert desk.engine_for(1).version != broken
        while desk.engine_for(1).version != sound:
            time.sleep(0.01)
        assert app.test_client().get("/readyz").get_json()["degraded"] == {}
    finally:
        services.database.dispose()


@on_both
def test_clicks_at_the_same_moment_roll_back_once(api, two):
    for version in two:
        api("POST", f"models/{version}/promote", WHY)

    def click(_):
        client = Api(api.app, api.app.test_client(), api.keys, api.clock)
        return client("POST", f"models/{two[1]}/rollback", WHY).status_code

    with ThreadPoolExecutor(4) as threads:
        codes = list(threads.map(click, range(4)))
    assert sorted(codes) == [200, 409, 409, 409]
    assert champion(api) == [two[0]]


def test_a_database_without_tables_is_no_crash(database_url, atmr_home, tmp_path):
    app = create_app(
        Config.from_environment(database_url=f"sqlite:///{tmp_path / 'empty.sqlite'}"),
        scenario=GENEVA,
    )
    assert app.test_client().get("/readyz").status_code == 503
    app.extensions[EXTENSION].database.dispose()
