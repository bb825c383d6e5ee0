"""A collection is complete or not there, and its scenarios load from anywhere."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from services.rl.data import collection
from services.rl.data.building import DayRules
from services.rl.data.collection import collect
from services.rl.data.dataset import HistoryDays
from services.rl.data.history import from_rows
from services.rl.errors import DataError, ScenarioError, UsageError
from services.rl.simulation.scenarios import ReplayDemand, load_scenario, save_scenario

PICTURES = {"demand.png", "map.png", "leads.png", "service.png", "fit.png"}


def test_the_folder_is_complete(collected):
    names = {path.name for path in collected.folder.iterdir()}
    assert names == PICTURES | {
        *("dataset.json", "days.npz", "rejected.csv", "report.md"),
        *("demand.npz", "scenario.yaml", "replay.yaml"),
    }
    for name in PICTURES:
        assert (collected.folder / name).read_bytes()[:4] == b"\x89PNG"
        assert f"({name})" in (collected.folder / "report.md").read_text()
    assert not list(collected.folder.parent.glob(".*"))


def test_read_is_kept_plus_rejected_in_files_and_report(rows, booking_row, tmp_path):
    bad = [booking_row(pickup_lat=None), booking_row(priority=9), booking_row(priority=8)]
    drivers = [{"id": None}]
    done = collect(
        from_rows([*rows, *bad], drivers=drivers), tmp_path / "d", DayRules(), name="d", fit=False
    )
    counts = json.loads((tmp_path / "d" / "dataset.json").read_text())["counts"]
    assert (counts["read"], counts["kept"], counts["rejected"]) == (33, 30, 3)
    assert len(done.history.bookings) == 30
    with (tmp_path / "d" / "rejected.csv").open() as stream:
        table = list(csv.DictReader(stream))
    assert [row["reason"] for row in table] == [
        *("missing_field", "unknown_priority", "unknown_priority", "missing_field"),
    ]
    assert [row["where"] for row in table] == [
        *("booking row 31", "booking row 32", "booking row 33", "driver row 1"),
    ]
    report = (tmp_path / "d" / "report.md").read_text()
    assert "read 33, kept 30, rejected 3" in report
    assert "unknown_priority: 2" in report


def test_collecting_again_gives_the_same_data_and_scenarios(collected, invented_raw, tmp_path):
    again = collect(invented_raw, tmp_path / "again", DayRules(), name="company")
    for name in ("days.npz", "demand.npz", "scenario.yaml", "replay.yaml", "rejected.csv"):
        one, two = (c.folder / name for c in (collected, again))
        assert one.read_bytes() == two.read_bytes(), name


def test_strict_refuses_on_the_first_bad_row_and_writes_nothing(rows, booking_row, tmp_path):
    table = from_rows([*rows, booking_row(pickup_lat="nan")])
    with pytest.raises(DataError, match="booking row 31: pickup_lat is no finite number"):
        collect(table, tmp_path / "d", DayRules(), name="d", strict=True)
    assert not list(tmp_path.iterdir())


def test_a_failure_half_way_leaves_the_old_data_set_untouched(raw, tmp_path, monkeypatch):
    folder = tmp_path / "d"
    collect(raw, folder, DayRules(), name="d", fit=False)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def broken(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(collection, "write_report", broken)
    with pytest.raises(UsageError, match="No space left"):
        collect(raw, folder, DayRules(), name="d", fit=False)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_an_old_data_set_is_replaced_whole(raw, tmp_path):
    folder = tmp_path / "d"
    collect(raw, folder, DayRules(), name="d", fit=False)
    (folder / "scenario.yaml").write_text("of an earlier fit")
    collect(raw, folder, DayRules(), name="d", fit=False)
    assert not (folder / "scenario.yaml").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_a_folder_that_is_no_data_set_is_never_replaced(raw, tmp_path):
    (tmp_path / "precious.txt").write_text("keep me")
    with pytest.raises(UsageError, match="no data set"):
        collect(raw, tmp_path, DayRules(), name="d")
    assert (tmp_path / "precious.txt").read_text() == "keep me"


def test_a_history_of_one_day_is_fitted_but_says_it_was_not_checked(raw, tmp_path):
    done = collect(raw, tmp_path / "d", DayRules(), name="d")
    assert done.fit is not None
    assert done.fit.goodness == []
    assert "the fit was not checked" in (tmp_path / "d" / "report.md").read_text()
    assert "served and late are not known" in (tmp_path / "d" / "report.md").read_text()
    load_scenario(tmp_path / "d" / "scenario.yaml").demand_model()


def test_scenarios_load_from_any_folder(collected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fitted = load_scenario(collected.folder / "scenario.yaml")
    assert fitted.demand_model().bookings_mean == collected.fit.model.bookings_mean
    monkeypatch.chdir(collected.folder.parent)
    relative = load_scenario(Path(collected.folder.name) / "scenario.yaml")
    assert relative.demand_model().bookings_mean == fitted.demand_model().bookings_mean
    assert relative.sha256 == fitted.sha256


def test_a_moved_folder_is_the_same_world(collected, tmp_path):
    shutil.copytree(collected.folder, tmp_path / "moved")
    for name in ("scenario.yaml", "replay.yaml"):
        here, there = (load_scenario(f / name) for f in (collected.folder, tmp_path / "moved"))
        assert here.sha256 == there.sha256
        assert here.demand != there.demand  # the paths differ, the content does not
    replay = load_scenario(tmp_path / "moved" / "replay.yaml")
    assert isinstance(replay.demand, ReplayDemand)
    days = HistoryDays.open(Path(replay.demand.dataset), replay.demand.dataset_sha256)
    assert days.dates == collected.history.dates


def test_other_data_is_another_world(collected):
    raw = load_scenario(collected.folder / "replay.yaml")
    other = raw.model_copy(
        update={"demand": raw.demand.model_copy(update={"dataset_sha256": "0" * 64})}
    )
    assert other.sha256 != raw.sha256


def test_another_model_file_is_refused(collected, tmp_path):
    shutil.copytree(collected.folder, tmp_path / "d")
    load_scenario("geneva").demand_model().save(tmp_path / "d" / "demand.npz")
    with pytest.raises(ScenarioError, match="its hash differs"):
        load_scenario(tmp_path / "d" / "scenario.yaml").demand_model()


def test_a_resized_or_extended_scenario_still_finds_its_model(collected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fitted = load_scenario(collected.folder / "scenario.yaml")
    assert fitted.resized(num_drivers=3, bookings_per_day=12).demand_model().bookings_mean == 12
    child = tmp_path / "child.yaml"
    child.write_text(f"extends: {collected.folder / 'scenario.yaml'}\nname: child\n")
    assert load_scenario(child).demand_model().bookings_mean == fitted.demand_model().bookings_mean


def test_saving_beside_the_model_names_it_relatively_and_elsewhere_absolutely(collected, tmp_path):
    fitted = load_scenario(collected.folder / "scenario.yaml")
    save_scenario(fitted, tmp_path / "copy.yaml")
    elsewhere = yaml.safe_load((tmp_path / "copy.yaml").read_text())["demand"]["model"]
    assert elsewhere == str((collected.folder / "demand.npz").resolve())
    beside = yaml.safe_load((collected.folder / "scenario.yaml").read_text())["demand"]["model"]
    assert beside == "demand.npz"
    assert load_scenario(tmp_path / "copy.yaml") == fitted


def test_built_in_scenarios_keep_their_hash_when_saved_and_loaded(tmp_path):
    for name in ("geneva", "manhattan_11"):
        scenario = load_scenario(name)
        save_scenario(scenario, tmp_path / f"{name}.yaml")
        assert load_scenario(tmp_path / f"{name}.yaml").sha256 == scenario.sha256


def test_the_fleet_is_the_typical_one(collected):
    fleet = load_scenario(collected.folder / "scenario.yaml").fleet
    assert fleet.num_drivers == len(fleet.patterns)
    assert any(pattern.wheelchair for pattern in fleet.patterns)
    assert {pattern.shift_start_min for pattern in fleet.patterns} == {0.0, 60.0}
    regular = np.diff(collected.history.driver_offset)
    assert fleet.num_drivers == np.median(regular)


def test_a_damaged_model_file_is_one_sentence(collected, tmp_path):
    shutil.copytree(collected.folder, tmp_path / "d")
    (tmp_path / "d" / "demand.npz").write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(DataError, match="cannot be read"):
        load_scenario(tmp_path / "d" / "scenario.yaml").demand_model()
