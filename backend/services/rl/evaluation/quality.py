"""What the quality benchmark measures: parts, the worlds they need, and the policies in each.

A *series* is one policy on the days of one world, once per training seed. Parts share series: the
table of KPIs, the groups of patients and the safety figures come from the same played days.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from services.rl.data.sources import open_source, split_labels, split_seeds
from services.rl.errors import ScenarioError, UsageError
from services.rl.policies.registry import POLICIES
from services.rl.simulation.kpis import KPIS
from services.rl.simulation.scenarios import Scenario, Split, load_scenario, parse_scenario
from services.rl.simulation.types import FloatArray

from .quality_cells import HINDSIGHT, Cell, code_fingerprint, days_sha256, model_sha256
from .quality_models import KINDS, MATCHING_VALUES, NETWORK, PLANNER, Models

PARTS: Final = ("kpis", "front", "who", "safety", "robust", "transfer", "city", "manhattan")
NETWORK_POLICIES: Final = ("dqn", "dqn_matching")
FRONT_MOVES: Final = (500, 1_500, 6_000, 20_000)
FRONT_MS: Final = (50, 200)
MANHATTAN: Final = ("manhattan_11", "manhattan_38")
VALIDATION: Final = "validation"
FIRST_UNSEEN: Final = 1_000
"""Validation day from which on no training judges itself."""

_CHUNK_DAYS = 25  # of policies that play compiled: seconds
_EXPENSIVE = ("rolling", HINDSIGHT)
_VALIDATION_DAYS = 100
_CITY_DAYS = 2
_SIDE_DAYS, _SIDE_SEEDS = 100, 2
"""Of what no figure of the headline rests on: other worlds, other numbers of moves."""
_SIDE_PARTS: Final = ("robust", "transfer")


@dataclass(frozen=True)
class Options:
    """What is asked for.

    Attributes:
        parts: Of `PARTS`.
        scenarios: Names or files, of the parts that are not about one world of their own.
        days: Test days.
        expensive_days: Test days of ``rolling`` and ``hindsight``.
        moves: Of the planner and of the search it is compared with, per epoch.
        hindsight_seconds: Search time of the clairvoyant per day.
        data_dir: Folder of real trips.
    """

    parts: tuple[str, ...] = PARTS
    scenarios: tuple[str, ...] = ("geneva", "geneva_overload")
    days: int = 200
    expensive_days: int = 20
    moves: int = 6_000
    hindsight_seconds: float = 10.0
    data_dir: str | None = None

    def planner(self) -> str:
        """The planner that the targets are about."""
        return f"planner@{self.moves}"

    def search(self) -> str:
        """The same search with learning off."""
        return f"rolling_search@{self.moves}"


ROLLING: Final = "rolling@200"


@dataclass(frozen=True)
class Variant:
    """A world.

    Attributes:
        key: Unique.
        part: Which part asked for it first.
        base: Name of the scenario whose trained models are used.
        title: In French.
        scenario: As the policies know it.
        drawn_from: Whose demand the days really have, where policies do not know it.
        split: Of its days.
        transfer: Its planner values come from elsewhere.
    """

    key: str
    part: str
    base: str
    title: str
    scenario: Scenario
    drawn_from: Scenario | None = None
    split: Split = Split.TEST
    transfer: bool = False


@dataclass(frozen=True)
class Series:
    """One policy in one world; one run per training seed (a single run where none was trained)."""

    variant: Variant
    policy: str
    runs: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Played:
    """A series' results.

    Attributes:
        rewards: ``(S, D)`` per training seed and day.
        kpis: ``(S, D, len(KPIS))``.
        groups: ``(S, D, G, F)``, see `outcomes`.
        decision_ms: All timed decisions.
        note: Where the policy's numbers come from.
        load: Highest load average seen when a cell began.
        fallbacks: Epochs decided by something simpler.
        refused: Decisions that were not allowed.
    """

    rewards: FloatArray
    kpis: FloatArray
    groups: FloatArray
    decision_ms: FloatArray
    note: str = ""
    load: float = 0.0
    fallbacks: int = 0
    refused: int = 0

    @property
    def days(self) -> int:
        """D."""
        return int(self.rewards.shape[1])

    def kpi(self, name: str) -> FloatArray:
        """Mean over the seeds of one KPI, ``(D,)``."""
        mean: FloatArray = self.kpis[:, :, KPIS.index(name)].mean(axis=0)
        return mean


# --- worlds --------------------------------------------------------------------------------------


def _changed(scenario: Scenario, name: str, **fields: Any) -> Scenario:
    raw = scenario.model_dump(mode="json")
    for section, values in fields.items():
        raw[section] |= values
    raw["name"] = f"{scenario.name}-{name}"
    return parse_scenario(raw, source=f"{scenario.name} with {name}")


DISTURBANCES: Final[dict[str, tuple[str, dict[str, float]]]] = {
    "noise": ("trajets ± 20 %", {"travel_noise_cv": 0.2}),
    "no_shows": ("5 % d'absents", {"no_show_share": 0.05}),
    "call_offs": ("10 % d'annulations tardives", {"late_cancellation_share": 0.1}),
    "breakdowns": ("une panne pour 10 chauffeurs-jours", {"breakdowns_per_driver_day": 0.1}),
    "all": (
        "tout à la fois",
        {
            "travel_noise_cv": 0.2,
            "no_show_share": 0.05,
            "late_cancellation_share": 0.1,
            "breakdowns_per_driver_day": 0.1,
        },
    ),
}
WORST: Final = "all"
FLEETS: Final = (5, 20, 40)
MORE_DEMAND: Final = 1.2
LATER_H: Final = 2


def disturbed(scenario: Scenario, name: str) -> Variant:
    """The scenario with something going wrong that nobody foresees."""
    title, fields = DISTURBANCES[name]
    world = _changed(scenario, name, disturbances=fields)
    key = f"{scenario.name}/{name}"
    return Variant(key, "robust", scenario.name, title, world, transfer=True)


def transferred(scenario: Scenario) -> list[Variant]:
    """Other fleets, which policies know; other demands, which they do not."""
    name = scenario.name
    found = [
        Variant(
            f"{name}/fleet_{n}",
            "transfer",
            name,
            f"{n} chauffeurs, demande en proportion",
            scenario.resized(num_drivers=n),
            transfer=True,
        )
        for n in FLEETS
    ]
    demand = scenario.model_dump(mode="json")["demand"]
    if demand["kind"] != "synthetic":
        return found
    more = _changed(
        scenario, "more", demand={"bookings_per_day": MORE_DEMAND * demand["bookings_per_day"]}
    )
    for stream in demand["streams"]:
        hours = {int(hour) + LATER_H: share for hour, share in stream["hourly_share"].items()}
        stream["hourly_share"] = {str(h): share for h, share in hours.items() if h < 24}
    later = _changed(scenario, "later", demand={"streams": demand["streams"]})
    title = "20 % de demandes en plus"
    found.append(Variant(f"{name}/more", "transfer", name, title, scenario, more))
    try:
        later.demand_model()
    except ScenarioError:  # a day too short to be shifted
        return found
    title = f"journée décalée de {LATER_H} h"
    return [*found, Variant(f"{name}/later", "transfer", name, title, scenario, later)]


# --- series --------------------------------------------------------------------------------------


@dataclass
class Plan:
    """All that is to be played.

    Attributes:
        options: What is asked for.
        models: What is trained.
        series: By (variant key, policy).
        variants: By key.
    """

    options: Options
    models: Models
    series: dict[tuple[str, str], Series] = field(default_factory=dict)
    variants: dict[str, Variant] = field(default_factory=dict)

    def cells(self) -> list[Cell]:
        """Cells of all series."""
        return [cell for s in self.series.values() for run in s.runs for cell in run]

    def add(self, variant: Variant, policies: Sequence[str]) -> None:
        """Play policies in a world, where there are models for those that need one."""
        self.variants[variant.key] = variant
        for policy in policies:
            runs = self._runs(variant, policy)
            if runs:
                self.series[variant.key, policy] = Series(variant, policy, runs)

    def _headline(self) -> tuple[str, ...]:
        return (self.options.search(), self.options.planner(), *NETWORK_POLICIES, MATCHING_VALUES)

    def _runs(self, variant: Variant, policy: str) -> tuple[tuple[Cell, ...], ...]:
        name = policy.partition("@")[0]
        kind = NETWORK if name in NETWORK_POLICIES else name if name in KINDS else None
        models: list[Path | None] = [None]
        if kind is not None:
            models = list(self.models.get((kind, variant.base), ()))
        elif name == "rolling_search":  # as many seeds of the search as the planner has
            models *= max(1, len(self.models.get((PLANNER, variant.base), ())))
        if variant.part == "city":
            models = models[:1]
        elif variant.part in _SIDE_PARTS or policy not in self._headline():
            models = models[:_SIDE_SEEDS]
        labels = self._labels(variant, expensive=name in _EXPENSIVE)
        size = 1 if name in _EXPENSIVE else _CHUNK_DAYS
        chunks = [labels[i : i + size] for i in range(0, len(labels), size)]
        source = open_source(variant.scenario, self.options.data_dir)
        hashes = [None if source is None else days_sha256(source, chunk) for chunk in chunks]
        runs = []
        for seed, model in enumerate(models):
            sha = None if model is None else model_sha256(model)
            runs.append(
                tuple(
                    Cell(
                        variant.scenario,
                        policy,
                        chunk,
                        seed=seed,
                        model=model,
                        model_sha=sha,
                        drawn_from=variant.drawn_from,
                        transfer=variant.transfer,
                        epochs=variant.part == "city",
                        hindsight_seconds=self.options.hindsight_seconds,
                        data_dir=self.options.data_dir,
                        days_sha=days_sha,
                    )
                    for chunk, days_sha in zip(chunks, hashes, strict=True)
                )
            )
        return tuple(runs)

    def _labels(self, variant: Variant, *, expensive: bool) -> tuple[str, ...]:
        source = open_source(variant.scenario, self.options.data_dir)
        if source is not None:
            return tuple(split_labels(source, variant.split, None))
        count, first = self.options.days, 0
        if variant.part == "city":
            count = min(count, _CITY_DAYS)
        elif variant.part in _SIDE_PARTS and not expensive:
            count = min(count, _SIDE_DAYS)
        elif variant.split is Split.VALIDATION:
            count, first = min(count, _VALIDATION_DAYS), FIRST_UNSEEN
        elif expensive:
            count = min(count, self.options.expensive_days)
        return tuple(f"seed:{s}" for s in split_seeds(variant.split, count, first))


def plan_of(options: Options, models: Models) -> Plan:
    """Everything that the parts need.

    Raises:
        UsageError: If a part is unknown.
        DataError: If the Manhattan folder is missing.
        PolicyError: If there are models of a policy that this version does not have.
    """
    for part in options.parts:
        if part not in PARTS:
            raise UsageError(f"unknown part {part!r}: choose among {', '.join(PARTS)}")
    plan = Plan(options, models)
    own = (options.search(), options.planner())
    for name in options.scenarios:
        scenario = load_scenario(name)
        base = scenario.name
        world = Variant(base, "kpis", base, base, scenario)
        parts = set(options.parts)
        if parts & {"kpis", "front", "who", "safety"}:
            plan.add(world, ["matching", *NETWORK_POLICIES, *own])
            unseen = Variant(
                f"{base}/{VALIDATION}", VALIDATION, base, base, scenario, split=Split.VALIDATION
            )
            plan.add(unseen, NETWORK_POLICIES)
        if parts & {"kpis", "front"}:
            plan.add(world, ["nearest", "matching_linear", ROLLING, HINDSIGHT])
        if "kpis" in parts:
            plan.add(world, ["cheapest"])
        if "front" in parts:
            plan.add(world, [f"rolling@{ms}" for ms in FRONT_MS])
            for moves in FRONT_MOVES:
                plan.add(world, [f"rolling_search@{moves}", f"planner@{moves}"])
        if "robust" in parts:
            for disturbance in DISTURBANCES:
                # 20 s a day: against PyVRP only where everything goes wrong at once.
                rival = [ROLLING] if disturbance == WORST else []
                plan.add(disturbed(scenario, disturbance), ["matching", *rival, *own])
        if "transfer" in parts:
            for variant in transferred(scenario):
                plan.add(variant, ["matching", *own])
    if "city" in options.parts:
        of = next((b for k, b in models if k == PLANNER), options.scenarios[0])
        city = Variant("city", "city", of, "ville", load_scenario("city"), transfer=True)
        plan.add(city, own)
    if "manhattan" in options.parts:
        for name in MANHATTAN:
            _add_manhattan(plan, name)
    return plan


def _add_manhattan(plan: Plan, name: str) -> None:
    variant = Variant(name, "manhattan", name, name, load_scenario(name), split=Split.VALIDATION)
    plan.add(variant, ["nearest", "matching_profit", HINDSIGHT])
    if (MATCHING_VALUES, name) in plan.models:
        if MATCHING_VALUES not in POLICIES:
            raise UsageError(f"there are models of {MATCHING_VALUES}, a policy not known here")
        plan.add(variant, [MATCHING_VALUES])


def collected(plan: Plan, results: Mapping[str, dict[str, Any]]) -> dict[tuple[str, str], Played]:
    """Results of all series but the yardsticks and the city's, from their cells' by key."""
    fingerprint = code_fingerprint()
    found = {}
    for key, series in plan.series.items():
        if series.policy == HINDSIGHT or series.variant.part == "city":
            continue
        bodies = [[results[cell.key(fingerprint)] for cell in run] for run in series.runs]
        flat = [body for run in bodies for body in run]
        kpis = np.array([[day for body in run for day in body["kpis"]] for run in bodies])
        found[key] = Played(
            rewards=kpis[:, :, KPIS.index("reward")],
            kpis=kpis,
            groups=np.array([[day for body in run for day in body["groups"]] for run in bodies]),
            decision_ms=np.concatenate([body["decision_ms"] for body in flat]),
            note=flat[0]["note"],
            load=max(body["load"] for body in flat),
            fallbacks=sum(body["fallbacks"] for body in flat),
            refused=sum(body["refused"] for body in flat),
        )
    return found
