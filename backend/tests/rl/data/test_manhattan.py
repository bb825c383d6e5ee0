"""The Manhattan loader: rules of the benchmark, splits, and one sentence per defect."""

import numpy as np
import pytest

from services.rl.data.manhattan import ManhattanDays
from services.rl.errors import DataError
from services.rl.simulation.scenarios import Split, load_scenario
from tests.rl.data.miniature_manhattan import miniature_scenario, write_folder


@pytest.fixture
def root(tmp_path):
    return write_folder(tmp_path / "manhattan", seed=3)


def days_of(root):
    return ManhattanDays.open(root, miniature_scenario())


def trips(root, label):
    return root / "data" / "data_miniature" / "trip_data" / f"trips_{label}.csv"


def test_a_request_is_known_and_promised_in_its_minute_and_waits_five(root):
    days = days_of(root)
    label = days.labels(Split.VALIDATION)[0]
    bookings = days.day(label).bookings
    assert len(bookings) > 20
    assert np.array_equal(bookings["created_min"], bookings["promised_min"])
    assert np.array_equal(bookings["created_min"], np.floor(bookings["created_min"]))
    assert np.array_equal(bookings["window_end_min"], bookings["created_min"] + 5)
    assert np.all(np.diff(bookings["created_min"]) >= 0)
    assert bookings["immediate"].all() and (bookings["priority"] == 3).all()
    assert not bookings["pickup_service_min"].any() and not bookings["dropoff_service_min"].any()


def test_requests_beyond_the_limit_of_a_minute_are_dropped_in_file_order(root):
    limit = miniature_scenario().demand.max_requests_per_minute
    days = days_of(root)
    label = days.labels(Split.TRAIN)[0]
    lines = ["pickup_time,pickup_ID,dropoff_ID"]
    lines += [f"{120 + i},{i % 4},{(i + 1) % 4}" for i in range(limit + 3)] + ["60,3,0"]
    trips(root, label).write_text("\n".join(lines) + "\n")
    bookings = days.day(label).bookings
    assert bookings["created_min"].tolist() == [1.0] + [2.0] * limit
    assert bookings["pickup_zone"].tolist() == [3] + [i % 4 for i in range(limit)]


def test_fares_distances_and_minutes_come_from_the_graph(root):
    days = days_of(root)
    day = days.day(days.labels(Split.TRAIN)[0])
    origin, destination = day.bookings["pickup_zone"], day.bookings["dropoff_zone"]
    assert np.array_equal(day.bookings["fare"], days.fare[origin, destination])
    assert not np.diagonal(days.tables.km).any() and not np.diagonal(days.tables.minutes).any()
    assert days.tables.km[0, 1] == pytest.approx(0.459)
    assert days.tables.minutes[0, 1] == 2
    assert np.array_equal(day.bookings["pickup_lat"], days.zone_lat[origin])


def test_cars_stand_evenly_with_the_remainder_in_the_first_zones(root):
    scenario = miniature_scenario(num_drivers=10)
    day = ManhattanDays.open(root, scenario).day("2015-03-02")
    assert np.bincount(day.drivers["zone"]).tolist() == [3, 3, 2, 2]
    assert (day.drivers["shift_start_min"] == 0).all()
    assert (day.drivers["shift_end_min"] == 60).all()


def test_splits_follow_the_files_and_tuning_is_the_end_of_training(root):
    days = days_of(root)
    train, validation = days.labels(Split.TRAIN), days.labels(Split.VALIDATION)
    assert len(train) == 45 and not set(train) & set(validation)
    assert list(days.tuning_labels()) == sorted(train)[-40:]


def test_test_days_are_refused_until_their_list_is_there(root):
    days = days_of(root)
    with pytest.raises(DataError, match=r"no test days: .*test_dates\.csv does not exist"):
        days.labels(Split.TEST)
    (root / "data" / "data_miniature" / "test_dates.csv").write_text("test_dates\n2015-06-01\n")
    assert days.labels(Split.TEST) == ["2015-06-01"]
    with pytest.raises(DataError, match="no requests of '2015-06-01'"):
        days.day("2015-06-01")


def test_the_folder_or_its_data_folder_or_the_variable_name_the_place(root, monkeypatch):
    scenario = miniature_scenario()
    by_folder = ManhattanDays.open(root, scenario).labels(Split.TRAIN)
    assert ManhattanDays.open(root / "data", scenario).labels(Split.TRAIN) == by_folder
    monkeypatch.setenv("ATMR_DATA_DIR", str(root))
    assert ManhattanDays.open(None, scenario).labels(Split.TRAIN) == by_folder


def test_a_missing_folder_or_another_scenario_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.delenv("ATMR_DATA_DIR", raising=False)
    with pytest.raises(DataError, match="give --data-dir or set ATMR_DATA_DIR"):
        ManhattanDays.open(None, miniature_scenario())
    with pytest.raises(DataError, match="contains neither data/data_miniature nor"):
        ManhattanDays.open(tmp_path, miniature_scenario())
    with pytest.raises(DataError, match="does not replay Manhattan"):
        ManhattanDays.open(tmp_path, load_scenario("geneva"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("pickup_time,pickup_ID\n1,2\n", "lacks the column 'dropoff_ID'"),
        ("pickup_time,pickup_ID,dropoff_ID\n1,2\n", "line 2: too few fields"),
        ("pickup_time,pickup_ID,dropoff_ID\n5,0,1\nnan,0,1\n", "line 3: pickup_time is 'nan'"),
        ("pickup_time,pickup_ID,dropoff_ID\n3600,0,1\n", "line 2: pickup_time 3600 lies outside"),
        ("pickup_time,pickup_ID,dropoff_ID\n5,4,1\n", "line 2: pickup_ID 4 is no zone of 0..3"),
        ("pickup_time,pickup_ID,dropoff_ID\n5,x,1\n", "line 2: pickup_ID is 'x', not a number"),
    ],
)
def test_a_malformed_trip_names_file_line_and_field(root, content, message):
    days = days_of(root)
    label = days.labels(Split.TRAIN)[0]
    trips(root, label).write_text(content)
    with pytest.raises(DataError, match=message):
        days.day(label)


def test_a_graph_with_a_missing_pair_is_refused(root):
    path = root / "data" / "data_miniature" / "graph(dt_60s).csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(DataError, match="no line from zone 3 to zone 2"):
        days_of(root)
