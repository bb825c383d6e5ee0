"""Scenarios: place + travel + demand + fleet + rules + reward weights, as YAML.

``load_scenario("geneva")`` finds a built-in one, ``load_scenario("my.yaml")`` a file. A file may
say ``extends: geneva`` and give only what differs. The hash of a scenario names it in every
result, so that figures of different worlds are never compared by accident.
"""

import hashlib
import json
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from services.rl.errors import ScenarioError

from .demand import QUANTILES, DemandModel


class Split(StrEnum):
    """Disjoint sets of days: what is fitted, what is chosen by, what is reported."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


FIRST_SEED = {Split.TRAIN: 0, Split.VALIDATION: 1_000_000, Split.TEST: 2_000_000}
"""A synthetic day is a seed; a split is a million of them."""

SEEDS_PER_SPLIT = 1_000_000


def gate_seed(date_ordinal: int, day: int = 0) -> int:
    """Seed of the ``day``-th gate day of a date: fresh every night, outside all splits."""
    return 3_000_000 + 1_000 * date_ordinal + day


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Coordinates(_Model):
    """A point on Earth, WGS-84 degrees."""

    lat: float = Field(ge=-90, le=90)
    lon: float = Field(ge=-180, le=180)


class Site(Coordinates):
    """A place where trips begin or end."""

    name: str
    kind: Literal["hospital", "clinic", "care_home", "residential", "zone"]  # zone: fitted
    weight: float = Field(default=1.0, gt=0)
    spread_km: float = Field(default=0.05, ge=0, le=20)


class Place(_Model):
    """Geography: a base (depot) and the sites of demand."""

    name: str
    timezone: str = "Europe/Zurich"
    base: Coordinates
    sites: tuple[Site, ...] = ()

    @field_validator("timezone")
    @classmethod
    def _known_timezone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"unknown time zone {value!r}") from error
        return value


class HaversineTravel(_Model):
    """Great-circle distance times circuity, at a speed that depends on the hour of departure.

    Times integrate the speed profile (Ichoua, Gendreau, Potvin 2003), so leaving later never
    arrives earlier.
    """

    kind: Literal["haversine"] = "haversine"
    circuity: float = Field(default=1.35, ge=1, le=5)
    speed_kmh: tuple[float, ...] = Field(min_length=24, max_length=24)

    @field_validator("speed_kmh")
    @classmethod
    def _positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 1 <= v <= 200 for v in value):
            raise ValueError("each hourly speed must lie in 1..200 km/h")
        return value


class MatrixTravel(_Model):
    """Zone-to-zone minutes and metres, given by the demand's data folder."""

    kind: Literal["matrix"] = "matrix"


class TripFlow(_Model):
    """Share of a stream's trips from one kind of site to another."""

    origin: Literal["hospital", "clinic", "care_home", "residential"]
    destination: Literal["hospital", "clinic", "care_home", "residential"]
    share: float = Field(gt=0)


class Stream(_Model):
    """One kind of trip of a hand-written demand; see `DemandModel`."""

    name: str
    share: float = Field(gt=0)
    is_return: bool = False
    flows: tuple[TripFlow, ...] = Field(min_length=1)
    hourly_share: dict[int, float]
    immediate_share: float = Field(ge=0, le=1)
    lead_min: tuple[float, float, float]  # shortest, median, longest lead of the pre-booked
    priority_share: tuple[float, float, float, float, float]
    wheelchair_share: float = Field(ge=0, le=1)
    pickup_service_min: tuple[float, float]
    dropoff_service_min: tuple[float, float]


class SyntheticDemand(_Model):
    """Demand written by hand over the place's sites.

    ``last_promise_before_end_min`` keeps the last promises servable within the day.
    """

    kind: Literal["synthetic"] = "synthetic"
    bookings_per_day: float = Field(ge=0, le=20_000)
    bookings_cv: float = Field(default=0.1, ge=0, le=1)
    last_promise_before_end_min: float = Field(default=30, ge=0)
    streams: tuple[Stream, ...] = Field(min_length=1)


class FittedDemand(_Model):
    """Demand fitted to a company's history (a saved `DemandModel`).

    In a YAML file ``model`` is relative to the file's folder; once loaded it is absolute.
    """

    kind: Literal["fitted"] = "fitted"
    model: str
    model_sha256: str
    bookings_per_day: float | None = Field(default=None, ge=0, le=20_000)


class ReplayDemand(_Model):
    """Real days of a data set made by ``collect_historical_data.py``, split by calendar.

    In a YAML file ``dataset`` (a folder) is relative to the file's folder; once loaded it is
    absolute. The hash is that of the folder's ``days.npz``.
    """

    kind: Literal["replay"] = "replay"
    dataset: str
    dataset_sha256: str


class ManhattanDemand(_Model):
    """Real Manhattan requests of 2015 from a data folder (``--data-dir`` or ``ATMR_DATA_DIR``)."""

    kind: Literal["manhattan"] = "manhattan"
    folder: str
    max_requests_per_minute: int = Field(gt=0)


Demand = Annotated[
    SyntheticDemand | FittedDemand | ReplayDemand | ManhattanDemand, Field(discriminator="kind")
]


class DriverPattern(_Model):
    """A kind of driver; the fleet repeats the patterns in order."""

    shift_start_min: float = 0
    shift_end_min: float | None = None  # None: the end of the day
    wheelchair: bool = False
    emergency: bool = False
    start: str | None = None  # a site's name; None: the base


class Fleet(_Model):
    """Drivers with vehicles."""

    num_drivers: int = Field(gt=0, le=2_000)
    patterns: tuple[DriverPattern, ...] = Field(default=(DriverPattern(),), min_length=1)


class Rules(_Model):
    """What is allowed, and how the day runs (minutes)."""

    day_start: str = "08:00"
    horizon_min: float = Field(default=480, gt=0, le=1440)
    epoch_min: float = Field(default=5, gt=0, le=120)
    window_min: float = Field(default=15, ge=0)
    grace_min: float = Field(default=15, ge=0)
    on_time_min: float = Field(default=15, ge=0)
    queue: int = Field(default=1, ge=0, le=3)  # jobs behind the one in progress
    overtime_min: float = Field(default=30, ge=0)  # work may end this long after the shift
    decide_once: bool = False  # an open booking is lost when the next epoch begins
    emergency_min_priority: int = Field(default=4, ge=1, le=5)
    no_show_wait_min: float = Field(default=10, ge=0)

    @field_validator("day_start")
    @classmethod
    def _clock_time(cls, value: str) -> str:
        hours, _, minutes = value.partition(":")
        if not (hours.isdigit() and minutes.isdigit() and int(hours) < 24 and int(minutes) < 60):
            raise ValueError(f"day_start {value!r} is not HH:MM")
        return value

    @property
    def day_start_min(self) -> int:
        """Minutes after midnight."""
        hours, _, minutes = self.day_start.partition(":")
        return 60 * int(hours) + int(minutes)


class Disturbances(_Model):
    """What goes wrong, drawn with the day; off by default."""

    travel_noise_cv: float = Field(default=0, ge=0, le=1)  # log-normal factor on travel times
    no_show_share: float = Field(default=0, ge=0, le=1)
    late_cancellation_share: float = Field(default=0, ge=0, le=1)
    breakdowns_per_driver_day: float = Field(default=0, ge=0, le=1)
    breakdown_min: float = Field(default=60, ge=0)


class RewardWeights(_Model):
    """Weights of the reward terms; see ``reward.py`` for what each multiplies."""

    completion: float = 10.0
    priority: tuple[float, float, float, float, float] = (0.8, 1.0, 1.2, 1.4, 1.6)
    late_per_min: float = Field(default=0.3, ge=0)
    deadhead_per_km: float = Field(default=0.5, ge=0)
    loaded_per_km: float = Field(default=0.0, ge=0)
    cancellation: float = Field(default=10.0, ge=0)
    invalid_action: float = Field(default=1.0, ge=0)
    balance: float = 0.0
    idle_per_min: float = 0.0


class Scenario(_Model):
    """A complete world, minus the day's luck and the dispatcher's decisions."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,80}$")
    description: str = ""
    place: Place
    travel: HaversineTravel | MatrixTravel = Field(discriminator="kind")
    demand: Demand
    fleet: Fleet
    rules: Rules = Rules()
    disturbances: Disturbances = Disturbances()
    reward: RewardWeights = RewardWeights()

    @model_validator(mode="after")
    def _consistent(self) -> "Scenario":
        names = {site.name for site in self.place.sites}
        for pattern in self.fleet.patterns:
            if pattern.start is not None and pattern.start not in names:
                raise ValueError(f"fleet: start {pattern.start!r} is no site of the place")
            end = self.rules.horizon_min if pattern.shift_end_min is None else pattern.shift_end_min
            if end <= pattern.shift_start_min:
                raise ValueError("fleet: a shift ends before it starts")
        if isinstance(self.demand, SyntheticDemand):
            kinds = {site.kind for site in self.place.sites}
            for stream in self.demand.streams:
                for flow in stream.flows:
                    missing = {flow.origin, flow.destination} - kinds
                    if missing:
                        raise ValueError(f"demand: stream {stream.name!r} needs a {missing} site")
        if isinstance(self.travel, MatrixTravel) != isinstance(self.demand, ManhattanDemand):
            raise ValueError("travel: zone matrices come with manhattan demand, and only with it")
        return self

    @property
    def sha256(self) -> str:
        """Hash of everything that shapes a day (the description left out).

        Fitted models and data sets count by their content, not by where they lie: the same
        world on another machine has the same hash.
        """
        raw = self.model_dump(mode="json", exclude={"description"})
        for name in _PATH_FIELDS:
            raw["demand"].pop(name, None)
        return _sha256(raw)

    @property
    def num_epochs(self) -> int:
        """Decision epochs of a day."""
        return int(np.ceil(self.rules.horizon_min / self.rules.epoch_min - 1e-9))

    def resized(
        self,
        num_drivers: int | None = None,
        bookings_per_day: float | None = None,
        horizon_min: float | None = None,
    ) -> "Scenario":
        """The same world with another fleet or day length.

        Unless ``bookings_per_day`` is given, demand keeps its ratio to driver hours, so that a
        smaller fleet is not simply drowned.
        """
        drivers = self.fleet.num_drivers if num_drivers is None else num_drivers
        horizon = self.rules.horizon_min if horizon_min is None else horizon_min
        if drivers < 1:
            raise ScenarioError(f"num_drivers must be at least 1, got {drivers}")
        if not 0 < horizon <= 1440:
            raise ScenarioError(f"the day must last 0..24 hours, got {horizon / 60:g}")
        unchanged = drivers == self.fleet.num_drivers and horizon == self.rules.horizon_min
        if unchanged and bookings_per_day is None:
            return self
        raw = self.model_dump(mode="json")
        if isinstance(self.demand, SyntheticDemand):
            ratio = (drivers / self.fleet.num_drivers) * (horizon / self.rules.horizon_min)
            raw["demand"]["bookings_per_day"] = (
                self.demand.bookings_per_day * ratio
                if bookings_per_day is None
                else bookings_per_day
            )
        elif bookings_per_day is not None:
            if not isinstance(self.demand, FittedDemand):
                raise ScenarioError("bookings_per_day cannot change the number of real requests")
            raw["demand"]["bookings_per_day"] = bookings_per_day
        scale = horizon / self.rules.horizon_min
        for pattern in raw["fleet"]["patterns"]:
            pattern["shift_start_min"] *= scale
            if pattern["shift_end_min"] is not None:
                pattern["shift_end_min"] *= scale
        raw["fleet"]["num_drivers"] = drivers
        raw["rules"]["horizon_min"] = horizon
        changes = f"n{drivers}-h{horizon / 60:g}"
        if bookings_per_day is not None:
            changes += f"-b{bookings_per_day:g}"
        raw["name"] = f"{self.name}-{changes}"
        return parse_scenario(raw, source=f"scenario {self.name!r} resized")

    def demand_model(self) -> DemandModel:
        """The demand's arrays, for synthetic and fitted scenarios.

        Raises:
            ScenarioError: For replayed days, or when the model's file is not the one named.
        """
        if isinstance(self.demand, SyntheticDemand):
            return _synthetic_demand(self, self.demand)
        if isinstance(self.demand, FittedDemand):
            return _fitted_demand(self.demand)
        raise ScenarioError(f"scenario {self.name!r} replays real days; it has no demand model")


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- reading and writing -------------------------------------------------------------------


def scenario_names() -> list[str]:
    """Names of the built-in scenarios."""
    folder = resources.files(__package__) / "catalogue"
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in folder.iterdir()
        if entry.name.endswith(".yaml")
    )


def load_scenario(name_or_path: str | Path) -> Scenario:
    """Load a built-in scenario by name or a YAML file by path.

    Raises:
        ScenarioError: In one sentence that names the file and the field.
    """
    return parse_scenario(_raw(str(name_or_path), ()), source=str(name_or_path))


def parse_scenario(raw: Any, source: str) -> Scenario:
    """Validate a mapping as a scenario; ``source`` names it in errors."""
    try:
        return Scenario.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "scenario"
        message = first["msg"].removeprefix("Value error, ")
        raise ScenarioError(f"{source}: {where}: {message}") from error


def save_scenario(scenario: Scenario, path: Path) -> None:
    """Write a scenario as YAML, atomically.

    Files inside the YAML's folder are named relative to it, so that the folder can move.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    raw = scenario.model_dump(mode="json")
    folder = path.parent.resolve()
    for name in _PATH_FIELDS & raw["demand"].keys():
        target = Path(raw["demand"][name])
        if target.is_absolute() and target.is_relative_to(folder):
            raw["demand"][name] = target.relative_to(folder).as_posix()
    temporary.write_text(
        yaml.safe_dump(raw, sort_keys=False, allow_unicode=True, width=100), encoding="utf-8"
    )
    temporary.replace(path)


_PATH_FIELDS = frozenset({"model", "dataset"})
"""Fields of a demand that name a file or folder beside the scenario's YAML."""


def _anchored(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Resolve the demand's paths against the folder of the YAML file that gives them."""
    demand = raw.get("demand")
    if not isinstance(demand, dict):
        return raw
    anchored = {
        name: str((folder / value).resolve())
        for name, value in demand.items()
        if name in _PATH_FIELDS and isinstance(value, str)
    }
    return {**raw, "demand": {**demand, **anchored}}


def _raw(name: str, seen: tuple[str, ...]) -> dict[str, Any]:
    if name in seen:
        raise ScenarioError(f"{name}: extends itself ({' -> '.join((*seen, name))})")
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise ScenarioError(f"scenario file {name} does not exist")
        text = path.read_text(encoding="utf-8")
    else:
        entry = resources.files(__package__) / "catalogue" / f"{name}.yaml"
        if not name or "/" in name or not entry.is_file():
            known = ", ".join(scenario_names())
            raise ScenarioError(
                f"unknown scenario {name!r}: choose one of {known}, or give a .yaml file"
            )
        text = entry.read_text(encoding="utf-8")
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ScenarioError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ScenarioError(f"{name}: a scenario is a mapping of fields")
    if path.suffix in {".yaml", ".yml"}:
        raw = _anchored(raw, path.parent)
    fields: dict[str, Any] = raw
    parent = fields.pop("extends", None)
    if parent is None:
        return fields
    parent_path = path.parent / str(parent)
    known_parent = str(parent_path) if parent_path.suffix in {".yaml", ".yml"} else str(parent)
    return _merged(_raw(known_parent, (*seen, name)), fields)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = _merged(result[key], value)
        else:
            result[key] = value
    return result


# --- demand arrays -------------------------------------------------------------------------


def _synthetic_demand(scenario: Scenario, demand: SyntheticDemand) -> DemandModel:
    sites = scenario.place.sites
    rules = scenario.rules
    last = max(rules.horizon_min - demand.last_promise_before_end_min, 30.0)
    bins = max(1, round(last / 30))
    edges = np.linspace(0.0, last, bins + 1)
    weight = np.array([site.weight for site in sites])
    kind = np.array([site.kind for site in sites])
    streams = demand.streams
    time_share = np.zeros((len(streams), bins))
    od_share = np.zeros((len(streams), len(sites), len(sites)))
    lead = np.zeros((len(streams), QUANTILES))
    pickup_service = np.zeros((len(streams), QUANTILES))
    dropoff_service = np.zeros((len(streams), QUANTILES))
    probabilities = np.linspace(0, 1, QUANTILES)
    for s, stream in enumerate(streams):
        hour = ((rules.day_start_min + (edges[:-1] + edges[1:]) / 2) // 60).astype(int) % 24
        shares = np.array([stream.hourly_share.get(int(h), 0.0) for h in hour])
        if shares.sum() <= 0:
            raise ScenarioError(
                f"scenario {scenario.name!r}: stream {stream.name!r} has no hour within the day"
            )
        time_share[s] = shares / shares.sum()
        for flow in stream.flows:
            origin = weight * (kind == flow.origin)
            destination = weight * (kind == flow.destination)
            od = np.outer(origin, destination)
            np.fill_diagonal(od, 0.0)
            if od.sum() <= 0:
                raise ScenarioError(
                    f"scenario {scenario.name!r}: stream {stream.name!r} has no pair of sites "
                    f"from {flow.origin} to {flow.destination}"
                )
            od_share[s] += flow.share * od / od.sum()
        od_share[s] /= od_share[s].sum()
        shortest, median, longest = stream.lead_min
        lead[s] = np.interp(probabilities, [0, 0.5, 1], [shortest, median, longest])
        pickup_service[s] = np.interp(probabilities, [0, 1], stream.pickup_service_min)
        dropoff_service[s] = np.interp(probabilities, [0, 1], stream.dropoff_service_min)
    share = np.array([stream.share for stream in streams])
    priority = np.array([stream.priority_share for stream in streams])
    return DemandModel(
        site_name=tuple(site.name for site in sites),
        site_lat=np.array([site.lat for site in sites]),
        site_lon=np.array([site.lon for site in sites]),
        site_spread_km=np.array([site.spread_km for site in sites]),
        bookings_mean=demand.bookings_per_day,
        bookings_cv=demand.bookings_cv,
        stream_name=tuple(stream.name for stream in streams),
        stream_share=share / share.sum(),
        stream_is_return=np.array([stream.is_return for stream in streams]),
        time_edges_min=edges,
        time_share=time_share,
        od_share=od_share,
        immediate_share=np.array([stream.immediate_share for stream in streams]),
        lead_quantiles_min=lead,
        priority_share=priority / priority.sum(axis=1, keepdims=True),
        wheelchair_share=np.array([stream.wheelchair_share for stream in streams]),
        pickup_service_quantiles_min=pickup_service,
        dropoff_service_quantiles_min=dropoff_service,
    )


def _fitted_demand(demand: FittedDemand) -> DemandModel:
    path = Path(demand.model)
    model = DemandModel.load(path)
    if file_sha256(path) != demand.model_sha256:
        raise ScenarioError(
            f"{path} is not the demand model this scenario was made with (its hash differs); "
            "run the fit again"
        )
    if demand.bookings_per_day is None:
        return model
    return DemandModel(**{**model.__dict__, "bookings_mean": demand.bookings_per_day})
