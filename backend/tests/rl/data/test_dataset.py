"""The data set on disk: complete, checked by hash, free of names."""

import json

import numpy as np
import pytest

from services.rl.data.building import DayRules, build_days
from services.rl.data.dataset import HistoryDays
from services.rl.data.history import from_rows
from services.rl.data.roster import known_drivers
from services.rl.data.validation import validate
from services.rl.errors import DataError
from services.rl.simulation.days import DaySource
from services.rl.simulation.scenarios import Split
from services.rl.simulation.types import BOOKING_DTYPE, DRIVER_DTYPE


@pytest.fixture
def history(rows):
    raw = from_rows(rows)
    valid = validate(raw)
    return build_days(
        valid, known_drivers(raw, valid, None), DayRules(), name="small", source="rows"
    )


def test_what_is_written_is_read_back(history, tmp_path):
    sha256 = history.write(tmp_path)
    again = HistoryDays.open(tmp_path, sha256)
    assert again.dates == history.dates
    for label in history.dates:
        written, read = history.day(label), again.day(label)
        assert read.bookings.dtype == BOOKING_DTYPE
        assert read.drivers.dtype == DRIVER_DTYPE
        assert written.bookings.tobytes() == read.bookings.tobytes()
        assert written.drivers.tobytes() == read.drivers.tobytes()
        assert history.outcome(label).tobytes() == again.outcome(label).tobytes()


def test_the_hash_depends_on_content_alone(history, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert history.write(tmp_path / "a") == history.write(tmp_path / "b")


def test_it_is_a_day_source(collected):
    source: DaySource = HistoryDays.open(collected.folder)
    for split in Split:
        for label in source.labels(split):
            day = source.day(label)
            assert day.label == label
            assert (np.diff(day.bookings["created_min"]) >= 0).all()
            assert len(day.drivers) > 0


def test_a_policy_cannot_change_the_day_of_another(collected):
    history = HistoryDays.open(collected.folder)
    label = history.dates[0]
    history.day(label).bookings["priority"][:] = 99
    assert history.day(label).bookings["priority"].max() <= 5


def test_splits_share_no_day_and_follow_the_calendar(collected):
    history = HistoryDays.open(collected.folder)
    train, validation, test = (list(history.labels(split)) for split in Split)
    assert train[-1] < validation[0] <= validation[-1] < test[0]
    assert train + validation + test == list(history.dates)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "dataset.json").unlink(), "is no data set"),
        (lambda f: (f / "dataset.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "dataset.json").write_text('{"schema": 99}'), "another schema"),
        (lambda f: (f / "days.npz").unlink(), "cannot be read"),
        (lambda f: (f / "days.npz").write_bytes(b"PK"), "is not the file"),
    ],
)
def test_a_damaged_data_set_is_one_sentence(history, tmp_path, damage, words):
    history.write(tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=words):
        HistoryDays.open(tmp_path)


def test_a_damaged_archive_with_a_matching_hash_is_one_sentence(history, tmp_path):
    import hashlib

    history.write(tmp_path)
    (tmp_path / "days.npz").write_bytes(b"PK\x03\x04 broken")
    description = json.loads((tmp_path / "dataset.json").read_text())
    description["days_sha256"] = hashlib.sha256(b"PK\x03\x04 broken").hexdigest()
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(DataError, match="cannot be read"):
        HistoryDays.open(tmp_path)


def test_a_data_set_with_other_fields_is_one_sentence(history, tmp_path):
    from dataclasses import replace
    from typing import cast

    names = [name for name in cast(tuple[str, ...], BOOKING_DTYPE.names) if name != "fare"]
    replace(history, bookings=history.bookings[names].copy()).write(tmp_path)
    with pytest.raises(DataError, match="bookings has other fields"):
        HistoryDays.open(tmp_path)


def test_another_data_set_than_the_scenarios_is_refused(history, tmp_path):
    history.write(tmp_path)
    with pytest.raises(DataError, match="not the data set"):
        HistoryDays.open(tmp_path, "0" * 64)


def test_an_unknown_date_is_one_sentence(history):
    with pytest.raises(DataError, match="no day '2001-01-01'"):
        history.day("2001-01-01")
