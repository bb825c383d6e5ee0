"""How fast nightly retraining follows a change of demand: a clinic moves, and bookings rise.

A champion made in world A serves world B. After each of five days of B, its history so far (and
two weeks of A before it) recalibrates the simulator, an update starts from the champion, and takes
its place unless the gate's days rank it below. All are played on the same test days of B, beside a
model trained in full on B itself. Told is the share of that model's gain that the nights recover.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from scripts.rl.command import (
    command_parser,
    positive_int,
    provenance,
    run,
    seed_number,
    write_json,
)
from services.rl import paths
from services.rl.data.recalibrated import Simulator, recalibrated
from services.rl.data.sampling import sample_days
from services.rl.errors import AtmrError, UsageError
from services.rl.evaluation.paired import Estimate, estimate
from services.rl.policies.planner_values import VALUES_FILE
from services.rl.serving.bundle import (
    EXPECTED_DEMAND,
    NETWORK,
    PLANNER,
    Bundle,
    read_bundle,
    write_bundle,
)
from services.rl.serving.policies import learned_of
from services.rl.simulation.engine import Engine
from services.rl.simulation.sampling import fleet_rows
from services.rl.simulation.scenarios import (
    FIRST_SEED,
    Scenario,
    Split,
    gate_seed,
    load_scenario,
    parse_scenario,
)
from services.rl.simulation.types import Day, FloatArray, IntArray

EXAMPLES = """
adapt.py --shift moderate
adapt.py --shift strong --kinds dqn_matching --test-days 400
"""

_ONEX, _TOUR = "Centre de dialyse Onex", "Hôpital de La Tour"
SHIFTS: Final[dict[str, tuple[float, dict[str, dict[str, float]]]]] = {
    "moderate": (1.3, {_ONEX: {"lat": 46.2700, "lon": 6.1300, "weight": 4.0}}),
    "strong": (
        1.6,
        {
            _ONEX: {"lat": 46.2700, "lon": 6.1300, "weight": 4.0},
            _TOUR: {"lat": 46.1650, "lon": 6.2250, "weight": 5.0},
        },
    ),
}
"""Factor on bookings, and sites that move (in ``geneva``)."""

NIGHTS: Final = 5
_DAYS_BEFORE = 14  # of A, in the history
_GATE_DAYS = 100
_GATE_DATE = 739_000  # an ordinal
_RESAMPLED = 4_000
_TARGET = 0.8


def main(argv: Sequence[str] | None = None) -> int:
    """Play all cells, those done before taken from the folder."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--shift", choices=sorted(SHIFTS), default="moderate")
    parser.add_argument("--kinds", default=f"{PLANNER},{NETWORK}", metavar="KIND,...")
    parser.add_argument("--test-days", type=positive_int, default=200, metavar="N")
    parser.add_argument("--nights", type=positive_int, default=NIGHTS, metavar="N")
    parser.add_argument("--tiny", action="store_true", help="touch every part in a minute")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: results/adaptation")
    parser.add_argument("--seed", type=seed_number, default=0)
    arguments = parser.parse_args(argv)
    kinds = arguments.kinds.split(",")
    if unknown := [kind for kind in kinds if kind not in (PLANNER, NETWORK)]:
        raise UsageError(f"--kinds: {unknown[0]!r} is none of {PLANNER}, {NETWORK}")
    say: Callable[[str], None] = (lambda _: None) if arguments.quiet else print
    folder = arguments.out or paths.results_dir() / "adaptation"
    experiment = Experiment(
        folder / (f"{arguments.shift}-tiny" if arguments.tiny else arguments.shift),
        SHIFTS[arguments.shift],
        arguments.seed,
        arguments.test_days,
        arguments.tiny,
        say,
    )
    results = [experiment.kind(kind, arguments.nights) for kind in kinds]
    for result in results:
        say(told(result))
    if arguments.json is not None:
        write_json(arguments.json, {"shift": arguments.shift, "kinds": results, **provenance()})
    return 0


@dataclass(frozen=True)
class _Budgets:
    nightly: Any
    full_planner: Any
    full_network: Any


def _budgets(tiny: bool) -> _Budgets:
    from services.rl.training.learners import TINY, Budget, NetworkBudget, PlannerBudget
    from services.rl.training.planner_run import PLANNER_MODES

    if tiny:
        return _Budgets(TINY, PLANNER_MODES["sanity"], TINY)
    nightly = Budget(
        measured=False,
        minutes=600.0,  # what is found must not depend on how busy the machine is
        planner=PlannerBudget(generations=8, population=12, days=16, moves=700, check_days=64),
        network=NetworkBudget(steps=12_000, teacher_days=40, dagger_days=40),
    )
    network = NetworkBudget(steps=32_000, teacher_days=100, dagger_days=100, patience=6)
    return _Budgets(nightly, PLANNER_MODES["production"], replace(nightly, network=network))


class Experiment:
    """Worlds, days and cells of one shift.

    Args:
        folder: Where cells lie.
        shift: See `SHIFTS`.
        seed: Of all training.
        test_days: Of B, on which everything is judged.
        tiny: Rehearse.
        say: Told what happens.
    """

    def __init__(
        self,
        folder: Path,
        shift: tuple[float, dict[str, dict[str, float]]],
        seed: int,
        test_days: int,
        tiny: bool,
        say: Callable[[str], None],
    ) -> None:
        self.folder, self.seed, self.say = folder, seed, say
        self.before = load_scenario("geneva")
        self.after = shifted(self.before, *shift)
        self.budgets = _budgets(tiny)
        self.tests = FIRST_SEED[Split.TEST] + np.arange(4 if tiny else test_days)
        self.gate_days = 4 if tiny else _GATE_DAYS
        self.history = drawn_days(self.before, _DAYS_BEFORE, [seed, 1], "before")
        self.new_days = drawn_days(self.after, 30, [seed, 2], "after")

    # --- cells -----------------------------------------------------------------------------------

    def kind(self, kind: str, nights: int) -> dict[str, Any]:
        """Everything of one kind of model."""
        champion = self.champion(kind)
        full = self.full(kind)
        rewards = {"champion": self.tested(champion), "full": self.tested(full)}
        told_nights, current = [], champion
        for night in range(1, nights + 1):
            candidate, simulator = self.night(kind, night, current)
            gate = self.gate(candidate, current, simulator, night)
            promoted = gate.mean >= 0.0
            rewards[f"candidate {night}"] = self.tested(candidate)
            if promoted:
                current = candidate
            rewards[f"night {night}"] = self.tested(current)
            told_nights.append(
                {
                    "night": night,
                    "candidate": candidate.version,
                    "gate": asdict(gate),
                    "promoted": promoted,
                    "candidate_minus_champion": _shown(
                        estimate(rewards[f"candidate {night}"] - rewards["champion"])
                    ),
                    "served_minus_champion": _shown(
                        estimate(rewards[f"night {night}"] - rewards["champion"])
                    ),
                    "recovered": recovered(
                        rewards[f"night {night}"], rewards["champion"], rewards["full"], self.seed
                    ),
                    "demand": simulator.changes["bookings_per_day"]["now"],
                    "half_life_days": simulator.changes["half_life_days"],
                }
            )
            self.say(f"{kind}, night {night}: {json.dumps(told_nights[-1])}")
        gain = estimate(rewards["full"] - rewards["champion"])
        return {
            "kind": kind,
            "test_days": len(self.tests),
            "reward": {name: round(float(r.mean()), 2) for name, r in rewards.items()},
            "full_gain": {**_shown(gain), "told_from_zero": bool(gain.low > 0)},
            "nights": told_nights,
        }

    def champion(self, kind: str) -> Bundle:
        """Made in A: the planner's filed values; a network trained there by the same recipe."""
        where = self.folder.parent / (
            "champions-tiny" if "tiny" in self.folder.name else "champions"
        )
        if kind == PLANNER:
            return kept(where / "planner", lambda path: write_bundle(path, PLANNER, self.before))
        return self._trained_network(where / "network", self.before, self.champion(PLANNER))

    def full(self, kind: str) -> Bundle:
        """Trained on B itself, from nothing."""
        if kind == NETWORK:
            return self._trained_network(
                self.folder / "full_network", self.after, self.champion(PLANNER)
            )

        def fitted(path: Path) -> Bundle:
            from services.rl.training.planner_fit import fit_planner

            self.say("planner: full fit on B")
            work = self.folder / "full_planner"
            values = fit_planner(
                self.after,
                replace(self.budgets.full_planner, seed=self.seed),
                journal=_made(work) / "evolution.jsonl",
                on_generation=lambda g, mean, _: self.say(f"  generation {g}: {mean:.1f}"),
            )
            values.save(work / VALUES_FILE)
            expected = work / EXPECTED_DEMAND
            self.after.demand_model().save(expected)
            return write_bundle(
                path, PLANNER, self.before, model=work, extra={EXPECTED_DEMAND: expected},
                transfer=True,
            )  # fmt: skip

        return kept(self.folder / "full_planner_bundle", fitted)

    def _trained_network(self, folder: Path, world: Scenario, teacher: Bundle) -> Bundle:
        from services.rl.training.network_learner import DqnMatchingLearner

        return DqnMatchingLearner(teacher=teacher).update(
            None,
            Simulator(self.before, world),
            (),
            folder=folder,
            budget=self.budgets.full_network,
            seed=self.seed,
            say=self.say,
        )

    def night(self, kind: str, night: int, champion: Bundle) -> tuple[Bundle, Simulator]:
        """The candidate after so many days of B."""
        from services.rl.training.learners import learner_of

        where = self.folder / f"night_{night}"
        history = [*self.history, *self.new_days[:night]]
        simulator = recalibrated(self.before, history, where, seed=self.seed)
        teacher = self.champion(PLANNER) if kind == NETWORK else None
        bundle = learner_of(kind, teacher=teacher).update(
            champion,
            simulator,
            (),
            folder=where / kind / champion.version,
            budget=self.budgets.nightly,
            seed=self.seed + night,
            say=self.say,
        )
        return bundle, simulator

    # --- judging ---------------------------------------------------------------------------------

    def gate(
        self, candidate: Bundle, champion: Bundle, simulator: Simulator, night: int
    ) -> Estimate:
        """Paired difference on fresh days of the recalibrated simulator, never of B itself."""
        seeds = np.array([gate_seed(_GATE_DATE + night, i) for i in range(self.gate_days)])
        world = simulator.training_scenario
        ours, theirs = (self._played(b, world, seeds) for b in (candidate, champion))
        return estimate(ours - theirs)

    def tested(self, bundle: Bundle) -> FloatArray:
        """Reward of each test day of B."""
        return self._played(bundle, self.after, self.tests)

    def _played(self, bundle: Bundle, world: Scenario, seeds: IntArray) -> FloatArray:
        name = f"{bundle.version}-{world.sha256[:12]}-{seeds[0]}-{len(seeds)}.npy"
        path = self.folder.parent / "played" / name
        if path.is_file():
            known: FloatArray = np.load(path)
            return known
        policy: Any = learned_of(bundle, self.before, None, "cpu")
        engine = Engine(world, len(seeds))
        engine.start(seeds)
        policy.play(engine)
        rewards: FloatArray = engine.world.totals.sum(axis=1).copy()
        hidden = _made(path.parent) / f".{name}"
        np.save(hidden, rewards)
        hidden.replace(path)
        return rewards


def shifted(scenario: Scenario, factor: float, moved: dict[str, dict[str, float]]) -> Scenario:
    """The same world with more bookings and sites elsewhere."""
    raw = scenario.model_dump(mode="json")
    names = {site["name"] for site in raw["place"]["sites"]}
    if missing := set(moved) - names:
        raise UsageError(f"{scenario.name} has no site {sorted(missing)[0]!r}")
    for site in raw["place"]["sites"]:
        site.update(moved.get(site["name"], {}))
    raw["demand"]["bookings_per_day"] *= factor
    return parse_scenario(raw, f"{scenario.name} shifted")


def drawn_days(scenario: Scenario, count: int, seed: list[int], name: str) -> list[Day]:
    """Days as a history would have them."""
    rules = scenario.rules
    table, counts = sample_days(
        scenario.demand_model(), np.random.default_rng(seed), count, window_min=rules.window_min
    )
    ends = np.cumsum(counts)
    return [
        Day(f"{name} {i + 1}", table[end - n : end].copy(), fleet_rows(scenario))
        for i, (n, end) in enumerate(zip(counts.tolist(), ends.tolist(), strict=True))
    ]


def recovered(
    nightly: FloatArray, champion: FloatArray, full: FloatArray, seed: int
) -> dict[str, float | None]:
    """Share of the full gain, with a 95 % interval by resampling days (percentile bootstrap)."""
    rng = np.random.default_rng(seed)
    ours, theirs = nightly - champion, full - champion
    rows = rng.integers(0, len(ours), (_RESAMPLED, len(ours)))
    top, bottom = ours[rows].mean(axis=1), theirs[rows].mean(axis=1)
    if float(np.quantile(bottom, 0.025)) <= 0.0:
        return {"share": None, "low": None, "high": None}
    low, high = np.quantile(top / bottom, [0.025, 0.975])
    share = float(ours.mean() / theirs.mean())
    return {"share": round(share, 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def told(result: dict[str, Any]) -> str:
    """What came out, in words."""
    gain = result["full_gain"]
    lines = [
        f"{result['kind']}: full retraining gains {gain['mean']:+.1f} ± {gain['half_width']:.1f} "
        f"a day on {result['test_days']} test days"
        + ("" if gain["told_from_zero"] else ": not to be told from nothing")
    ]
    for night in result["nights"]:
        share = night["recovered"]["share"]
        part = "no share can be told"
        if share is not None:
            low, high = (night["recovered"][end] for end in ("low", "high"))
            part = f"{share:.0%} ({low:.0%} to {high:.0%})"
        lines.append(
            f"  after day {night['night']}: {part}; "
            f"{night['served_minus_champion']['mean']:+.1f} ± "
            f"{night['served_minus_champion']['half_width']:.1f} a day; gate "
            f"{night['gate']['mean']:+.1f}, {'promoted' if night['promoted'] else 'refused'}"
        )
    last = result["nights"][-1]["recovered"]["share"]
    if last is not None:
        lines.append(f"  target {_TARGET:.0%}: {'reached' if last >= _TARGET else 'missed'}")
    return "\n".join(lines)


def kept(path: Path, make: Callable[[Path], Bundle]) -> Bundle:
    """A bundle that is there, or is made."""
    try:
        return read_bundle(path)
    except AtmrError:
        return make(path)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _shown(value: Estimate) -> dict[str, float]:
    return {"mean": round(value.mean, 2), "half_width": round(value.half_width, 2)}


if __name__ == "__main__":
    run(main)
