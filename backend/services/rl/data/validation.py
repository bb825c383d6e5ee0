"""Every booking is either kept or rejected for a named reason; nothing is dropped silently.

Checks run on whole columns (200,000 bookings in a few seconds); a row is rejected for the first
reason that applies. Sentences about a row quote numbers only, never text of the source: in a
shifted row the text under ``pickup_lat`` may be a patient's name.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from services.rl.errors import DataError
from services.rl.simulation.travel import EARTH_RADIUS_KM
from services.rl.simulation.types import NEVER, BoolArray, FloatArray, IntArray

from .coercion import Times, flags, missing, numbers, texts, times
from .history import RawHistory

FAR_KM = 200.0
"""A point further than this from the median point of the history is not one of its places."""

SAME_PLACE_KM = 0.01
BACKDATED_MIN = 60.0
"""A booking entered up to this long after its time is late paperwork; later, it is nonsense."""

LONGEST_TRIP_MIN = 360.0
LONGEST_DELAY_MIN = 720.0
LONGEST_SERVICE_MIN = 180.0
DEFAULT_PRIORITY = 3


class NoHistoryError(DataError):
    """Nothing is wrong with the source, but it holds no booking that can be used."""


class Reason(StrEnum):
    """Why a row was rejected."""

    MALFORMED = "malformed_row"
    MISSING = "missing_field"
    NOT_A_NUMBER = "not_a_number"
    BAD_FLAG = "not_yes_or_no"
    BAD_TIME = "not_a_time"
    NO_ZONE = "time_without_zone"
    OTHER_COMPANY = "other_company"
    SWAPPED = "swapped_coordinates"
    OUT_OF_RANGE = "coordinate_out_of_range"
    FAR = "far_from_everything"
    SAME_PLACE = "pickup_is_dropoff"
    PRIORITY = "unknown_priority"
    SERVICE = "implausible_service_time"
    SCHEDULED_EARLY = "scheduled_before_created"
    CANCELLED_UNKNOWN = "cancelled_at_unknown_time"
    CANCELLED_EARLY = "cancelled_before_created"
    CANCELLED_LATE = "cancelled_after_pickup"
    NO_PICKUP = "dropoff_without_pickup"
    DROPOFF_EARLY = "dropoff_before_pickup"
    TRIP = "implausible_trip_time"
    DELAY = "pickup_far_from_schedule"
    DUPLICATE = "duplicate_id"
    OUTSIDE_PERIOD = "outside_period"
    OUTSIDE_DAY = "outside_operating_day"
    BAD_SHIFT = "not_a_shift"


HISTORY_DTYPE = np.dtype(
    [
        ("row", "i8"),  # row of the raw history
        ("scheduled_s", "f8"),  # seconds since 1970 UTC, as all instants here
        ("created_s", "f8"),
        ("cancelled_s", "f8"),  # inf: never
        ("pickup_s", "f8"),  # actual; NaN: not served, or not recorded
        ("dropoff_s", "f8"),
        ("pickup_lat", "f8"),
        ("pickup_lon", "f8"),
        ("dropoff_lat", "f8"),
        ("dropoff_lon", "f8"),
        ("priority", "i8"),
        ("urgent", "?"),
        ("wheelchair", "?"),
        ("is_return", "?"),
        ("pickup_service_min", "f8"),  # NaN: not recorded
        ("dropoff_service_min", "f8"),
        ("driver", "i8"),  # index into `History.driver_keys`; -1: nobody
    ]
)
"""One clean booking of a history."""


@dataclass
class Rejections:
    """Which rows were rejected, why, and in which words."""

    total: int
    entries: dict[int, tuple[Reason, str]] = field(default_factory=dict)
    drivers: list[tuple[str, Reason, str]] = field(default_factory=list)

    def reject(self, rows: IntArray, reason: Reason, say: Callable[[int], str]) -> None:
        """Reject rows that are still kept; ``say`` gives the sentence of a row."""
        for row in rows.tolist():
            if row not in self.entries:
                self.entries[row] = (reason, say(row))

    def kept(self) -> BoolArray:
        """``(total,)`` mask of the rows not rejected."""
        mask = np.ones(self.total, dtype=np.bool_)
        mask[list(self.entries)] = False
        return mask

    def counts(self) -> dict[str, int]:
        """Rejected bookings by reason, most frequent first."""
        count: dict[str, int] = {}
        for reason, _ in self.entries.values():
            count[reason.value] = count.get(reason.value, 0) + 1
        return dict(sorted(count.items(), key=lambda item: (-item[1], item[0])))


@dataclass
class History:
    """Validated bookings of one company.

    Attributes:
        bookings: ``(B,)`` of `HISTORY_DTYPE`, in source order.
        driver_keys: The source's ids of drivers seen in assignments.
        rejections: What was rejected so far; building days may add to it.
        defaulted: Field → bookings that lacked it and got the documented default.
    """

    bookings: npt.NDArray[np.void]
    driver_keys: tuple[str, ...]
    rejections: Rejections
    defaulted: dict[str, int]


def validate(raw: RawHistory, company_id: str | None = None) -> History:
    """Check every booking.

    Raises:
        DataError: If there is no booking, none is valid, times are mixed in a CSV, or several
            companies are in it and none was chosen.
    """
    if len(raw) == 0:
        raise NoHistoryError(f"{raw.source}: the history is empty; there is no booking to read")
    checks = _Checks(raw)
    checks.malformed()
    checks.company(company_id)
    checks.required()
    checks.zones()
    checks.values()
    checks.coordinates()
    checks.chronology()
    checks.duplicates()
    history = checks.history()
    if len(history.bookings) == 0:
        raise NoHistoryError(no_valid_booking(raw.source, history.rejections))
    return history


def no_valid_booking(source: str, rejections: Rejections) -> str:
    """The sentence for a history of which nothing is left."""
    why = ", ".join(f"{reason} {count}" for reason, count in rejections.counts().items())
    return f"{source}: none of the {rejections.total} bookings is valid ({why})"


_TIME_FIELDS = (
    "scheduled_time",
    "created_at",
    "cancelled_at",
    "actual_pickup_at",
    "actual_dropoff_at",
)
_POINTS = ("pickup_lat", "pickup_lon", "dropoff_lat", "dropoff_lon")
_REQUIRED_VALUES = ("id", *_POINTS, "scheduled_time", "created_at")
_PLAIN_ID = re.compile(r"(?=.*\d)[A-Za-z0-9_\-]{1,64}")


def shown_id(value: Any) -> str:
    """A row's id if it looks like one; empty otherwise (it might be a name)."""
    text = "" if value is None else str(value).strip()
    return text if _PLAIN_ID.fullmatch(text) else ""


class _Checks:
    """One pass of checks over a raw history; each method rejects what it finds."""

    def __init__(self, raw: RawHistory) -> None:
        self.raw = raw
        self.n = len(raw)
        self.rejections = Rejections(self.n)
        self.nothing: list[Any] = [None] * self.n
        zone = ZoneInfo(raw.naive_times)
        self.time: dict[str, Times] = {
            name: times(self.column(name), zone) for name in _TIME_FIELDS
        }
        self.number: dict[str, FloatArray] = {}
        self.flag: dict[str, BoolArray] = {}
        self.defaulted: dict[str, int] = {}

    def column(self, name: str) -> list[Any]:
        return self.raw.columns.get(name, self.nothing)

    def reject(self, mask: BoolArray, reason: Reason, say: str | Callable[[int], str]) -> None:
        sentence = say if callable(say) else lambda _row, text=say: text
        self.rejections.reject(np.flatnonzero(mask), reason, sentence)

    def malformed(self) -> None:
        rows = np.array(sorted(self.raw.malformed), dtype=np.int64)
        self.rejections.reject(rows, Reason.MALFORMED, self.raw.malformed.__getitem__)

    def company(self, company_id: str | None) -> None:
        if "company_id" not in self.raw.columns:
            if company_id is not None:
                raise DataError(f"{self.raw.source}: --company-id given, but it has no company_id")
            return
        of = texts(self.column("company_id"))
        if company_id is not None:
            others = np.array([company != company_id for company in of], dtype=np.bool_)
            self.reject(others, Reason.OTHER_COMPANY, "the booking is another company's")
            return
        companies = sorted(set(of) - {""})
        if len(companies) > 1:
            listed = ", ".join(shown_id(c) or "?" for c in companies[:5])
            raise DataError(
                f"{self.raw.source}: bookings of {len(companies)} companies ({listed}); "
                "choose one with --company-id"
            )

    def required(self) -> None:
        for name in _REQUIRED_VALUES:
            self.reject(missing(self.column(name)), Reason.MISSING, f"{name} is missing")

    def zones(self) -> None:
        """Times without a zone are ambiguous as soon as others have one.

        A file is written by one program: mixing there is a fault of the whole file. In a database
        each column has its own type; only rows that differ from others of the column are
        ambiguous.
        """
        kept = self.rejections.kept()
        zoned = np.stack([column.zoned & kept for column in self.time.values()])
        naive = np.stack([column.naive & kept for column in self.time.values()])
        if self.raw.mixed_times_are_fatal and zoned.any() and naive.any():
            without, with_ = (self.raw.where[int(np.argmax(m.any(axis=0)))] for m in (naive, zoned))
            raise DataError(
                f"{self.raw.source}: mixed time zones: {without} has a time without a zone, "
                f"{with_} one with; write all times with a zone, or none"
            )
        for name, has, has_not in zip(self.time, zoned, naive, strict=True):
            if has.any():
                self.reject(has_not, Reason.NO_ZONE, f"{name} has no zone while others have one")

    def values(self) -> None:
        for name, column in self.time.items():
            self.reject(column.unusable, Reason.BAD_TIME, f"{name} is no date and time that exists")
        for name in (*_POINTS, "pickup_service_min", "dropoff_service_min", "priority"):
            self.number[name], unusable = numbers(self.column(name))
            if name == "priority":
                self.reject(unusable, Reason.PRIORITY, "priority is not one of 1 to 5")
            else:
                self.reject(unusable, Reason.NOT_A_NUMBER, f"{name} is no finite number")
        for name in ("is_urgent", "wheelchair_need", "is_return"):
            self.flag[name], unusable = flags(self.column(name))
            self.reject(unusable, Reason.BAD_FLAG, f"{name} is neither yes nor no")
        priority = self.number["priority"]
        known = np.isnan(priority) | np.isin(priority, [1, 2, 3, 4, 5])
        self.reject(
            ~known, Reason.PRIORITY, lambda row: f"priority {priority[row]:g} is not one of 1 to 5"
        )
        for name in ("pickup_service_min", "dropoff_service_min"):
            value = self.number[name]
            self.reject(
                (value < 0) | (value > LONGEST_SERVICE_MIN),
                Reason.SERVICE,
                lambda row, name=name, value=value: f"{name} is {value[row]:g} minutes",  # type: ignore[misc]
            )

    def coordinates(self) -> None:
        """Out of range, swapped, or nowhere near the rest of the history."""
        lat = {end: self.number[f"{end}_lat"] for end in ("pickup", "dropoff")}
        lon = {end: self.number[f"{end}_lon"] for end in ("pickup", "dropoff")}
        candidates = self.rejections.kept()
        for end in lat:
            candidates &= _in_range(lat[end], lon[end])
        if not candidates.any():
            middle = (np.nan, np.nan)
        else:
            middle = (
                float(np.median(np.concatenate([lat[end][candidates] for end in lat]))),
                float(np.median(np.concatenate([lon[end][candidates] for end in lon]))),
            )
        for end in lat:
            near = _in_range(lat[end], lon[end]) & (
                great_circle(lat[end], lon[end], *middle) <= FAR_KM
            )
            near_if_swapped = _in_range(lon[end], lat[end]) & (
                great_circle(lon[end], lat[end], *middle) <= FAR_KM
            )
            self.reject(
                ~near & near_if_swapped,
                Reason.SWAPPED,
                f"{end}_lat and {end}_lon look swapped: exchanged, the point lies among the others",
            )
            self.reject(
                ~_in_range(lat[end], lon[end]),
                Reason.OUT_OF_RANGE,
                lambda row, end=end: (  # type: ignore[misc]
                    f"{end} ({lat[end][row]:g}, {lon[end][row]:g}) is no latitude and longitude"
                ),
            )
            self.reject(
                ~near,
                Reason.FAR,
                lambda row, end=end: (  # type: ignore[misc]
                    f"{end} ({lat[end][row]:.3f}, {lon[end][row]:.3f}) is more than {FAR_KM:g} km "
                    "from the middle of the history"
                ),
            )
        length = great_circle(lat["pickup"], lon["pickup"], lat["dropoff"], lon["dropoff"])
        self.reject(length < SAME_PLACE_KM, Reason.SAME_PLACE, "pickup and dropoff are one place")

    def chronology(self) -> None:
        """Times that contradict each other."""
        minutes = {name: column.utc_s / 60.0 for name, column in self.time.items()}
        scheduled, created = minutes["scheduled_time"], minutes["created_at"]
        cancelled, pickup = minutes["cancelled_at"], minutes["actual_pickup_at"]
        dropoff = minutes["actual_dropoff_at"]
        called_off = np.array(
            [word.lower().startswith(("cancel", "annul")) for word in texts(self.column("status"))],
            dtype=np.bool_,
        )
        checks: list[tuple[BoolArray, Reason, str]] = [
            (
                scheduled < created - BACKDATED_MIN,
                Reason.SCHEDULED_EARLY,
                f"created more than {BACKDATED_MIN:g} minutes after its scheduled time",
            ),
            (
                called_off & np.isnan(cancelled),
                Reason.CANCELLED_UNKNOWN,
                "the status says cancelled, but cancelled_at is missing",
            ),
            (cancelled < created - 1, Reason.CANCELLED_EARLY, "cancelled before it was created"),
            (cancelled > pickup, Reason.CANCELLED_LATE, "cancelled after the actual pickup"),
            (
                np.isnan(pickup) & ~np.isnan(dropoff),
                Reason.NO_PICKUP,
                "an actual dropoff, but no actual pickup",
            ),
            (dropoff < pickup, Reason.DROPOFF_EARLY, "the actual dropoff is before the pickup"),
            (
                dropoff > pickup + LONGEST_TRIP_MIN,
                Reason.TRIP,
                f"more than {LONGEST_TRIP_MIN:g} minutes from pickup to dropoff",
            ),
            (
                np.abs(pickup - scheduled) > LONGEST_DELAY_MIN,
                Reason.DELAY,
                f"the actual pickup is more than {LONGEST_DELAY_MIN:g} minutes from the schedule",
            ),
        ]
        with np.errstate(invalid="ignore"):
            for mask, reason, sentence in checks:
                self.reject(mask, reason, sentence)

    def duplicates(self) -> None:
        """Of several valid bookings with one id the first is kept."""
        ids = texts(self.column("id"))
        first: dict[str, int] = {}
        again = [
            row
            for row in np.flatnonzero(self.rejections.kept()).tolist()
            if first.setdefault(ids[row], row) != row
        ]
        self.rejections.reject(
            np.array(again, dtype=np.int64),
            Reason.DUPLICATE,
            lambda row: f"the id was used before, in {self.raw.where[first[ids[row]]]}",
        )

    def history(self) -> History:
        """The rows that are left, as one structured array."""
        kept = np.flatnonzero(self.rejections.kept())
        bookings = np.zeros(len(kept), dtype=HISTORY_DTYPE)
        of_all = texts(self.column("driver_id"))
        keys = [of_all[row] for row in kept.tolist()]
        driver_keys = sorted(set(keys) - {""})
        lookup = {"": -1, **{key: i for i, key in enumerate(driver_keys)}}
        bookings["row"] = kept
        for target, source in (
            ("scheduled_s", "scheduled_time"),
            ("created_s", "created_at"),
            ("cancelled_s", "cancelled_at"),
            ("pickup_s", "actual_pickup_at"),
            ("dropoff_s", "actual_dropoff_at"),
        ):
            bookings[target] = self.time[source].utc_s[kept]
        bookings["cancelled_s"][np.isnan(bookings["cancelled_s"])] = NEVER
        for name in (*_POINTS, "pickup_service_min", "dropoff_service_min"):
            bookings[name] = self.number[name][kept]
        priority = self.number["priority"][kept]
        bookings["priority"] = np.where(np.isnan(priority), DEFAULT_PRIORITY, priority)
        bookings["urgent"] = self.flag["is_urgent"][kept]
        bookings["wheelchair"] = self.flag["wheelchair_need"][kept]
        bookings["is_return"] = self.flag["is_return"][kept]
        bookings["driver"] = [lookup[key] for key in keys]
        optional = (
            "priority",
            "is_urgent",
            "wheelchair_need",
            "is_return",
            "pickup_service_min",
            "dropoff_service_min",
        )
        for name in optional:
            if count := int(missing(self.column(name))[kept].sum()):
                self.defaulted[name] = count
        return History(bookings, tuple(driver_keys), self.rejections, self.defaulted)


def _in_range(lat: FloatArray, lon: FloatArray) -> BoolArray:
    inside: BoolArray = (np.abs(lat) <= 90) & (np.abs(lon) <= 180)
    return inside


def great_circle(
    lat_a: npt.ArrayLike, lon_a: npt.ArrayLike, lat_b: npt.ArrayLike, lon_b: npt.ArrayLike
) -> FloatArray:
    """Haversine kilometres between degrees, elementwise; NaN in, NaN out."""
    phi_a, lam_a, phi_b, lam_b = (
        np.radians(np.asarray(v, dtype=np.float64)) for v in (lat_a, lon_a, lat_b, lon_b)
    )
    chord = (
        np.sin((phi_b - phi_a) / 2) ** 2
        + np.cos(phi_a) * np.cos(phi_b) * np.sin((lam_b - lam_a) / 2) ** 2
    )
    km: FloatArray = 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.minimum(chord, 1.0)))
    return km
