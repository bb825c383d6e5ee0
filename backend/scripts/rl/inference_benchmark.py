"""How fast a decision is, and a network in each backend, side by side in one run on one thread.

decisions: the engine as it serves (fallback first, then the model, then the check of its
decisions), on 10 drivers with 15 to 25 open bookings and on 200 with 400 to 600, in days that are
played with the plan handed on. Wall-clock time, and the processor's time of all threads, which a
busy machine disturbs little. networks: the roadmap's QNetwork and PairQNetwork in every backend,
behind the gate of the export. Without --pair or --flat a network is drawn from a seed: its speed
is that of a trained one, its gate says nothing.
"""

import gc
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scripts.rl.command import command_parser, positive_int, provenance, run, write_json
from services.rl.evaluation.evaluation import day_book
from services.rl.policies.registry import make_policy
from services.rl.serving.bundle import NETWORK, PLANNER, write_bundle
from services.rl.serving.engine import InferenceEngine
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import FIRST_SEED, Scenario, Split, load_scenario

EXAMPLES = """
benchmark.py inference
benchmark.py inference --pair results/pair/checkpoints/best --flat results/flat/checkpoints/best
benchmark.py inference --rows decisions --json results/inference.json
"""

FIRST_DAY = 1_000  # validation day from which on no training judges itself
SIZES = ("10 x 20", "200 x 500")
OPEN = {"10 x 20": (15, 25), "200 x 500": (400, 600)}
"""Epochs with so many open bookings are counted; the others are played, for the plan."""
Say = Callable[[str], Any]


def decisions(pair: Path, planner_moves: int, days: int, say: Say) -> list[dict[str, Any]]:
    """Latency of the engine for both kinds and both sizes."""
    rows = []
    for name in SIZES:
        small = name == "10 x 20"
        scenario = load_scenario("geneva_overload" if small else "geneva")
        if not small:
            scenario = scenario.resized(num_drivers=200)
        turns = days if small else max(1, days // 5)
        for kind in (NETWORK, PLANNER):
            with tempfile.TemporaryDirectory() as scratch:
                bundle = write_bundle(
                    Path(scratch) / "b",
                    kind,
                    scenario,
                    model=pair if kind == NETWORK else None,
                    policy={"moves": planner_moves} if kind == PLANNER else None,
                    transfer=True,
                )
                row = _timed(scenario, bundle, OPEN[name], turns)
            rows.append({"kind": kind, "size": name, **row})
            say(
                f"| {kind} | {name} (open: {row['bookings_mean']:.0f}, at most "
                f"{row['bookings_most']}) | {row['wall_ms'][0]:.2f} / {row['wall_ms'][1]:.2f} | "
                f"{row['cpu_ms'][0]:.2f} / {row['cpu_ms'][1]:.2f} | {row['fallbacks']} |"
            )
    return rows


def _timed(scenario: Scenario, bundle: Any, band: tuple[int, int], days: int) -> dict[str, Any]:
    engine = InferenceEngine(scenario, bundle, budget_ms=60_000.0)
    engine.warm_up()
    world = Engine(scenario, 1)
    wall, cpu, bookings = [], [], []
    gc.collect()
    for day in range(days):
        world.start([FIRST_SEED[Split.VALIDATION] + FIRST_DAY + day])
        plan: Any = None
        while not world.ended(0):
            state, rows = world.state(0), world.open_rows(0)
            begun = time.process_time()
            answer = engine.decide(state, plan=plan)
            if band[0] <= len(rows) <= band[1]:
                cpu.append((time.process_time() - begun) * 1e3)
                wall.append(answer.latency_ms)
                bookings.append(len(rows))
            plan = answer.decisions.plan
            for d in answer.decisions.decisions:
                if d.driver is not None:
                    world.commit(0, d.driver, int(rows[d.booking]))
            world.wait(0)
    engine.close()
    late = {k: v for k, v in engine.counters.items() if k.startswith("fallback:")}
    return {
        "wall_ms": _p50_p99(wall),
        "cpu_ms": _p50_p99(cpu),
        "decisions": len(wall),
        "bookings_mean": float(np.mean(bookings)),
        "bookings_most": int(np.max(bookings)),
        "fallbacks": sum(late.values()),
    }


def _p50_p99(values: Sequence[float]) -> tuple[float, float]:
    return float(np.percentile(values, 50)), float(np.percentile(values, 99))


def networks(
    which: str, model: Path, days: int, states: int, turns: int, say: Say
) -> list[dict[str, Any]]:
    """Every backend of one network; see `training.backends`."""
    from dataclasses import asdict

    from services.rl.policies.model_files import MODEL_FILE, read_manifest, settled
    from services.rl.serving.onnx_network import open_session
    from services.rl.training.backends import flat_contest, pair_contest
    from services.rl.training.export import (
        export_onnx,
        load_graph,
        one_thread,
        torch_sessions,
        torch_sizes,
    )
    from services.rl.training.export_run import backend_table

    one_thread()
    manifest = read_manifest(model)
    graph, _ = load_graph(model)
    scenario = load_scenario(manifest.environment["scenario"])
    book = day_book(scenario, None, Split.VALIDATION, days, FIRST_DAY)
    with tempfile.TemporaryDirectory() as scratch:
        files = export_onnx(graph, Path(scratch))
        sessions = {name: open_session(path) for name, path in files.items()}
        sizes = {name: path.stat().st_size for name, path in files.items()}
        sizes |= torch_sizes(graph, Path(scratch))
        sizes["numba"] = (settled(model) / MODEL_FILE).stat().st_size
        contest_of = pair_contest if which == "PairQNetwork" else flat_contest
        every = {**sessions, **torch_sessions(graph)}
        rows = contest_of(model, manifest, book, every, sizes, limit=states).rows(turns=turns)
    for line in backend_table(rows):
        say(line)
    return [asdict(row) for row in rows]


def seeded(which: str, folder: Path) -> Path:
    """A model folder with the weights that a seed gives."""
    import torch

    from services.rl.policies.model_files import ModelManifest
    from services.rl.q_networks import PairFeatures, PairQNetwork, QNetwork
    from services.rl.simulation.observation import LAYOUT_VERSION, ObservationLayout
    from services.rl.training.checkpoints import write_checkpoint

    scenario = load_scenario("geneva")
    drivers = scenario.fleet.num_drivers
    torch.manual_seed(0)
    network: PairQNetwork | QNetwork
    if which == "PairQNetwork":
        kind, features = "rows", PairFeatures(Engine(scenario, 1, observation="rows"))
        network = PairQNetwork(drivers, 20, features)
    else:
        kind = "compact"
        layout = ObservationLayout("compact", drivers, 20)
        network = QNetwork(layout.size, layout.num_actions)
    environment = {
        "scenario": scenario.name,
        "scenario_hash": scenario.sha256,
        "observation": kind,
        "num_drivers": drivers,
        "max_bookings": 20,
        "layout_version": LAYOUT_VERSION,
    }
    manifest = ModelManifest(network.architecture(), environment, 0.1, "dqn_matching", 0)
    write_checkpoint(folder, manifest, dict(network.state_dict()), lambda _: None)
    # The policies' own arithmetic must run it too.
    make_policy("dqn", scenario, model=folder)
    return folder


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print tables in Markdown."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.prog = "benchmark.py inference"
    parser.add_argument("--pair", type=Path, metavar="DIR", help="a trained pair network")
    parser.add_argument("--flat", type=Path, metavar="DIR", help="a trained flat network")
    parser.add_argument("--rows", default="decisions,networks", help="which, by comma (both)")
    parser.add_argument("--days", type=positive_int, default=20, help="of each part (default 20)")
    parser.add_argument("--states", type=positive_int, default=300, help="of the gate")
    parser.add_argument("--turns", type=positive_int, default=12, help="of each backend")
    parser.add_argument("--moves", type=positive_int, default=6_000, help="of the planner")
    arguments = parser.parse_args(argv)
    say: Say = (lambda _: None) if arguments.quiet else print
    wanted = set(arguments.rows.split(","))
    if not wanted <= {"decisions", "networks"}:
        parser.error(f"--rows {arguments.rows}: choose among decisions, networks")
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        models = {}
        for which, given in (("PairQNetwork", arguments.pair), ("QNetwork", arguments.flat)):
            models[which] = given or seeded(which, Path(scratch) / which)
            say(f"{which}: {given or 'weights drawn from a seed: speeds only'}")
        if "decisions" in wanted:
            say(
                "\n| kind | drivers x bookings | wall ms p50 / p99 | cpu ms p50 / p99 | fallbacks |"
            )
            say("|---|---|---|---|---|")
            result["decisions"] = decisions(
                models["PairQNetwork"], arguments.moves, arguments.days, say
            )
        if "networks" in wanted:
            for which, model in models.items():
                say(f"\n{which}")
                result[which] = networks(
                    which, model, arguments.days, arguments.states, arguments.turns, say
                )
    if arguments.json is not None:
        write_json(arguments.json, {**result, **provenance()})
    return 0


if __name__ == "__main__":
    run(main)
