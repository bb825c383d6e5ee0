"""What the planner knows beyond its plan: unknown demand, and the value terms that weigh it.

The planner's search (`route_search`) maximises the reward of the bookings it knows. What it cannot
know, the bookings still to come, enters through `route_clock.TERM`: linear terms on numbers that
a plan has anyway, such as a price of drivers' minutes at busy hours, or a worth of being free
where much demand is still to come. The weights are learned by evolution on whole days
(`training.planner_fit`).
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from services.rl.errors import PolicyError
from services.rl.simulation.demand import QUANTILES, DemandModel
from services.rl.simulation.scenarios import ReplayDemand, Scenario
from services.rl.simulation.types import FloatArray

from .model_files import file_sha256
from .route_clock import TERM
from .weight_files import admitted, names_of, save_json, values_file

VALUES_SCHEMA = 1
_CELL_KM = 1.0
_MARGIN_KM = 4.0
_REACH_KM = 2.5  # demand counts by e^(-km / reach)
_SLOT_MIN = 30.0
_SHORT_NOTICE_MIN = 45.0  # bookings made later than this before their promise are "unknown"
_KM_PER_DEGREE = 111.195
_MOST_CELLS = 10_000
_MOST = 1e6  # of a setting or weight: far beyond it sums lose their decimals, or nothing is planned


@dataclass(frozen=True)
class Grid:
    """Unknown demand on a square grid; see `route_clock.DemandGrid`.

    Attributes:
        near: ``(T, C)`` around each cell in each half hour, 1 on average over the demand.
        hour: ``(T,)`` of the whole area, 1 on average over the day.
        from_base: ``(C,)`` kilometres / 10.
        shape: South, west, cell height and width (degrees), columns, slot minutes.
    """

    near: FloatArray
    hour: FloatArray
    from_base: FloatArray
    shape: FloatArray


NO_DEMAND = Grid(
    np.zeros((1, 1)), np.zeros(1), np.zeros(1), np.array([0.0, 0.0, 1.0, 1.0, 1.0, _SLOT_MIN])
)
"""Where nothing is known of the demand; the terms that need it are then 0."""


def demand_grid(scenario: Scenario, expected: DemandModel | None = None) -> Grid:
    """Unknown demand by place and half hour.

    Args:
        scenario: Gives the place, and the demand where nothing newer is known.
        expected: What recent days were like.
    """
    if scenario.travel.kind != "haversine":
        return NO_DEMAND
    if expected is not None:
        return _grid(expected, scenario)
    if isinstance(scenario.demand, ReplayDemand):
        return NO_DEMAND
    return _grid(scenario.demand_model(), scenario)


def _grid(model: DemandModel, scenario: Scenario) -> Grid:
    lat, lon = model.site_lat, model.site_lon
    km_lon = _KM_PER_DEGREE * float(np.cos(np.radians(np.mean(lat))))
    margin_lat, margin_lon = _MARGIN_KM / _KM_PER_DEGREE, _MARGIN_KM / km_lon
    south, west = lat.min() - margin_lat, lon.min() - margin_lon
    height, width = lat.max() + margin_lat - south, lon.max() + margin_lon - west
    cell_km = max(_CELL_KM, float(np.sqrt(height * _KM_PER_DEGREE * width * km_lon / _MOST_CELLS)))
    rows = max(1, int(np.ceil(height * _KM_PER_DEGREE / cell_km)))
    columns = max(1, int(np.ceil(width * km_lon / cell_km)))
    cell_lat, cell_lon = height / rows, width / columns
    centre_lat = south + (np.arange(rows) + 0.5) * cell_lat
    centre_lon = west + (np.arange(columns) + 0.5) * cell_lon
    at_lat, at_lon = (a.ravel() for a in np.meshgrid(centre_lat, centre_lon, indexing="ij"))
    away = np.hypot(
        (at_lat[:, None] - lat[None]) * _KM_PER_DEGREE, (at_lon[:, None] - lon[None]) * km_lon
    )
    pull = np.exp(-np.hypot(away, model.site_spread_km[None]) / _REACH_KM)  # (C, P)
    rate = _unknown_rate(model)  # (T, P)
    near = rate @ pull.T
    total = rate.sum(axis=1)
    # 1 is what an average unknown booking sees around its pickup.
    seen = float((rate * (rate @ pull[_nearest(away)].T)).sum() / max(rate.sum(), 1e-12))
    base = scenario.place.base
    from_base = np.hypot((at_lat - base.lat) * _KM_PER_DEGREE, (at_lon - base.lon) * km_lon)
    return Grid(
        near=np.ascontiguousarray(near / max(seen, 1e-12)),
        hour=total / max(float(total.mean()), 1e-12),
        from_base=from_base / 10.0,
        shape=np.array([south, west, cell_lat, cell_lon, float(columns), _SLOT_MIN]),
    )


def _nearest(away: FloatArray) -> Any:
    """Cell of each site, ``(P,)``."""
    return away.argmin(axis=0)


def _unknown_rate(model: DemandModel) -> FloatArray:
    """Bookings of short notice per half hour and site of pickup, ``(T, P)``."""
    edges = model.time_edges_min
    slots = int(np.ceil(edges[-1] / _SLOT_MIN)) + 2  # later ones are empty
    probability = np.linspace(0.0, 1.0, QUANTILES)
    rate = np.zeros((slots, len(model.site_lat)))
    for i, share in enumerate(model.stream_share):
        immediate = model.immediate_share[i]
        short = np.interp(_SHORT_NOTICE_MIN, model.lead_quantiles_min[i], probability)
        unknown = immediate + (1.0 - immediate) * short
        cumulative = np.append(0.0, np.cumsum(model.time_share[i]))
        steps = np.interp(np.arange(slots + 1) * _SLOT_MIN, edges, cumulative)
        origin = model.od_share[i].sum(axis=1)
        rate += share * unknown * np.diff(steps)[:, None] * origin[None]
    return rate


@dataclass(frozen=True)
class PlannerValues:
    """Weights of the value terms, and where they come from.

    Attributes:
        terms: Names, `route_clock.TERM`.
        weights: One per term, in units of reward.
        look_ahead_min: Bookings promised later than this from now are not planned yet.
        hot: Temperature at the start of an epoch's search, in units of reward.
        scenario: Name of the scenario fitted on.
        scenario_hash: Its hash.
        provenance: Command, seed, commit, days and scores of the fit.
    """

    terms: tuple[str, ...]
    weights: tuple[float, ...]
    look_ahead_min: float
    hot: float
    scenario: str
    scenario_hash: str
    provenance: dict[str, Any]

    def array(self) -> FloatArray:
        """The weights as the search takes them."""
        return np.array(self.weights, dtype=np.float64)

    def save(self, path: Path) -> None:
        """Write JSON, atomically."""
        save_json(path, {"schema": VALUES_SCHEMA, **asdict(self)})

    @classmethod
    def load(cls, path: Path) -> "PlannerValues":
        """Read what `save` wrote.

        Raises:
            PolicyError: If the file is missing, damaged, of other terms, or has a number that is
                none or beyond all measure.
        """
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            schema = raw.pop("schema")
            terms, weights = tuple(raw["terms"]), tuple(raw["weights"])
            if terms == TERM[: len(terms)] and len(terms) == len(weights):
                # Of an earlier version: a term that it did not know counts nothing.
                terms, weights = TERM, weights + (0.0,) * (len(TERM) - len(terms))
            values = cls(**{**raw, "terms": terms, "weights": weights})
        except FileNotFoundError as error:
            raise PolicyError(f"planner values {path} do not exist") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise PolicyError(f"planner values {path} cannot be read: {error}") from error
        if schema != VALUES_SCHEMA or values.terms != TERM or len(values.weights) != len(TERM):
            raise PolicyError(f"planner values {path} are of other terms; fit again")
        for name, weight in zip(values.terms, values.weights, strict=True):
            if not _number(weight) or not abs(weight) <= _MOST:
                raise PolicyError(
                    f"planner values {path}: weight {name!r} is {weight!r}, expected a number "
                    f"from -{_MOST:g} to {_MOST:g}"
                )
        for name, setting in (("look_ahead_min", values.look_ahead_min), ("hot", values.hot)):
            if not _number(setting) or not 0 < setting <= _MOST:
                raise PolicyError(
                    f"planner values {path}: {name} is {setting!r}, expected a number above 0 "
                    f"and at most {_MOST:g}"
                )
        return values


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


VALUES_FILE: Final = "planner.json"
"""In a model folder."""


def planner_values(
    scenario: Scenario, model: Path | None = None, *, transfer: bool = False
) -> tuple[PlannerValues, str, str]:
    """Values for a scenario, a note on where they come from, and their file's SHA-256.

    See `weight_files.values_file`. A resized scenario (``geneva-n5-h8``) finds those of the name
    before the first hyphen.

    Args:
        scenario: The world.
        model: A model folder, or None.
        transfer: Admit values that were fitted on another scenario.

    Raises:
        PolicyError: If there are none, or they are damaged, or of another scenario.
    """
    path = values_file(
        "planner",
        VALUES_FILE,
        [*names_of(scenario), *(["geneva"] if transfer else [])],
        model,
        f"there are no planner values for scenario {scenario.name!r}: fit them (train_dqn.py "
        "--policy planner), or admit those of another scenario with --transfer",
    )
    values = PlannerValues.load(path)
    note = admitted(path, values.scenario, values.scenario_hash, scenario, transfer=transfer)
    return values, note, file_sha256(path)
