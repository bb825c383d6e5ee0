"""The registry in the database: changes at once, of one at a time, with all their history."""

import json
import logging
import multiprocessing
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from clock import FixedClock
from config import Config
from extensions import Database
from migrations import upgrade
from models import ModelVersion
from services.dispatching.desk import LOOK_EVERY_S, Desk
from services.model_registry import SqlRegistry, open_registry
from services.rl.errors import BundleError, DataError, UsageError
from tests.rl.serving.models import SMALL, bundle_of

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    return {kind: bundle_of(kind, folder) for kind in ("planner", "matching", "matching_linear")}


@pytest.fixture(params=["sqlite"])
def url(request, atmr_home):
    if request.param == "sqlite":
        return f"sqlite:///{atmr_home / 'atmr.sqlite'}"
    return request.getfixturevalue("postgres_database")


on_both = pytest.mark.parametrize(
    "url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True
)


@pytest.fixture
def registry(url, atmr_home):
    database = Database(url)
    upgrade(database.engine)
    yield SqlRegistry(database, FixedClock(NOON))
    database.dispose()


@pytest.fixture
def two(registry, bundles):
    """A registry with two versions, the first of which is champion."""
    first = registry.register(bundles["planner"].path, "ana", "first")
    registry.promote(first, "ana", "go")
    return registry, first, registry.register(bundles["matching"].path, "night", "second")


def champions(registry, company=None):
    return [e for e in registry.history(company) if e.alias == "champion"]


def test_an_empty_registry_has_nothing(registry):
    assert (registry.versions(), registry.history()) == ([], [])
    assert registry.alias(None, "champion") is None
    with pytest.raises(BundleError, match="there is no model"):
        registry.get("0" * 12)


@on_both
def test_a_registered_bundle_is_candidate_with_its_row(registry, bundles):
    for _ in range(2):  # the same content again is the same version, and no event
        version = registry.register(bundles["planner"].path, "ana", "first")
    assert registry.versions() == [version] == [registry.alias(7, "candidate")]
    assert registry.alias(None, "champion") is None and len(registry.history()) == 1
    with registry._database.reading() as session:
        row = session.scalars(select(ModelVersion)).one()
    told = bundles["planner"].manifest
    assert (row.kind, row.scenario_hash, row.path, row.created_at) == (
        "planner", told.scenario_hash, f"models/{version}", NOON
    )  # fmt: skip


@on_both
def test_promotion_and_rollback_exchange_champion_and_previous(two):
    registry, first, second = two
    registry.promote(second, "ana", "gate passed", gate_report="gate-7")
    assert [registry.alias(None, a) for a in ("champion", "previous", "candidate")] == [
        second, first, None
    ]  # fmt: skip
    with pytest.raises(BundleError, match="champion already"):
        registry.promote(second, "ana", "again")
    assert registry.rollback("ben", "late pickups") == first
    assert registry.rollback("ben", "it was the snow") == second
    assert [(e.from_version, e.to_version) for e in champions(registry)] == [
        (None, first), (first, second), (second, first), (first, second)
    ]  # fmt: skip


def test_a_rollback_of_what_is_champion_no_more_changes_nothing(two):
    registry, first, second = two
    registry.promote(second, "ana", "go")
    assert registry.rollback("ben", "late", champion=second) == first
    with pytest.raises(BundleError, match="is not the champion"):
        registry.rollback("ben", "late", champion=second)
    assert registry.alias(None, "champion") == first


@on_both
def test_every_change_is_logged_with_who_when_why(two):
    registry, first, second = two
    registry.promote(second, "ana", "gate passed", company=7, gate_report="gate-7")
    event = champions(registry, 7)[-1]
    assert (event.who, event.why, event.gate_report) == ("ana", "gate passed", "gate-7")
    assert (event.company_id, event.from_version, event.to_version) == (7, first, second)
    assert event.at == "2026-03-02T12:00:00+00:00"
    assert not any(e.company_id == 7 for e in [*registry.history(8), *registry.history()])


@on_both
def test_a_company_goes_its_own_way_and_others_follow_the_default(two, bundles):
    registry, first, second = two
    registry.promote(second, "ana", "pilot", company=7)
    assert (registry.alias(7, "champion"), registry.alias(8, "champion")) == (second, first)
    third = registry.register(bundles["matching_linear"].path, "night", "third")
    registry.promote(third, "ana", "go")
    assert (registry.alias(7, "champion"), registry.alias(8, "champion")) == (second, third)
    assert registry.rollback("ana", "end of pilot", company=7) == first
    assert registry.alias(None, "champion") == third


def test_a_company_never_goes_back_to_anothers_previous(registry, bundles):
    first, second = (
        registry.register(bundles[kind].path, "ana", "x") for kind in ("planner", "matching")
    )
    registry.promote(first, "ana", "its first", company=7)
    for version in (first, second):
        registry.promote(version, "ana", "default")
    with pytest.raises(BundleError, match="no previous model"):
        registry.rollback("ana", "oh", company=7)


def test_a_damaged_version_is_refused_and_the_champion_stays(two):
    registry, first, second = two
    path = registry.folders.folder / second / "matching.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(BundleError, match="SHA-256 differs"):
        registry.promote(second, "ana", "go")
    shutil.rmtree(registry.folders.folder / second)
    with pytest.raises(BundleError, match="there is no model"):
        registry.promote(second, "ana", "go")
    assert registry.alias(None, "champion") == first and len(champions(registry)) == 1


def test_rolling_back_to_a_damaged_version_is_refused(two):
    registry, first, second = two
    registry.promote(second, "ana", "go")
    shutil.rmtree(registry.folders.folder / first)
    with pytest.raises(BundleError, match="there is no model"):
        registry.rollback("ana", "oh")
    assert registry.alias(None, "champion") == second


def test_a_bundle_for_another_layout_is_not_registered(registry, bundles, tmp_path):
    source = shutil.copytree(bundles["planner"].path, tmp_path / "bundle")
    manifest = json.loads((source / "manifest.json").read_text())
    (source / "manifest.json").write_text(json.dumps({**manifest, "layout": 999}))
    with pytest.raises(BundleError):
        registry.register(source, "ana", "first")
    assert registry.versions() == []


@on_both
def test_registering_goes_on_where_a_crash_left_off(registry, bundles, monkeypatch):
    def crash(*_):
        raise OperationalError("insert", {}, Exception("the server has gone"))

    with monkeypatch.context() as patch:
        patch.setattr(registry, "_move", crash)
        with pytest.raises(OperationalError):
            registry.register(bundles["planner"].path, "ana", "first")
    version = bundles["planner"].version
    assert (registry.folders.folder / version).is_dir()  # the folder is there, used by nobody
    assert registry.versions() == [] == registry.history()
    with pytest.raises(BundleError, match="there is no model"):
        registry.promote(version, "ana", "go")
    # A power cut may have left it without content.
    (registry.folders.folder / version / "planner.json").write_text("")
    assert registry.register(bundles["planner"].path, "ana", "first") == version
    assert registry.get(version).version == version and registry.versions() == [version]


def test_texts_that_the_table_cannot_hold_are_refused(two):
    registry, _, second = two
    with pytest.raises(UsageError, match="why: at most 200 characters, got 201"):
        registry.promote(second, "ana", "x" * 201)


@on_both
def test_threads_that_promote_at_once_lose_nothing(two):
    registry, _, second = two
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda c: registry.promote(second, "ana", "go", company=c), range(1, 9)))
    assert all(registry.alias(c, "champion") == second for c in range(1, 9))
    assert all(len(registry.history(c)) - len(registry.history()) == 2 for c in range(1, 9))


def promote_in_turn(url, home, versions, rounds, ready):
    """Promote versions in turn; the champion already there is no error."""
    database = Database(url, timeout_s=30)
    registry = SqlRegistry(database, FixedClock(NOON), Path(home))
    ready.wait(60)
    for n in range(rounds):
        try:
            registry.promote(versions[n % len(versions)], "p", "go")
        except BundleError as error:
            if "champion already" not in str(error):
                raise
    database.dispose()


@pytest.fixture
def other_process(url, atmr_home):
    """Promotes from another process, once it has started; ``(versions, rounds) -> process``."""
    context = multiprocessing.get_context("spawn")
    begun = []

    def begin(versions, rounds):
        ready = context.Barrier(2)
        arguments = (url, str(atmr_home), versions, rounds, ready)
        begun.append(context.Process(target=promote_in_turn, args=arguments))
        begun[-1].start()
        ready.wait(60)
        return begun[-1]

    yield begin
    for process in begun:
        process.join(60)
        assert process.exitcode == 0


@on_both
def test_processes_that_promote_at_once_write_one_chain(two, url, atmr_home, other_process):
    registry, first, second = two
    process = other_process((first, second), 15)
    promote_in_turn(url, atmr_home, (second, first), 15, threading.Barrier(1))
    process.join(60)
    chain = champions(registry)
    assert len(chain) > 15
    # Each change begins where the one before ended: none was made on what was no longer true.
    assert all(a.to_version == b.from_version for a, b in pairwise(chain))
    assert registry.alias(None, "champion") == chain[-1].to_version
    assert registry.alias(None, "previous") == chain[-1].from_version


@on_both
def test_another_process_promotes_and_a_running_desk_follows(two, other_process):
    registry, first, second = two
    desk = Desk(SMALL, registry._database, FixedClock(NOON), registry)
    assert desk.engine_for(7).version == first
    other_process((second,), 1)
    begun = time.monotonic()
    while desk.engine_for(7).version == first:  # until the new one is loaded beside it
        assert time.monotonic() - begun < LOOK_EVERY_S + 30
        time.sleep(0.02)
    assert desk.engine_for(7).version == second and desk.problems == {}


def test_the_old_model_answers_until_the_new_one_is_loaded(two, monkeypatch):
    registry, _, second = two
    desk = Desk(SMALL, registry._database, FixedClock(NOON), registry)
    old, go_on = desk.engine_for(7), threading.Event()
    monkeypatch.setattr("services.dispatching.desk.LOOK_EVERY_S", -1.0)
    real = registry.get

    def slow(version):
        assert go_on.wait(30)
        return real(version)

    monkeypatch.setattr(registry, "get", slow)
    SqlRegistry(registry._database, FixedClock(NOON)).promote(second, "ana", "go")
    assert desk.engine_for(7) is old
    assert desk.engine_for(7) is old and desk._loading == {second}  # loaded once only
    go_on.set()
    while desk._loading:
        time.sleep(0.01)
    assert desk.engine_for(7).version == second


def test_a_desk_forgets_models_that_serve_nobody(registry, bundles, monkeypatch):
    monkeypatch.setattr("services.dispatching.desk.LOOK_EVERY_S", -1.0)
    desk = Desk(SMALL, registry._database, FixedClock(NOON), registry)
    versions = [registry.register(bundle.path, "ana", "x") for bundle in bundles.values()]
    for version in versions:
        registry.promote(version, "night", "better")
        while desk.engine_for(7).version != version:
            time.sleep(0.01)
    assert desk._engines.keys() == set(versions[-2:])
    registry.rollback("ana", "worse")
    assert desk.engine_for(7).version == versions[-2]  # at once: it was kept


def test_a_desk_keeps_its_model_while_the_database_is_away(two, monkeypatch):
    registry, first, _ = two
    desk = Desk(SMALL, registry._database, FixedClock(NOON), registry)
    desk.engine_for(7)
    monkeypatch.setattr("services.dispatching.desk.LOOK_EVERY_S", -1.0)

    def away():
        raise OperationalError("select", {}, Exception("gone"))

    monkeypatch.setattr(registry._database, "reading", away)
    assert desk.engine_for(7).version == first


@pytest.mark.parametrize("error", [OSError("share away"), RuntimeError("unsupported opset")])
def test_a_model_that_could_not_be_loaded_for_a_moment_is_served_later(two, monkeypatch, error):
    registry, first, _ = two
    desk = Desk(SMALL, registry._database, FixedClock(NOON), registry)
    real = registry.get

    def away(_version):
        raise error

    monkeypatch.setattr(registry, "get", away)
    assert desk.engine_for(7).version == ""  # the heuristic, and it is told
    assert desk.problems == {first: str(error)}
    monkeypatch.setattr(registry, "get", real)
    assert desk.engine_for(7).version == ""  # not at every request
    monkeypatch.setattr("services.dispatching.desk.TRY_AGAIN_S", -1.0)
    begun = time.monotonic()
    while desk.engine_for(7).version != first:
        assert time.monotonic() - begun < 30
        time.sleep(0.01)
    assert desk.problems == {}


# --- a home from before the tables ---------------------------------------------------------------


@pytest.fixture
def earlier(registry, bundles):
    """What the registry in files left behind: two versions, one company with its own champion."""
    one, two = (registry.folders.add(bundles[kind].path) for kind in ("planner", "matching"))
    a, b = one.version, two.version
    moves = [(None, "candidate", None, a), (None, "champion", None, a), (7, "champion", a, b)]
    lines = [
        {"at": f"2026-02-0{n}T08:00:00+00:00", "who": "ana", "why": "w", "company_id": company,
         "alias": alias, "from_version": before, "to_version": after, "gate_report": None}
        for n, (company, alias, before, after) in enumerate(moves, 1)
    ]  # fmt: skip
    folder = registry.folders.folder
    torn = '{"at": "2026-02-04'
    (folder / "history.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n" + torn)
    aliases = {"default": {"champion": a}, "7": {"champion": b, "previous": a}}
    (folder / "aliases.json").write_text(json.dumps(aliases))
    return registry, a, b


@on_both
def test_an_earlier_home_is_taken_over_once_and_said(earlier, caplog):
    registry, a, b = earlier
    with caplog.at_level(logging.WARNING, "atmr.models"):
        assert (registry.alias(8, "champion"), registry.alias(7, "champion")) == (a, b)
    assert "2 versions, 3 aliases, 3 events" in caplog.text
    assert sorted(registry.versions()) == sorted([a, b])
    assert [e.at[:10] for e in registry.history(7)] == ["2026-02-01", "2026-02-02", "2026-02-03"]
    assert registry.rollback("ana", "end", company=7) == a
    left = {p.name for p in registry.folders.folder.iterdir() if p.is_file()}
    assert left == {"aliases.json.imported", "history.jsonl.imported"}
    again = SqlRegistry(registry._database, FixedClock(NOON))
    assert again.alias(7, "champion") == a and len(again.history(7)) == 5


def test_a_registry_in_the_database_holds_against_files_that_turn_up(earlier, caplog):
    registry, _, b = earlier
    files = {p: p.read_text() for p in registry.folders.folder.iterdir() if p.is_file()}
    registry.promote(b, "ana", "go")
    for path, text in files.items():  # a kill between the transaction and the renaming
        path.write_text(text)
    again = SqlRegistry(registry._database, FixedClock(NOON))
    assert again.alias(None, "champion") == b
    assert "that one holds" in caplog.text
    assert not (registry.folders.folder / "aliases.json").exists()


def test_an_alias_whose_model_is_gone_is_named(earlier, caplog):
    registry, a, b = earlier
    shutil.rmtree(registry.folders.folder / a)
    assert (registry.alias(None, "champion"), registry.alias(7, "champion")) == (None, b)
    assert f"alias champion of company 0 is lost: model {a}" in caplog.text


@pytest.mark.parametrize("text", ["{", "[]", '{"default": 3}', '{"seven": {}}'])
def test_an_earlier_registry_that_cannot_be_read_stops_with_a_sentence(earlier, text):
    registry, _, _ = earlier
    (registry.folders.folder / "aliases.json").write_text(text)
    with pytest.raises(BundleError, match=r"aliases\.json is of an earlier registry and cannot"):
        registry.alias(None, "champion")
    (registry.folders.folder / "aliases.json").unlink()
    assert registry.alias(None, "champion") is None  # nothing half-taken


# --- scripts -------------------------------------------------------------------------------------


def test_a_script_makes_a_new_sqlite_file_and_refuses_an_old_database(atmr_home, tmp_path):
    config = Config.from_environment(database_url=f"sqlite:///{tmp_path / 'new.sqlite'}")
    with open_registry(config) as registry:
        assert registry.versions() == []
    old = Database(config.database_url.get_secret_value())
    with old.writing() as session:
        session.connection().exec_driver_sql("UPDATE atmr_rl_alembic_version SET version_num='0'")
    old.dispose()
    with pytest.raises(DataError, match=r"run migrate\.py"), open_registry(config):
        pass


@pytest.mark.postgres
def test_a_script_refuses_a_postgresql_that_was_not_migrated(atmr_home, postgres_database):
    config = Config.from_environment(database_url=postgres_database)
    with pytest.raises(DataError, match=r"run migrate\.py"), open_registry(config):
        pass
