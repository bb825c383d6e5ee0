"""CSV files, good and bad."""

import csv
from pathlib import Path

import pytest

from services.rl.data.columns import ColumnMapping, load_mapping
from services.rl.data.history import read_csv
from services.rl.data.validation import validate
from services.rl.errors import DataError

ZURICH = "Europe/Zurich"


def write(path: Path, table: list[dict], delimiter: str = ",", encoding: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=encoding) as stream:
        writer = csv.DictWriter(stream, list(table[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(table)
    return path


def test_a_swiss_export_with_semicolons_and_a_byte_order_mark_is_read(tmp_path, rows):
    for row in rows:
        row["scheduled_time"] = row["scheduled_time"].strftime("%d.%m.%Y %H:%M")
        row["created_at"] = row["created_at"].strftime("%d.%m.%Y %H:%M:%S")
        row["wheelchair_need"] = "oui"
    path = write(tmp_path / "export.csv", rows, ";", "utf-8-sig")
    history = validate(read_csv(path, ColumnMapping(), ZURICH))
    assert len(history.bookings) == 30
    assert history.bookings["wheelchair"].all()


def test_times_without_a_zone_are_local(tmp_path, rows):
    for row in rows:
        row["scheduled_time"] = row["scheduled_time"].strftime("%Y-%m-%dT%H:%M")
        row["created_at"] = row["created_at"].strftime("%Y-%m-%dT%H:%M")
    path = write(tmp_path / "local.csv", rows)
    local = validate(read_csv(path, ColumnMapping(), ZURICH)).bookings["scheduled_s"]
    utc = validate(read_csv(path, ColumnMapping(), "UTC")).bookings["scheduled_s"]
    assert (utc - local == 3600).all()  # winter


def test_mixed_time_zones_are_one_clear_sentence(tmp_path, rows):
    rows[4]["scheduled_time"] = "2025-03-03 09:00"
    with pytest.raises(DataError, match="mixed time zones: line 6 has a time without a zone"):
        validate(read_csv(write(tmp_path / "mixed.csv", rows), ColumnMapping(), ZURICH))


def test_offsets_may_differ(tmp_path, rows):
    rows[4]["scheduled_time"] = "2025-03-03T10:00:00+02:00"
    rows[5]["scheduled_time"] = "2025-03-03T08:00:00Z"
    history = validate(read_csv(write(tmp_path / "offsets.csv", rows), ColumnMapping(), ZURICH))
    assert history.bookings["scheduled_s"][4] == history.bookings["scheduled_s"][5]


def test_a_missing_required_column_is_named(tmp_path, rows):
    for row in rows:
        del row["dropoff_lat"]
    with pytest.raises(DataError, match=r"no column for the required field 'dropoff_lat'"):
        read_csv(write(tmp_path / "short.csv", rows), ColumnMapping(), ZURICH)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (
            b"id,pickup_lat,pickup_lon,dropoff_lat,dropoff_lon,scheduled_time,created_at\n",
            "no book",
        ),
        (b"id,id,pickup_lat\n1,1,2\n", "'id' twice"),
        (b"\xff\xfe\x00i", "UTF-8"),
    ],
)
def test_a_file_that_is_no_history_is_one_sentence(tmp_path, content, words):
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_csv(path, ColumnMapping(), ZURICH)


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_csv(tmp_path / "none.csv", ColumnMapping(), ZURICH)


def test_a_shifted_line_is_rejected_with_its_line_number(tmp_path, rows):
    path = write(tmp_path / "shifted.csv", rows)
    lines = path.read_text().splitlines()
    lines[3] = lines[3] + ",Mme Dupont"
    lines.insert(10, "")
    path.write_text("\n".join(lines))
    raw = read_csv(path, ColumnMapping(), ZURICH)
    history = validate(raw)
    assert [raw.where[row] for row in history.rejections.entries] == ["line 4"]
    assert history.rejections.counts() == {"malformed_row": 1}
    assert len(raw) == 30


def test_columns_that_are_not_ours_are_not_kept(tmp_path, rows):
    for row in rows:
        row["customer_name"] = "Mme Dupont"
    raw = read_csv(write(tmp_path / "names.csv", rows), ColumnMapping(), ZURICH)
    assert "customer_name" not in raw.columns
    assert "Dupont" not in repr(raw)


def test_a_mapping_adapts_another_schema(tmp_path, rows):
    renamed = [
        {{"id": "reservation_no", "pickup_lat": "depart_lat"}.get(k, k): v for k, v in row.items()}
        for row in rows
    ]
    mapping = tmp_path / "columns.yaml"
    mapping.write_text("booking: {id: reservation_no, pickup_lat: depart_lat, priority: null}\n")
    raw = read_csv(write(tmp_path / "other.csv", renamed), load_mapping(mapping), ZURICH)
    history = validate(raw)
    assert len(history.bookings) == 30
    assert history.defaulted["priority"] == 30


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("booking: {id: nowhere}", "booking.id is mapped to 'nowhere'"),
        ("booking: {patient_name: name}", "no field 'patient_name'"),
        ("bookings: {}", "unknown entry 'bookings'"),
        ("booking: {id: 7}", "booking.id must be a name"),
        ("[1, 2]", "must be a mapping"),
        ("a: [", "not YAML"),
        ("naive_times: Mars/Base", "unknown time zone"),
    ],
)
def test_a_faulty_mapping_names_its_entry(tmp_path, rows, text, words):
    mapping = tmp_path / "columns.yaml"
    mapping.write_text(text)
    path = write(tmp_path / "trips.csv", rows)
    with pytest.raises(DataError, match=words):
        read_csv(path, load_mapping(mapping), ZURICH)
