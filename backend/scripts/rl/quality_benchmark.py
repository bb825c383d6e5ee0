"""Every number of the quality tables, from scratch, with plots; behind ``benchmark.py quality``.

Trains the learned policies (or takes trained ones), plays all policies on test days, and writes
quality.json, QUALITE.md (in French) and plots. Finished cells are kept by hash under
results/NAME/cells: the same command goes on after a kill, and takes seconds when all is there.
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scripts.rl.command import (
    INTERRUPTED,
    command_parser,
    make_folder,
    positive_float,
    positive_int,
    progress,
    provenance,
    write_json,
)
from scripts.rl.quality_training import Training, train_all
from services.rl import paths
from services.rl.data.manhattan import DATA_DIR_VARIABLE
from services.rl.errors import UsageError
from services.rl.evaluation.quality import PARTS, Options, Plan, collected, plan_of
from services.rl.evaluation.quality_cells import (
    Cell,
    CellStore,
    code_fingerprint,
    finished,
    model_sha256,
)
from services.rl.evaluation.quality_measures import Measures
from services.rl.evaluation.quality_models import (
    MATCHING_VALUES,
    NETWORK,
    PLANNER,
    grouped,
    models_in,
)
from services.rl.evaluation.quality_targets import targets
from services.rl.simulation.scenarios import load_scenario

EXAMPLES = """
benchmark.py quality --models results --name quality
benchmark.py quality --seeds 5 --jobs 2
benchmark.py quality --planner results/planner_geneva_s* --scenarios geneva --learned planner
benchmark.py quality --models results --parts manhattan --data-dir DIR
benchmark.py quality --learned none --parts kpis,safety --days 20 --expensive-days 2
"""
QUALITY_SCHEMA = 1
_LEARNED = {"planner": PLANNER, "network": NETWORK}
_NETWORK_PARTS = {"kpis", "front", "who", "safety"}
_TELL_EVERY_S = 60.0


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.prog = "benchmark.py quality"
    parser.add_argument("--name", default="quality", help="folder under results/ (default quality)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="of the tables (default the same)")
    parser.add_argument("--parts", help=f"comma-separated, of {','.join(PARTS)} (default all)")
    parser.add_argument(
        "--scenarios", default="geneva,geneva_overload", help="default geneva,geneva_overload"
    )
    parser.add_argument("--days", type=positive_int, default=200, help="test days (default 200)")
    parser.add_argument(
        "--expensive-days", type=positive_int, default=20,
        help="of rolling and hindsight (default 20)",
    )  # fmt: skip
    parser.add_argument(
        "--moves", type=positive_int, default=6_000,
        help="of the planner and the search beside it, per epoch (default 6000)",
    )  # fmt: skip
    models = parser.add_argument_group("models (none given: they are trained)")
    models.add_argument(
        "--models", type=Path, metavar="DIR", help="folder of <kind>_<scenario>_s<seed>"
    )
    models.add_argument("--planner", nargs="+", type=Path, default=[], metavar="DIR")
    models.add_argument("--network", nargs="+", type=Path, default=[], metavar="DIR")
    models.add_argument(
        "--learned", default="planner,network", help="which to measure: planner,network or none"
    )
    models.add_argument("--seeds", type=positive_int, default=5, help="trainings (default 5)")
    models.add_argument(
        "--training-mode", default="production", choices=("sanity", "quick", "production")
    )
    parser.add_argument("--data-dir", help=f"of Manhattan (default {DATA_DIR_VARIABLE})")
    parser.add_argument("--hindsight-seconds", type=positive_float, default=10.0)
    parser.add_argument(
        "--jobs", type=positive_int, default=max(1, (os.cpu_count() or 1) - 1),
        help="processes (default one less than cores: times are measured)",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str]) -> int:
    """Measure, write, print the verdicts."""
    arguments = build_parser().parse_args(argv)
    try:
        return _measure(arguments, provenance())
    except KeyboardInterrupt:
        again = shlex.join(["benchmark.py", "quality", *argv])
        print(f"interrupted; what is finished is kept: go on with {again}", file=sys.stderr)
        return INTERRUPTED


def _measure(arguments: argparse.Namespace, origin: dict[str, Any]) -> int:
    say: Callable[[str], None] = (
        (lambda _: None) if arguments.quiet else (lambda text: print(text, flush=True))
    )
    options = _options(arguments)
    folder = paths.results_dir() / _plain(arguments.name)
    out = arguments.out or folder
    for place in (out, arguments.json and arguments.json.parent):
        _writable(place)
    plan_of(options, {})  # what is mistyped or missing shows before minutes of training
    models, trainings = _models(arguments, options, say)
    plan = plan_of(options, models)
    store = CellStore(folder / "cells")
    cells = plan.cells()
    results = finished(cells, store, jobs=arguments.jobs, on_cell=_teller(arguments, cells, say))
    say(f"{store.played} cells played, {store.reused} kept from before, {store.damaged} damaged")
    tables = Measures(plan, collected(plan, results), results).tables()
    tables["training"] = [
        {
            "kind": t["kind"],
            "scenario": t["scenario"],
            "seed": t["seed"],
            "mode": t["mode"],
            "minutes": t["seconds"] / 60,
        }
        for t in trainings
        if t["whole"]
    ]
    document = _document(plan, tables, store, origin)
    write_json(out / "quality.json", document)
    if arguments.json is not None:
        write_json(arguments.json, document)
    # Matplotlib takes a second to import.
    from services.rl.evaluation.quality_plots import draw
    from services.rl.evaluation.quality_report import verdict_lines, write_report

    images = draw(document, out)
    report = write_report(document, images, out)
    for line in verdict_lines(document):
        say(line)
    say(f"Written: {report}, {out / 'quality.json'} and {len(images)} plots")
    return 0


def _document(
    plan: Plan, tables: dict[str, Any], store: CellStore, origin: dict[str, Any]
) -> dict[str, Any]:
    fingerprint = code_fingerprint()
    return {
        "schema": QUALITY_SCHEMA,
        **origin,
        "code": fingerprint,
        "options": vars(plan.options),
        "models": [
            {"kind": kind, "scenario": name, "folder": str(path), "sha256": model_sha256(path)}
            for (kind, name), folders in plan.models.items()
            for path in folders
        ],
        "cells": {
            f"{world} {policy}": [[cell.key(fingerprint) for cell in run] for run in series.runs]
            for (world, policy), series in plan.series.items()
        },
        "damaged_cells": store.damaged,
        "targets": [target.to_json() for target in targets(tables)],
        "tables": tables,
    }


def _options(arguments: argparse.Namespace) -> Options:
    real = arguments.data_dir or os.environ.get(DATA_DIR_VARIABLE)
    parts = tuple(p for p in PARTS if p != "manhattan" or real)
    if arguments.parts is not None:
        parts = _words(arguments.parts)
    return Options(
        parts=parts,
        scenarios=_words(arguments.scenarios),
        days=arguments.days,
        expensive_days=arguments.expensive_days,
        moves=arguments.moves,
        hindsight_seconds=arguments.hindsight_seconds,
        data_dir=arguments.data_dir,
    )


def _words(text: str) -> tuple[str, ...]:
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not words:
        raise UsageError(f"nothing is named in {text!r}")
    return words


def _plain(name: str) -> str:
    if not name or Path(name).name != name or name.startswith("."):
        raise UsageError(f"--name {name!r} is no plain name of a folder")
    return name


def _writable(folder: Path | None) -> None:
    make_folder(folder)
    if folder is None:
        return
    probe = folder / f".probe.{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"folder {folder} cannot be written: {error.strerror}") from error


def _models(
    arguments: argparse.Namespace, options: Options, say: Callable[[str], None]
) -> tuple[dict[tuple[str, str], list[Path]], list[dict[str, Any]]]:
    """The trained models that the parts need, and records of trainings made for them."""
    words = () if arguments.learned == "none" else _words(arguments.learned)
    for word in words:
        if word not in _LEARNED:
            raise UsageError(f"--learned {word}: choose among planner, network, none")
    kinds = {_LEARNED[word] for word in words}
    parts = set(options.parts)
    if not parts & _NETWORK_PARTS:
        kinds.discard(NETWORK)
    if parts == {"manhattan"}:
        kinds.clear()
    given = arguments.models is not None or arguments.planner or arguments.network
    if not given:
        trainings = [
            Training(arguments.name, kind, scenario, seed, arguments.training_mode)
            for seed in range(arguments.seeds)
            for scenario in options.scenarios
            for kind in sorted(kinds)
        ]
        return _by_scenario(*train_all(trainings, say))
    found = models_in(arguments.models) if arguments.models is not None else {}
    found |= grouped([*arguments.planner, *arguments.network])
    for scenario in options.scenarios:
        name = load_scenario(scenario).name
        for kind in sorted(kinds):
            if (kind, name) not in found:
                raise UsageError(
                    f"there is no {kind} model for {name} among those given; name one, or leave "
                    "the kind out with --learned"
                )
    wanted = kinds | {MATCHING_VALUES}
    return {key: folders for key, folders in found.items() if key[0] in wanted}, []


def _by_scenario(
    models: dict[tuple[str, str], list[Path]], records: list[dict[str, Any]]
) -> tuple[dict[tuple[str, str], list[Path]], list[dict[str, Any]]]:
    """Models of scenarios given as files, under the names that these files give themselves."""
    names = {Path(r["scenario"]).stem: load_scenario(r["scenario"]).name for r in records}
    return {(kind, names[stem]): found for (kind, stem), found in models.items()}, records


def _teller(
    arguments: argparse.Namespace, cells: Sequence[Cell], say: Callable[[str], None]
) -> Callable[[Cell, bool], None]:
    """A progress bar in a terminal; elsewhere a line a minute."""
    total = len(cells)
    bar = iter(progress(range(total), label="cells", quiet=arguments.quiet, total=total))
    begun = time.monotonic()
    state = {"done": 0, "told": begun}

    def tell(cell: Cell, played: bool) -> None:
        next(bar, None)
        state["done"] += 1
        now = time.monotonic()
        if played and not sys.stderr.isatty() and now - state["told"] > _TELL_EVERY_S:
            state["told"] = now
            where = f"{cell.scenario.name} {cell.policy}"
            say(f"{state['done']} of {total} cells after {now - begun:.0f} s: {where}")

    return tell
