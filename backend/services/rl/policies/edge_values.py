"""`matching_values`: what is learned for its edges, as a file and as a policy.

A value file holds the worth of a free car by zone and minute (dual prices of clairvoyant
solutions, averaged over training days), the usual demand of each zone, and the weights of
`zone_matching.EDGE_TERM`, fitted by evolution on other training days (`training.edge_fit`).
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from services.rl.errors import PolicyError
from services.rl.simulation.days import DaySource
from services.rl.simulation.engine import Engine, travel_tables
from services.rl.simulation.host import HostWorld
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.travel import MATRIX, TravelTables
from services.rl.simulation.types import DispatchState, FloatArray

from .base import Decision, DecisionSet
from .model_files import file_sha256
from .weight_files import admitted, names_of, save_json, values_file
from .zone_matching import (
    EDGE_TERM,
    NUM_EDGE_TERMS,
    ZoneTables,
    decide_zone_matching,
    play_zone_matching,
)

EDGE_VALUES_SCHEMA = 1
EDGE_VALUES_FILE: Final = "edge_values.json"
"""In a model folder."""

_REACH_MIN = 4.0  # cars and demand count by e^(-minutes / reach)
_AHEAD_MIN = 5.0  # demand of so many minutes


@dataclass(frozen=True)
class EdgeValues:
    """What `matching_values` has learned, and where it comes from.

    Attributes:
        terms: Names, `zone_matching.EDGE_TERM`.
        weights: One per term.
        worth: ``(Z, T)`` reward of a free car by zone and minute; 0 from minute T on.
        requests: ``(Z,)`` requests a minute by zone of pickup.
        scenario: Name of the scenario fitted on.
        scenario_hash: Its hash.
        provenance: Command, seed, commit, days and scores of the fit.
    """

    terms: tuple[str, ...]
    weights: tuple[float, ...]
    worth: tuple[tuple[float, ...], ...]
    requests: tuple[float, ...]
    scenario: str
    scenario_hash: str
    provenance: dict[str, Any]

    def array(self) -> FloatArray:
        """The weights as the kernels take them."""
        return np.array(self.weights, dtype=np.float64)

    def tables(self, travel: TravelTables) -> ZoneTables:
        """What the kernels take beside the weights.

        Raises:
            PolicyError: If travel is between other zones, or not between zones.
        """
        zones = len(travel.minutes) if travel.kind == MATRIX else 0
        if zones != len(self.requests):
            raise PolicyError(
                f"the edge values are of {len(self.requests)} zones ({self.scenario}), "
                f"travel here is between {zones}"
            )
        near = np.exp(-travel.minutes / _REACH_MIN)
        requests = np.array(self.requests, dtype=np.float64)
        return ZoneTables(
            worth=np.ascontiguousarray(self.worth, dtype=np.float64),
            demand=near.T @ (requests * _AHEAD_MIN),
            near=np.ascontiguousarray(near.T),
            decay=float(np.exp(-1.0 / _REACH_MIN)),
            rush=float(requests.sum()),
        )

    def save(self, path: Path) -> None:
        """Write JSON, atomically."""
        save_json(path, {"schema": EDGE_VALUES_SCHEMA, **asdict(self)}, indent=None)

    @classmethod
    def load(cls, path: Path) -> "EdgeValues":
        """Read what `save` wrote.

        Raises:
            PolicyError: If the file is missing, damaged, or of other terms.
        """
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            schema = raw.pop("schema")
            listed = {name: tuple(raw[name]) for name in ("terms", "weights", "requests")}
            values = cls(**{**raw, **listed, "worth": tuple(tuple(row) for row in raw["worth"])})
            tables = [np.array(t, dtype=np.float64) for t in (values.worth, values.requests)]
            finite = all(np.isfinite(t).all() for t in (values.array(), *tables))
            whole = tables[0].ndim == 2 and tables[0].shape[0] == tables[1].size > 0
        except FileNotFoundError as error:
            raise PolicyError(f"edge values {path} do not exist") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise PolicyError(f"edge values {path} cannot be read: {error}") from error
        if (
            schema != EDGE_VALUES_SCHEMA
            or values.terms != EDGE_TERM
            or len(values.weights) != NUM_EDGE_TERMS
        ):
            raise PolicyError(f"edge values {path} are of other terms; fit again")
        if not whole:
            raise PolicyError(f"edge values {path}: worth must have one row for each zone")
        if not finite:
            raise PolicyError(f"edge values {path}: a number is not finite")
        return values


class ZoneMatchingPolicy:
    """Matches requests and cars on learned edge values.

    Attributes:
        name: As on the command line.
        note: Where its numbers come from, for reports.
        model_sha: SHA-256 of the value file; None where there is none.

    Raises:
        PolicyError: If the scenario does not decide every request at once, or does not travel
            between the zones of the values.
    """

    def __init__(
        self,
        scenario: Scenario,
        values: EdgeValues,
        *,
        source: DaySource | None = None,
        note: str = "",
        model_sha: str | None = None,
    ) -> None:
        require_zones(scenario)
        self.name = "matching_values"
        self.note = note
        self.model_sha = model_sha
        self._scenario = scenario
        self._source = source
        self._weights = values.array()
        self._tables = values.tables(travel_tables(scenario, source))
        self._host: HostWorld | None = None

    def decide(
        self,
        state: DispatchState,
        *,
        plan: Any = None,
        budget_ms: float | None = None,
        rng: np.random.Generator | None = None,
    ) -> DecisionSet:
        """Decide one epoch; ``plan``, ``budget_ms`` and ``rng`` are not needed."""
        if self._host is None:
            self._host = HostWorld(self._scenario, source=self._source)
        self._host.load(state)
        chosen = np.empty((1, max(1, len(state.booking_ids)), 3))
        count = decide_zone_matching(*self._host.memory, 0, self._weights, self._tables, chosen)
        return DecisionSet(
            tuple(
                Decision(booking=int(row), driver=int(driver), score=float(score))
                for driver, row, score in chosen[0, :count]
            ),
            plan=None,
        )

    def play(self, engine: Engine) -> None:
        """Play every environment of an engine to the end of its day."""
        play_zone_matching(*engine.memory, self._weights, self._tables)


def require_zones(scenario: Scenario) -> None:
    """Refuse a scenario that `matching_values` is not made for.

    Raises:
        PolicyError: If bookings may wait, or travel is not between zones.
    """
    if scenario.travel.kind != "matrix" or not scenario.rules.decide_once:
        raise PolicyError(
            f"policy 'matching_values' is for scenarios between zones where every request is "
            f"decided at once (manhattan_11, manhattan_38), not for {scenario.name!r}"
        )


def edge_policy(
    scenario: Scenario,
    source: DaySource | None = None,
    model: Path | None = None,
    *,
    transfer: bool = False,
) -> ZoneMatchingPolicy:
    """`matching_values` with the values of a model folder, or those fitted for the scenario's name.

    See `weight_files.values_file`.

    Raises:
        PolicyError: If the scenario is of another kind, there are no values, or they are damaged,
            or of another scenario and ``transfer`` does not admit them.
    """
    require_zones(scenario)
    path = values_file(
        "matching_values",
        EDGE_VALUES_FILE,
        names_of(scenario),
        model,
        f"there are no edge values for scenario {scenario.name!r}: fit them (train_dqn.py "
        "--policy matching_values) and name them: --model results/<name>/checkpoints/best",
    )
    values = EdgeValues.load(path)
    note = admitted(path, values.scenario, values.scenario_hash, scenario, transfer=transfer)
    return ZoneMatchingPolicy(
        scenario, values, source=source, note=note, model_sha=file_sha256(path)
    )
