"""From a trained model to a bundle that has been checked, with a report that says what was found.

A network is exported in every backend and measured; the fastest servable one that passes the gate
is named in the manifest. A planner gets as many moves as fit into its share of the time. Whatever
the kind, the bundle then plays whole days as it will be served, and must not fall back.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from services.rl.errors import BundleError, TrainingError
from services.rl.evaluation.evaluation import day_book
from services.rl.evaluation.paired import Estimate, paired_difference
from services.rl.evaluation.runner import DayBook, play_day
from services.rl.policies.base import DecisionSet
from services.rl.policies.model_files import MANIFEST, MODEL_FILE, read_manifest, settled
from services.rl.policies.planner import DEFAULT_MOVES, SearchPolicy
from services.rl.policies.planner_values import VALUES_FILE, planner_values
from services.rl.policies.registry import make_policy
from services.rl.serving.bundle import (
    EXPECTED_DEMAND,
    KINDS,
    LINEAR,
    MATCHING,
    NETWORK,
    PLANNER,
    Bundle,
    write_bundle,
)
from services.rl.serving.engine import InferenceEngine
from services.rl.serving.onnx_network import open_session
from services.rl.simulation.days import DaySource
from services.rl.simulation.scenarios import Scenario, Split
from services.rl.simulation.types import DispatchState, FloatArray

from .backends import Row, chosen, pair_contest, recorded_states

MOVES: Final = (20_000, DEFAULT_MOVES, 3_000, 1_500)
"""What a planner may search per epoch; the most that fits is taken."""
PLANNER_SHARE: Final = 0.3
"""Of the budget, that the 99th percentile of the planner's own time may take."""
FIRST_DAY: Final = 1_000
"""Validation day from which on no training judges itself."""

Say = Callable[[str], None]


@dataclass
class ExportReport:
    """What was measured while a model became a bundle.

    Attributes:
        kind: Of the bundle.
        model: Where the model came from.
        scenario: Name.
        days: Days played.
        states: States compared.
        backends: What was found out about each backend; empty where there is no network.
        chosen: Backend named in the manifest.
        moves: p50 and p99 milliseconds of a planner's decisions by moves.
        served: p50 and p99 milliseconds of decisions by the bundle as it is served.
        over_matching: Reward a day beyond tuned ``matching`` on the same days, with its interval.
        fallbacks: Reasons of fallbacks while it was played; must be empty.
        failures: Why the bundle must not be used, a sentence each.
        seconds: That all of it took.
    """

    kind: str
    model: str
    scenario: str
    days: int
    states: int = 0
    backends: list[Row] = field(default_factory=list)
    chosen: str = ""
    moves: dict[int, tuple[float, float]] = field(default_factory=dict)
    served: tuple[float, float] = (0.0, 0.0)
    over_matching: tuple[float, float] = (0.0, 0.0)
    fallbacks: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passes(self) -> bool:
        """Whether the bundle may become a candidate."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "passes": self.passes}


def kind_of(model: Path | None) -> str:
    """Which kind of bundle a model folder makes.

    Raises:
        BundleError: If there is nothing in it that can be served.
    """
    if model is None:
        return PLANNER
    if (model / VALUES_FILE).is_file():
        return PLANNER
    if (settled(model) / MANIFEST).is_file():
        return NETWORK
    raise BundleError(
        f"{model} holds no model that can be served: there is no {VALUES_FILE} and no {MANIFEST}"
    )


def export_model(
    folder: Path,
    scenario: Scenario,
    *,
    kind: str | None = None,
    model: Path | None = None,
    source: DaySource | None = None,
    days: int = 20,
    states: int = 300,
    turns: int = 6,
    budget_ms: float = 50.0,
    memory: bool = True,
    metrics: Mapping[str, Any] | None = None,
    parent: str | None = None,
    code_commit: str | None = None,
    transfer: bool = False,
    expected: Path | None = None,
    must_earn: bool = True,
    say: Say = lambda _: None,
) -> tuple[Bundle, ExportReport]:
    """Export, compare backends, write the bundle, and play it.

    Args:
        folder: Where the bundle will lie; it must not exist.
        scenario: The world it will serve.
        kind: Default: by what the model folder holds.
        model: Folder of a network or of planner values; None: the values filed.
        source: Real days, for scenarios that replay them.
        days: Paired validation days of the gate.
        states: Recorded states of the gate.
        turns: Of the measuring of backends.
        budget_ms: For the manifest.
        memory: Also measure the memory of a process for each backend (some seconds each).
        metrics: For the manifest.
        parent: For the manifest.
        code_commit: For the manifest.
        transfer: Admit planner values of another scenario.
        expected: A demand model that a planner looks ahead by, instead of the scenario's.
        must_earn: Whether it fails for earning less than tuned ``matching`` in the scenario; False
            where others judge that, on days as they have become.
        say: Told what happens.

    Returns:
        The bundle, and the report; a bundle whose report does not pass must not be used.

    Raises:
        BundleError: If it cannot be written, or the kind is unknown.
        TrainingError: If the network cannot be exported.
        PolicyError: If the model is damaged.
    """
    begun = time.perf_counter()
    kind = kind_of(model) if kind is None else kind
    if kind not in KINDS:
        raise BundleError(f"unknown kind of bundle {kind!r}: choose {', '.join(KINDS)}")
    book = day_book(scenario, source, Split.VALIDATION, days, FIRST_DAY if source is None else 0)
    report = ExportReport(kind, str(model or "filed values"), scenario.name, len(book))
    common: dict[str, Any] = {
        "model": model,
        "budget_ms": budget_ms,
        "metrics": metrics,
        "parent": parent,
        "code_commit": code_commit,
        "transfer": transfer,
    }
    if kind == NETWORK:
        if model is None:
            raise BundleError("a dqn_matching bundle needs a trained network: --model DIR")
        with tempfile.TemporaryDirectory() as scratch:
            files = _compare_backends(model, book, Path(scratch), states, turns, report, say)
            extra = {name.name: name for name in files.values()}
            bundle = write_bundle(
                folder, kind, scenario, extra=extra, backend=report.chosen, **common
            )
        if memory:
            for row in report.backends:
                row.rss_mb = process_memory(bundle, row.name, model)
    elif kind == PLANNER:
        moves = _fitting_moves(model, book, states, budget_ms, transfer, report, say)
        known = {} if expected is None else {EXPECTED_DEMAND: expected}
        bundle = write_bundle(
            folder, kind, scenario, extra=known, policy={"moves": moves}, **common
        )
    else:
        bundle = write_bundle(folder, kind, scenario, **common)
    _play_as_served(bundle, book, report, say, must_earn=must_earn)
    report.seconds = time.perf_counter() - begun
    return bundle, report


def measure_bundle(
    bundle: Bundle, *, source: DaySource | None = None, days: int = 20, say: Say = lambda _: None
) -> ExportReport:
    """Play a bundle that exists as it is served: latency, reward against matching, fallbacks.

    Raises:
        UsageError: If the validation split has fewer days.
    """
    begun = time.perf_counter()
    first = FIRST_DAY if source is None else 0
    book = day_book(bundle.scenario, source, Split.VALIDATION, days, first)
    report = ExportReport(bundle.kind, bundle.version, bundle.scenario.name, len(book))
    report.chosen = bundle.manifest.backend
    _play_as_served(bundle, book, report, say)
    report.seconds = time.perf_counter() - begun
    return report


def _compare_backends(
    model: Path,
    book: DayBook,
    scratch: Path,
    states: int,
    turns: int,
    report: ExportReport,
    say: Say,
) -> dict[str, Path]:
    from .export import export_onnx, load_graph, one_thread, torch_sessions, torch_sizes

    one_thread()
    graph, _ = load_graph(model)
    manifest = read_manifest(model)
    if manifest.network.get("network") != "pair":
        raise BundleError(f"{model} holds a flat network; dqn_matching needs a pair network")
    say("exporting to ONNX")
    files = export_onnx(graph, scratch / "onnx")
    sessions = {name: open_session(path) for name, path in files.items()}
    sizes = {name: path.stat().st_size for name, path in files.items()}
    sizes |= torch_sizes(graph, scratch)
    sizes["numba"] = (settled(model) / MODEL_FILE).stat().st_size
    contest = pair_contest(
        model, manifest, book, {**sessions, **torch_sessions(graph)}, sizes, limit=states
    )
    report.states = len(contest.states)
    report.backends = contest.rows(turns=turns, say=say)
    best = chosen(report.backends)
    if best is None:
        raise TrainingError(
            f"{model}: no backend computes what was trained; the export is not to be trusted"
        )
    report.chosen = best.name
    say(f"fastest that passes: {best.name}")
    return files


def _fitting_moves(
    model: Path | None,
    book: DayBook,
    limit: int,
    budget_ms: float,
    transfer: bool,
    report: ExportReport,
    say: Say,
) -> int:
    """The most moves whose 99th percentile fits into the planner's share of the budget."""
    scenario = book.scenario
    values, note, _ = planner_values(scenario, model, transfer=transfer)
    report.model = note if model is None else report.model
    states = recorded_states(make_policy("matching", scenario, source=book.source), book, limit)
    report.states = len(states)
    for moves in MOVES:
        policy = SearchPolicy(PLANNER, scenario, source=book.source, values=values, moves=moves)
        report.moves[moves] = _own_time(policy, states)
        middle, high = report.moves[moves]
        say(f"  {moves} moves: p50 / p99 {middle:.1f} / {high:.1f} ms")
        if high <= PLANNER_SHARE * budget_ms:
            return moves
    say("  even the fewest moves take more; the budget decides")
    return MOVES[-1]


def _own_time(policy: SearchPolicy, states: list[DispatchState]) -> tuple[float, float]:
    """p50 and p99 of the processor's milliseconds of a decision: what the machine is capable of."""
    policy.decide(states[0])
    spent = np.empty(len(states))
    for i, state in enumerate(states):
        begun = time.thread_time()
        policy.decide(state)
        spent[i] = (time.thread_time() - begun) * 1e3
    return float(np.percentile(spent, 50)), float(np.percentile(spent, 99))


class _Served:
    """An engine as a policy, to be played on days."""

    def __init__(self, engine: InferenceEngine) -> None:
        self.name = "served"
        self.latency: list[float] = []
        self._engine = engine

    def decide(
        self, state: DispatchState, *, plan: Any = None, budget_ms: Any = None, rng: Any = None
    ) -> DecisionSet:
        """See `Policy`; no time limit, for what is checked is the model and not this moment."""
        _ = budget_ms, rng
        answer = self._engine.decide(state, plan=plan, budget_ms=60_000.0)
        self.latency.append(answer.latency_ms)
        return answer.decisions


def _play_as_served(
    bundle: Bundle, book: DayBook, report: ExportReport, say: Say, *, must_earn: bool = True
) -> None:
    say(f"playing {len(book)} days as served")
    engine = InferenceEngine(book.scenario, bundle, source=book.source)
    engine.warm_up()
    served = _Served(engine)
    world = book.engine(range(len(book)))
    refused = sum(play_day(served, world, e)[1] for e in range(len(book)))
    rewards = _rewards(world, len(book))
    engine.close()
    world = book.engine(range(len(book)))
    make_policy("matching", book.scenario, source=book.source).play(world)  # type: ignore[attr-defined]
    gain: Estimate = paired_difference(rewards, _rewards(world, len(book)))
    report.over_matching = (gain.mean, gain.half_width if np.isfinite(gain.half_width) else 0.0)
    report.served = (
        float(np.percentile(served.latency, 50)),
        float(np.percentile(served.latency, 99)),
    )
    report.fallbacks = {
        name.removeprefix("fallback:"): count
        for name, count in engine.counters.items()
        if name.startswith("fallback:")
    }
    if report.fallbacks:
        report.failures.append(f"the model fell back while it was played: {report.fallbacks}")
    if refused:
        report.failures.append(f"{refused} of its assignments were not allowed")
    if must_earn and bundle.kind not in (MATCHING, LINEAR) and gain.high < 0.0:
        report.failures.append(
            f"it earns {-gain.mean:.1f} ± {gain.half_width:.1f} a day less than tuned matching"
        )


def _rewards(world: Any, days: int) -> FloatArray:
    return np.array([world.kpis(e)["reward"] for e in range(days)])


# --- memory --------------------------------------------------------------------------------------

_MEMORY_PROGRAM: Final = """
import dataclasses, sys
from pathlib import Path
from services.rl.serving.bundle import Bundle, read_bundle
folder, backend, model = sys.argv[1:4]
bundle = read_bundle(Path(folder))
if backend.startswith("torch"):
    import torch
    from services.rl.serving.onnx_network import OnnxPairPolicy
    from services.rl.serving.policies import warm_state
    from services.rl.training.export import load_graph, torch_sessions
    torch.set_num_threads(1)
    session = torch_sessions(load_graph(Path(model))[0])[backend]
    OnnxPairPolicy(session, bundle.scenario, hold_back_min=60.0).decide(warm_state(bundle.scenario))
else:
    from services.rl.serving.engine import InferenceEngine
    bundle = Bundle(bundle.path, dataclasses.replace(bundle.manifest, backend=backend))
    engine = InferenceEngine(bundle.scenario, bundle)
    engine.warm_up()
    engine.close()
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmRSS:")))
"""


def process_memory(bundle: Bundle, backend: str, model: Path) -> float | None:
    """Resident MiB of a fresh process that has decided once; None where it cannot be told.

    Args:
        bundle: A network's bundle.
        backend: Runs it, whatever the manifest says.
        model: The folder it came from, for Torch.
    """
    done = subprocess.run(  # noqa: S603 - our own program and arguments
        [sys.executable, "-c", _MEMORY_PROGRAM, str(bundle.path), backend, str(model)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return int(done.stdout) / 1024 if done.returncode == 0 and done.stdout.strip() else None


# --- the report ----------------------------------------------------------------------------------


def markdown(report: ExportReport, bundle: Bundle) -> str:
    """The report for people: one page."""
    mean, half = report.over_matching
    lines = [
        f"# Model {bundle.version}: {report.kind} for {report.scenario}",
        "",
        f"From {report.model}. {report.days} validation days, {report.states} recorded states, one "
        f"thread, {report.seconds:.0f} s.",
        "",
        f"As served: p50 / p99 {report.served[0]:.2f} / {report.served[1]:.2f} ms a decision; "
        f"{mean:+.1f} ± {half:.1f} reward a day against tuned matching.",
        "",
    ]
    if report.moves:
        lines += ["| moves | p50 ms | p99 ms |", "|---|---|---|"]
        lines += [f"| {m} | {a:.2f} | {b:.2f} |" for m, (a, b) in report.moves.items()]
        lines += ["", f"Moves served: {bundle.policy.get('moves')}.", ""]
    if report.backends:
        lines += backend_table(report.backends)
        lines += ["", f"Fastest servable that passes on this machine: **{report.chosen}**.", ""]
    lines += [f"- {failure}" for failure in report.failures] or ["All checks passed."]
    return "\n".join(lines) + "\n"


def backend_table(rows: list[Row]) -> list[str]:
    """Backends as a Markdown table."""
    lines = [
        "| backend | gate | max dQ | same decision | reward % (low) | decide ms p50 / p99 | "
        "network us, batch 1 | 8 | 64 | faster than Torch, batch 1 | 64 at once | kB | RSS MiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        network = [f"{row.forward_us[b][0]:.0f} / {row.forward_us[b][1]:.0f}" for b in (1, 8, 64)]
        rss = "" if row.rss_mb is None else f"{row.rss_mb:.0f}"
        lines.append(
            f"| {row.name} | {'passes' if row.passes else 'fails'} | {row.max_difference:.1e} | "
            f"{100 * row.agreement:.2f} % | {row.reward_pct:+.2f} ({row.reward_low_pct:+.2f}) | "
            f"{row.decide_ms[0]:.2f} / {row.decide_ms[1]:.2f} | {' | '.join(network)} | "
            f"{row.speedup[1]:.1f} x | {row.sequential:.1f} x | {row.size / 1e3:.0f} | {rss} |"
        )
    return lines


def save_report(
    report: ExportReport, bundle: Bundle, folder: Path, extra: Mapping[str, Any]
) -> Path:
    """Write ``<version>.json`` and ``<version>.md``; returns the latter.

    Raises:
        BundleError: If they cannot be written.
    """
    document = {"version": bundle.version, **report.to_json(), **extra}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (
            (f"{bundle.version}.json", json.dumps(document, indent=2) + "\n"),
            (f"{bundle.version}.md", markdown(report, bundle)),
        ):
            temporary = folder / f"{name}.partial"
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(folder / name)
    except OSError as error:
        raise BundleError(f"report {folder} cannot be written: {error.strerror}") from error
    return folder / f"{bundle.version}.md"
