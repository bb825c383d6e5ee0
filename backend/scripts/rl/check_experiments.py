"""Do the experiment statistics keep their word? False calls, power, and bias in a shared fleet.

--aa N      A/A experiments per kind of unit, looked at after every block: how many are ever called
            (at most 5 %, by a one-sided 95 % bound).
--power N   Experiments with a known effect: how many are called within the days that the power
            calculator says, each from its own company's past (80 % are aimed at, at least 72 %
            must be, and not after half of those days already).
--bias D    Whole simulated days of a shared fleet, decided by two real policies: what splits per
            booking and switchback blocks say, against the truth (days all one arm's and the same
            days all the other's). Switchback as it is reported, in blocks of the recommended
            length, must have at most a quarter of the bias of the split per booking.

Parts that are not named are not run; without any: --aa 1000 --power 200 --bias 30. Days played
are kept with --days-in, and an interrupted run goes on. Exits with 1 if a promise is not kept.
"""

import argparse
import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from scripts.rl.command import (
    command_parser,
    finite,
    make_folder,
    positive_int,
    progress,
    provenance,
    run,
    seed_number,
    write_json,
)
from services.rl.errors import UsageError
from services.rl.evaluation.fleet_bias import MIRRORED, Bias, BiasReport, measure_bias
from services.rl.evaluation.power import Question, days_needed
from services.rl.evaluation.sequential import look_day
from services.rl.evaluation.shared_fleet import Design, SharedFleet
from services.rl.evaluation.simulated_experiments import (
    Result,
    Trial,
    history,
    play_experiment,
)
from services.rl.experiments.attribution import RECOMMENDED_BLOCK_MIN
from services.rl.experiments.config import UnitKind
from services.rl.experiments.simulated_weeks import Demand, upper_bound
from services.rl.simulation.scenarios import Scenario, load_scenario
from services.rl.simulation.types import FloatArray

EXAMPLES = """
check_experiments.py --aa 1000 --json results/experiments_aa.json
check_experiments.py --power 200 --cells 10-drivers-booking,10-drivers-switchback
check_experiments.py --bias 30 --days-in results/shared_days
"""

ALPHA: Final = 0.05
POWER, LEAST_POWER = 0.8, 0.72
LONGER: Final = 1.5
"""Times the days predicted, that experiments with an effect run."""
QUARTER: Final = 0.25
FIRST_DAY: Final = 2_000_000
"""Of the test split: no policy was tuned on it."""

SMALL, COMPANY = Demand(1, 25), Demand(1, 85)
BUSY = Demand(1, 130, late_rate=0.2, unserved_rate=0.1)
CELLS: Final[dict[str, Trial]] = {
    "10-drivers-booking": Trial(COMPANY, UnitKind.BOOKING, 28),
    "overloaded-booking": Trial(BUSY, UnitKind.BOOKING, 21),
    "10-drivers-switchback": Trial(COMPANY, UnitKind.SWITCHBACK, 56),
    "10-drivers-half-hours": Trial(COMPANY, UnitKind.SWITCHBACK, 28, block_min=30),
    "10-drivers-20-percent": Trial(COMPANY, UnitKind.SWITCHBACK, 56, share=0.2),
    "3-drivers-switchback": Trial(SMALL, UnitKind.SWITCHBACK, 56),
    "first-week-switchback": Trial(BUSY, UnitKind.SWITCHBACK, 10),
    "city-switchback": Trial(Demand(1, 600, zones=8), UnitKind.SWITCHBACK, 7),
    "20-companies": Trial(Demand(20, 25), UnitKind.COMPANY, 56),
    "12-companies": Trial(Demand(12, 25), UnitKind.COMPANY, 56),
}
POWER_CELLS: Final[dict[str, tuple[Trial, float]]] = {
    "10-drivers-booking": (CELLS["10-drivers-booking"], 0.03),
    "10-drivers-switchback": (CELLS["10-drivers-switchback"], 0.05),
    "overloaded-switchback": (Trial(BUSY, UnitKind.SWITCHBACK, 56), 0.06),
    "10-drivers-20-percent": (CELLS["10-drivers-20-percent"], 0.05),
    "60-companies": (Trial(Demand(60, 25), UnitKind.COMPANY, 28), 0.06),
}
"""With the points of the share on time that the learned arm gains."""

PAIRS: Final = (("nearest", "planner"), ("matching", "planner"))
DESIGNS: Final = ("heuristic", "rl", "booking", "switchback-30", "switchback-60", "switchback-120")


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate, print, judge."""
    options = _options(argv)

    def say(text: str) -> None:
        if not options.quiet:
            print(text, flush=True)

    made: dict[str, Any] = {}
    missed: list[str] = []
    if options.aa:
        made["aa"] = [_aa(n, CELLS[n], options, say) for n in _chosen(options, CELLS)]
        missed += [f"A/A {c['cell']}" for c in made["aa"] if c["upper_bound"] > ALPHA]
    if options.power:
        made["power"] = [
            _power(n, *POWER_CELLS[n], options, say) for n in _chosen(options, POWER_CELLS)
        ]
        missed += [f"power {c['cell']}" for c in made["power"] if not c["kept"]]
    if options.bias:
        made["bias"] = [_bias(pair, options, say) for pair in options.pairs]
        missed += [f"bias {c['pair']}" for c in made["bias"] if not c["kept"]]
    if options.json is not None:
        write_json(options.json, {"missed": missed, **made, **provenance()})
    say(f"MISSED: {', '.join(missed)}" if missed else "All that was checked is kept.")
    return 1 if missed else 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument("--aa", type=positive_int, metavar="N", help="A/A experiments per cell")
    parser.add_argument("--power", type=positive_int, metavar="N", help="experiments per effect")
    parser.add_argument("--bias", type=positive_int, metavar="DAYS", help="days of a shared fleet")
    parser.add_argument("--cells", metavar="A,B", help=f"of {', '.join({**CELLS, **POWER_CELLS})}")
    parser.add_argument(
        "--scenario", default="geneva_overload", help="of the shared fleet (geneva_overload)"
    )
    parser.add_argument(
        "--pairs", default=",".join(":".join(p) for p in PAIRS), metavar="A:B,...",
        help="heuristic:learned of the shared fleet",
    )  # fmt: skip
    parser.add_argument("--days-in", type=Path, metavar="FOLDER", help="where played days are kept")
    parser.add_argument("--first-day", type=seed_number, default=FIRST_DAY, help="of the bias")
    parser.add_argument("--seed", type=seed_number, default=0)
    options = parser.parse_args(argv)
    if options.aa is options.power is options.bias is None:
        options.aa, options.power, options.bias = 1000, 200, 30
    known = {**CELLS, **POWER_CELLS}
    names = [n.strip() for n in (options.cells or ",".join(known)).split(",") if n.strip()]
    if not names or set(names) - set(known):
        raise UsageError(f"--cells {options.cells!r}: choose among {', '.join(known)}")
    options.cells = names
    options.pairs = [tuple(p.split(":")) for p in options.pairs.split(",")]
    if any(len(pair) != 2 or not all(pair) for pair in options.pairs):
        raise UsageError("--pairs: expected heuristic:learned, such as matching:planner")
    if options.bias == 1:
        raise UsageError("--bias 1: an interval takes two days at least")
    make_folder(options.days_in)
    return options


def _chosen(options: argparse.Namespace, cells: dict[str, Any]) -> list[str]:
    return [name for name in cells if name in options.cells]


def _seed(options: argparse.Namespace, name: str) -> int:
    """Of a cell's first experiment: cells do not share their luck."""
    digest = hashlib.sha256(f"{options.seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


# --- A/A ----------------------------------------------------------------------------------------


def _aa(name: str, trial: Trial, options: argparse.Namespace, say: Any) -> dict[str, Any]:
    """False calls of equal arms."""
    begun, first = time.monotonic(), _seed(options, f"aa:{name}")
    results = [
        play_experiment(trial, first + i)
        for i in progress(range(options.aa), label=name, quiet=options.quiet, total=options.aa)
    ]
    called = sum(r.called_on is not None and not r.blocked for r in results)
    cell = {
        "cell": name,
        "experiments": options.aa,
        "days": trial.days,
        "called": called,
        "rate": called / options.aa,
        "upper_bound": upper_bound(called, options.aa),
        "called_by_ordinary_intervals": sum(r.naive for r in results) / options.aa,
        "blocked_by_sample_ratio": sum(r.blocked for r in results),
        "no_interval": sum(r.covered is None for r in results),
        "seconds": round(time.monotonic() - begun, 1),
    }
    say(
        f"A/A {name:24s} {called}/{options.aa} called ({cell['rate']:.1%}, upper bound "
        f"{cell['upper_bound']:.2%}); ordinary intervals "
        f"{cell['called_by_ordinary_intervals']:.0%}; sample ratio blocked "
        f"{cell['blocked_by_sample_ratio']}"
    )
    return cell


# --- power --------------------------------------------------------------------------------------


def _power(
    name: str, trial: Trial, gain: float, options: argparse.Namespace, say: Any
) -> dict[str, Any]:
    """The calculator's days, from each company's own past, against how soon it is found."""
    begun, first = time.monotonic(), _seed(options, f"power:{name}")
    days: list[float] = []
    results: list[Result] = []
    iccs: list[float] = []
    numbers = range(first, first + options.power)
    for seed in progress(numbers, label=name, quiet=options.quiet, total=options.power):
        past = history(trial, seed)
        if past.ratio + gain >= 1:  # a company so punctual cannot gain so much
            days.append(np.inf)
            continue
        question = Question.from_history(
            past, trial.days, stay=trial.unit == UnitKind.COMPANY, effect=gain,
            share=trial.share, power=POWER,
        )  # fmt: skip
        iccs.append(question.icc)
        needed = days_needed(question).always_valid
        days.append(np.inf if needed is None else np.ceil(needed))
        if needed is not None:
            longest = _longest(trial, int(days[-1]))
            results.append(play_experiment(replace(trial, days=longest, gain=gain), seed))
    if not results:
        say(f"power {name:22s} {gain:+.0%}: no number of days is enough")
        return {"cell": name, "gain": gain, "days_predicted_p50": None, "kept": False}
    told = [d for d in days if np.isfinite(d)]
    found = _found_by(results, told)
    half = _found_by(results, [d / 2 for d in told])
    # A share of the days predicted: that within which four in five were found.
    shares = sorted(
        (r.called_on or np.inf) / d if r.answer == "better" else np.inf
        for r, d in zip(results, told, strict=True)
    )
    at = float(shares[min(len(shares) - 1, int(POWER * len(shares)))])
    slack = 1.645 * np.sqrt(POWER * (1 - POWER) / len(results))
    cell = {
        "cell": name, "gain": gain, "experiments": options.power,
        "never_enough": len(days) - len(told), "days_predicted_p50": float(np.median(told)),
        "days_predicted_p10_p90": [float(v) for v in np.percentile(told, [10, 90])],
        "found_within": found, "found_within_half": half,
        "four_in_five_found_by": finite(at), "icc_p50": float(np.median(iccs)),
        "found_wrong_way": sum(r.answer == "worse" for r in results),
        "covered": sum(r.covered is True for r in results) / len(results),
        "kept": bool(found + slack >= LEAST_POWER and half < POWER),
        "seconds": round(time.monotonic() - begun, 1),
    }  # fmt: skip
    by = f"{at:.0%} of them" if np.isfinite(at) else f"more than {LONGER:.0%} of them"
    say(
        f"power {name:22s} {gain:+.0%}: median {cell['days_predicted_p50']:.0f} days predicted for "
        f"{POWER:.0%}; found within them {found:.0%}, within half {half:.0%}; four in five found "
        f"by {by}; wrong way {cell['found_wrong_way']}; intra-unit {cell['icc_p50']:.3f}"
    )
    return cell


def _longest(trial: Trial, days: int) -> int:
    """Days to play: longer than predicted, to see when the aimed share is found in fact."""
    if trial.unit != UnitKind.COMPANY:
        return max(2, int(np.ceil(LONGER * days)))
    look = 1
    while look_day(look) < days:
        look += 1
    return look_day(look)


def _found_by(results: Sequence[Result], days: Sequence[float]) -> float:
    """Share found, in the right direction, within each one's days."""
    found = [
        r.answer == "better" and (r.called_on or 0.0) <= d
        for r, d in zip(results, days, strict=True)
    ]
    return sum(found) / len(found)


# --- bias ---------------------------------------------------------------------------------------


def _bias(pair: tuple[str, str], options: argparse.Namespace, say: Any) -> dict[str, Any]:
    """Each estimator against the truth, in a fleet that two policies share."""
    begun = time.monotonic()
    scenario = load_scenario(options.scenario)
    days = range(options.first_day, options.first_day + options.bias)
    label = ":".join(pair)
    fleet: list[SharedFleet] = []  # made when a day has to be played
    tables = {
        day: _played(scenario, pair, day, fleet, options)
        for day in progress(days, label=label, quiet=options.quiet, total=len(days))
    }
    found = measure_bias(tables, options.seed)
    split = found.of("booking", "as decided")
    ours = found.of(f"switchback-{RECOMMENDED_BLOCK_MIN}", "as reported")
    kept = abs(ours.bias.mean) <= QUARTER * abs(split.bias.mean)
    for line in _bias_lines(label, found, split):
        say(line)
    return {
        "pair": label, "scenario": scenario.name, "days": found.days,
        "first_day": options.first_day, "truth": _numbers(found),
        "estimators": [_row(b, split) for b in found.biases],
        "share_of_split": abs(ours.bias.mean / split.bias.mean), "kept": bool(kept),
        "seconds": round(time.monotonic() - begun, 1),
    }  # fmt: skip


def _played(
    scenario: Scenario,
    pair: tuple[str, str],
    day: int,
    fleet: list[SharedFleet],
    options: argparse.Namespace,
) -> dict[str, FloatArray]:
    """A day's tables, from the folder where they are kept or played now."""
    path = None
    if options.days_in is not None:
        name = f"{scenario.name}-{'-'.join(pair)}-{options.seed}-{day}.npz"
        path = options.days_in / name.replace(":", "_").replace("/", "_")
        if path.exists():
            with np.load(path) as kept:
                return {name: np.asarray(kept[name]) for name in kept.files}
    if not fleet:
        fleet.append(SharedFleet(scenario, *pair, seed=options.seed))
    tables = {}
    for name in DESIGNS:
        design = Design(name)
        tables[name] = fleet[0].play(design, day)
        if design.split:
            tables[name + MIRRORED] = fleet[0].play(design, day, mirrored=True)
    if path is not None:
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            np.savez_compressed(file, **tables)
        partial.replace(path)
    return tables


def _bias_lines(label: str, found: BiasReport, split: Bias) -> list[str]:
    control, learned = found.rates
    lines = [
        f"bias {label}, {found.days} days: on time {control:.1%} and {learned:.1%}, truth "
        f"{found.truth.mean:+.1f} ± {found.truth.half_width:.1f} points"
    ]
    for b in found.biases:
        part = abs(b.bias.mean / split.bias.mean)
        lines.append(
            f"  {b.design:15s} {b.counting:15s} says {b.difference:+6.1f}; bias {b.bias.mean:+6.1f}"
            f" ± {b.bias.half_width:4.1f} ({part:4.0%} of the split's); counts {b.share:.0%}"
        )
    return lines


def _numbers(found: BiasReport) -> dict[str, float]:
    return {
        "difference": found.truth.mean, "half_width": found.truth.half_width,
        "heuristic": found.rates[0], "learned": found.rates[1],
    }  # fmt: skip


def _row(b: Bias, split: Bias) -> dict[str, Any]:
    return {
        "design": b.design, "counting": b.counting, "difference": b.difference,
        "bias": b.bias.mean, "half_width": b.bias.half_width, "counts": b.share,
        "share_of_split": abs(b.bias.mean / split.bias.mean),
    }  # fmt: skip


if __name__ == "__main__":
    run(main)
