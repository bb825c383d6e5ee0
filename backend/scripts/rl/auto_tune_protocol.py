"""The fast-tuning protocol: batch size, loss weights, one long confirmation, GO or NO-GO.

An offline fit of the pair network to a teacher's days, with two loss terms: policy and value.
Exit code 0 is GO (or a part of the phases without a verdict), 1 NO-GO.
"""

import argparse
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.rl.command import (
    FAILED,
    INTERRUPTED,
    SUCCESS,
    Parser,
    check_name,
    command_parser,
    ended_as_by_ctrl_c,
    make_folder,
    positive_float,
    positive_int,
    provenance,
    run,
    script_beside,
    seed_number,
    write_json,
)
from services.rl.errors import UsageError
from services.rl.paths import results_dir
from services.rl.simulation.scenarios import load_scenario

if TYPE_CHECKING:
    from services.rl.training.protocol.dataset import DataOrder
    from services.rl.training.protocol.protocol import Plan

EXAMPLES = """
auto_tune.py protocol --scenario geneva_overload
auto_tune.py protocol --mode sanity --scenario geneva_small --quiet
auto_tune.py protocol --batch-size 1024 --lr 1e-3 --epochs 50 --early-stop-patience 15
auto_tune.py protocol --phases A,B --w-policy 1 --w-value 0.5
auto_tune.py protocol --teacher planner --days 200 --resume
"""


@dataclass(frozen=True)
class Budget:
    """What a mode sets where an option does not."""

    days: int
    val_days: int
    judge_days: int
    epochs: int
    batch_size: int
    backend_days: int
    backend_states: int


BUDGETS = {
    "sanity": Budget(4, 2, 4, 2, 64, 1, 20),
    "quick": Budget(60, 20, 500, 40, 1024, 10, 200),
    "production": Budget(200, 60, 1_000, 50, 1024, 20, 300),
}


def build_parser() -> Parser:
    """The options."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.prog = "auto_tune.py protocol"
    parser.add_argument("--scenario", default="geneva", help="name or YAML file (default geneva)")
    parser.add_argument(
        "--teacher", default="matching_linear", help="policy (default matching_linear, as the "
        "trainings' warm start)",
    )  # fmt: skip
    parser.add_argument("--name", help="folder under results/ (default <scenario>_protocol)")
    parser.add_argument(
        "--mode", choices=tuple(BUDGETS), default="quick", help="budget (default quick)"
    )
    parser.add_argument("--phases", default="A,B,C", help="some of A,B,C (default all)")
    start = parser.add_argument_group("the default configuration, where the phases begin")
    start.add_argument("--batch-size", type=positive_int, help="default by mode: 1024")
    start.add_argument("--lr", type=positive_float, default=1e-3, help="of Adam (default 1e-3)")
    start.add_argument("--epochs", type=positive_int, help="of a short run (default by mode)")
    start.add_argument("--early-stop-patience", type=positive_int, default=15, help="default 15")
    start.add_argument("--w-policy", type=weight, default=1.0, help="loss weight (default 1)")
    start.add_argument("--w-value", type=weight, default=1.0, help="loss weight (default 1)")
    days = parser.add_argument_group("days")
    days.add_argument("--days", type=positive_int, help="of the teacher, for training")
    days.add_argument("--val-days", type=positive_int, help="of the teacher, for val_total")
    days.add_argument("--judge-days", type=positive_int, help="played, for the blocking metrics")
    parser.add_argument("--resume", action="store_true", help="take what is finished already")
    parser.add_argument("--seed", type=seed_number, default=0)
    parser.add_argument("--data-dir", help="folder of real trips (default ATMR_DATA_DIR)")
    return parser


def weight(text: str) -> float:
    """Argument type: a finite number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run the protocol."""
    given = list(sys.argv[1:] if argv is None else argv)
    arguments = build_parser().parse_args(given)
    phases = _phases(arguments.phases)
    if arguments.w_policy == arguments.w_value == 0:
        raise UsageError("--w-policy and --w-value are both 0: there would be nothing to learn")
    make_folder(arguments.json and arguments.json.parent)
    order, plan = _ordered(arguments, phases)
    name = f"{order.scenario.name}_protocol" if arguments.name is None else arguments.name
    check_name("--name", name)
    folder = results_dir() / name
    make_folder(folder)
    with ended_as_by_ctrl_c():
        return _run(arguments, given, order, plan, folder)


def _phases(text: str) -> tuple[str, ...]:
    from services.rl.training.protocol.protocol import PHASES

    named = [part.strip().upper() for part in text.split(",")]
    for part in named:
        if part not in PHASES:
            raise UsageError(f"--phases {text!r}: there is no phase {part!r}: name some of A,B,C")
    return tuple(phase for phase in PHASES if phase in named)


def _ordered(arguments: argparse.Namespace, phases: tuple[str, ...]) -> tuple["DataOrder", "Plan"]:
    from services.rl.training.config import production_config
    from services.rl.training.protocol.dataset import DataOrder
    from services.rl.training.protocol.fit import FitOptions
    from services.rl.training.protocol.protocol import Plan

    budget = BUDGETS[arguments.mode]
    config = production_config().changed(seed=arguments.seed)
    order = DataOrder(
        load_scenario(arguments.scenario),
        config,
        arguments.teacher,
        arguments.days or budget.days,
        arguments.val_days or budget.val_days,
        arguments.data_dir,
    )
    start = FitOptions(
        batch_size=arguments.batch_size or budget.batch_size,
        learning_rate=arguments.lr,
        epochs=arguments.epochs or budget.epochs,
        patience=arguments.early_stop_patience,
        w_policy=arguments.w_policy,
        w_value=arguments.w_value,
        seed=arguments.seed,
        gradient_clip=config.hyperparameters.gradient_clip,
    )
    plan = Plan(
        start, phases, backend_days=budget.backend_days, backend_states=budget.backend_states
    )
    return order, plan


def _run(
    arguments: argparse.Namespace,
    given: Sequence[str],
    order: "DataOrder",
    plan: "Plan",
    folder: Path,
) -> int:
    from services.rl.training.checkpoints import sole_writer
    from services.rl.training.export import one_thread

    one_thread()
    say = (lambda _: None) if arguments.quiet else _say
    whence = {**provenance(), "seed": arguments.seed}
    try:
        with sole_writer(folder):
            found = _found(arguments, order, plan, folder, whence, say)
    except KeyboardInterrupt:  # while the teacher's days are played, or the report is written
        return _interrupted(given)
    if arguments.json is not None:
        write_json(arguments.json, {**found, **whence})
    if found["interrupted"]:
        return _interrupted(given)
    if not arguments.quiet:
        _conclude(found, folder)
    return FAILED if found["verdict"] == "NO-GO" else SUCCESS


def _found(
    arguments: argparse.Namespace,
    order: "DataOrder",
    plan: "Plan",
    folder: Path,
    whence: dict[str, Any],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Run the phases and write the report; refused before any work if the folder says so."""
    from services.rl.data.sources import open_source
    from services.rl.training.protocol import begun
    from services.rl.training.protocol.bench import Bench, judging_book
    from services.rl.training.protocol.dataset import data_set
    from services.rl.training.protocol.protocol import Outcome, run_protocol
    from services.rl.training.protocol.report import write_report
    from services.rl.training.protocol.table import document

    days = arguments.judge_days or BUDGETS[arguments.mode].judge_days
    expected = None
    if arguments.resume:
        begun.refuse_other(folder, order, plan.start, days)
        expected = begun.data_begun_on(folder)
        plan = replace(plan, phases=begun.with_finished(folder, plan.phases))
    else:
        begun.refuse_again(folder)
    source = open_source(order.scenario, order.data_dir)
    book = judging_book(order, source, days)
    data = data_set(order, say, expected=expected)
    plan.checked(len(data.train))
    begun.write_begun(folder, order, plan.start, days)
    bench = Bench(order, data, book, folder, source, whence, arguments.resume)

    def so_far(outcome: Outcome) -> None:
        write_report(folder, document(bench, plan, outcome), whence, draw=False)

    outcome = run_protocol(bench, plan, say, so_far)
    found = document(bench, plan, outcome)
    write_report(folder, found, whence)
    return found


def _interrupted(given: Sequence[str]) -> int:
    words = ["protocol", *(word for word in given if word != "--resume"), "--resume"]
    print(
        "interrupted; what is finished is written: go on with "
        f"{script_beside('auto_tune.py')} {shlex.join(words)}",
        file=sys.stderr,
    )
    return INTERRUPTED


def _conclude(found: dict[str, Any], folder: Path) -> None:
    from services.rl.training.protocol.protocol import DEFAULT
    from services.rl.training.protocol.report import significant

    for finding in found["findings"]:
        value, unit = finding["value"], finding["unit"]
        told = "not measured" if value is None else significant(value, unit)
        print(f"  {finding['kind']:9} {finding['measure']:16} {told:>12}  "
              f"{finding['bound']} {finding['limit']:g}: "
              f"{'holds' if finding['holds'] else 'BROKEN'}")  # fmt: skip
    winner, verdict = found["winner"], found["verdict"]
    who = "no candidate but the default" if winner == DEFAULT else f"candidate {winner}"
    if verdict is None:
        verdict = "no verdict (phase C was not asked for)"
    elif verdict == "NO-GO":
        verdict = "NO-GO, the default stays"
    print(f"{who}: {verdict}; report in {folder}")


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    run(main)
