"""The registry: versions that never change, aliases that change at once, a log of all of it."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from services.rl.errors import BundleError
from services.rl.serving.registry import FileRegistry

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.fixture
def registry(tmp_path):
    return FileRegistry(tmp_path / "models", now=lambda: NOON)


@pytest.fixture
def two(registry, bundles):
    """A registry with two versions, the first of which is champion."""
    first = registry.register(bundles["planner"].path, "ana", "first")
    registry.promote(first, "ana", "go")
    return registry, first, registry.register(bundles["dqn_matching"].path, "night", "second")


def test_an_empty_registry_has_nothing(registry):
    assert (registry.versions(), registry.history()) == ([], [])
    assert registry.alias(None, "champion") is None
    with pytest.raises(BundleError, match=r"no model '0{12}' in .* \(known: none\)"):
        registry.get("0" * 12)


def test_a_registered_bundle_is_candidate_and_stands_alone(registry, bundles, tmp_path):
    source = shutil.copytree(bundles["planner"].path, tmp_path / "bundle")
    version = registry.register(source, "ana", "first")
    shutil.rmtree(source)
    assert registry.get(version).version == version == bundles["planner"].version
    assert (registry.versions(), registry.alias(None, "candidate")) == ([version], version)
    assert registry.alias(None, "champion") is None


def test_the_same_bundle_again_is_the_same_version(registry, bundles):
    for _ in range(2):
        registry.register(bundles["planner"].path, "ana", "first")
    assert len(registry.versions()) == 1
    assert len(registry.history()) == 1


def test_promoting_keeps_the_champion_as_previous(two):
    registry, first, second = two
    registry.promote(second, "ana", "gate passed", gate_report="gate-7")
    assert registry.alias(None, "champion") == second
    assert registry.alias(None, "previous") == first
    assert registry.alias(None, "candidate") is None
    with pytest.raises(BundleError, match="champion already"):
        registry.promote(second, "ana", "again")


def test_rolling_back_is_one_step_and_can_be_undone(two):
    registry, first, second = two
    registry.promote(second, "ana", "go")
    assert registry.rollback("ben", "late pickups") == first
    assert registry.alias(None, "champion") == first
    assert registry.rollback("ben", "it was the snow") == second
    assert registry.alias(None, "champion") == second


def test_there_is_nothing_to_roll_back_to_at_first(registry, bundles):
    version = registry.register(bundles["planner"].path, "ana", "first")
    registry.promote(version, "ana", "go")
    with pytest.raises(BundleError, match="no previous model"):
        registry.rollback("ana", "oh")


def test_a_company_may_have_a_champion_of_its_own(two):
    registry, first, second = two
    registry.promote(second, "ana", "pilot", company=7)
    assert registry.alias(7, "champion") == second
    assert registry.alias(None, "champion") == registry.alias(8, "champion") == first
    assert registry.rollback("ana", "end of pilot", company=7) == first
    assert registry.alias(7, "champion") == first


def test_every_change_is_logged_with_who_when_why(two):
    registry, _, second = two
    registry.promote(second, "ana", "gate passed", company=7, gate_report="gate-7")
    event = [e for e in registry.history(7) if e.alias == "champion"][-1]
    assert (event.who, event.why, event.gate_report) == ("ana", "gate passed", "gate-7")
    assert (event.company_id, event.from_version, event.to_version) == (7, None, second)
    assert event.at == "2026-03-02T12:00:00+00:00"
    assert not any(e.company_id == 7 for e in registry.history(8))


def test_a_damaged_version_is_refused_and_the_champion_stays(two):
    registry, first, second = two
    path = registry.folder / second / "matching.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(BundleError, match="SHA-256 differs"):
        registry.promote(second, "ana", "go")
    with pytest.raises(BundleError, match="SHA-256 differs"):
        registry.get(second)
    assert registry.alias(None, "champion") == first


def test_a_damaged_bundle_is_not_registered(registry, bundles, tmp_path):
    source = shutil.copytree(bundles["planner"].path, tmp_path / "bundle")
    (source / "planner.json").unlink()
    with pytest.raises(BundleError, match=r"planner\.json is missing"):
        registry.register(source, "ana", "first")
    assert registry.versions() == []


@pytest.mark.parametrize("version", ["../../etc", "", "x" * 12, "0" * 12])
def test_a_name_that_is_no_version_leads_nowhere(registry, bundles, version):
    registry.register(bundles["planner"].path, "ana", "first")
    with pytest.raises(BundleError, match="there is no model"):
        registry.promote(version, "ana", "go")


def test_a_version_under_anothers_name_is_refused(two):
    registry, first, second = two
    shutil.rmtree(registry.folder / first)
    (registry.folder / second).rename(registry.folder / first)
    with pytest.raises(BundleError, match="moved or altered"):
        registry.get(first)


def test_changes_at_the_same_time_lose_nothing(two):
    registry, _, second = two
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda c: registry.promote(second, "ana", "go", company=c), range(8)))
    assert all(registry.alias(c, "champion") == second for c in range(8))
    lines = (registry.folder / "history.jsonl").read_text().splitlines()
    promoted = [json.loads(line) for line in lines if json.loads(line)["alias"] == "champion"]
    assert {e["company_id"] for e in promoted} == {None, *range(8)}


def test_a_log_line_torn_by_a_kill_is_dropped_and_the_next_one_stands(two):
    registry, first, second = two
    log = registry.folder / "history.jsonl"
    before = len(registry.history())
    with log.open("a") as file:
        file.write('{"at": "2026-03-02T12:00')
    assert len(registry.history()) == before
    registry.promote(second, "ana", "go")
    assert [e.to_version for e in registry.history()[before:]] == [second, first, None]


def test_files_that_are_not_the_registrys_are_one_sentence(two):
    registry, _, _ = two
    log = registry.folder / "history.jsonl"
    log.write_text("nonsense\n" + log.read_text())
    with pytest.raises(BundleError, match=r"history\.jsonl:1 is no event"):
        registry.history()
    for text in ("{", "[]", '{"default": 3}'):
        (registry.folder / "aliases.json").write_text(text)
        with pytest.raises(BundleError, match=r"aliases\.json"):
            registry.alias(None, "champion")


def test_a_registry_that_cannot_be_written_is_one_sentence(bundles, tmp_path):
    (tmp_path / "models").write_text("a file")
    with pytest.raises(BundleError, match="cannot be written"):
        FileRegistry(tmp_path / "models").register(bundles["planner"].path, "ana", "first")
