"""Commands on studies that were played: ``auto_tune.py confirm``, ``report``, ``compare``."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.rl.command import (
    INTERRUPTED,
    SUCCESS,
    command_parser,
    ended_as_by_ctrl_c,
    make_folder,
    positive_int,
    provenance,
    script_beside,
    write_json,
)
from services.rl import paths
from services.rl.errors import UsageError
from services.rl.simulation.scenarios import load_scenario

if TYPE_CHECKING:
    import optuna

CONFIRM_EXAMPLES = """
auto_tune.py confirm --study geneva_overload_qnetwork --workers 2
auto_tune.py confirm --study geneva_overload_qnetwork --top 2 --seeds 6 --transfer geneva
"""
REPORT_EXAMPLES = """
auto_tune.py report --study geneva_overload_qnetwork
auto_tune.py report --study geneva_overload_qnetwork --out session/RL/tuning/mine
"""
COMPARE_EXAMPLES = """
auto_tune.py compare geneva_overload_qnetwork geneva_overload_qnetwork_random
"""


def add_storage(parser: argparse.ArgumentParser) -> None:
    """The option that says where studies are kept."""
    parser.add_argument(
        "--storage", metavar="URL",
        help="database of studies; postgresql://... for many machines (default ATMR_TUNING_URL, or "
        "an SQLite file under data/rl/tuning)",
    )  # fmt: skip


def confirm(argv: Sequence[str]) -> int:
    """Retrain the best, choose one, compare it with the default on test days."""
    from services.rl.training.tuning.confirm import ConfirmPlan
    from services.rl.training.tuning.confirm import confirm as confirmed
    from services.rl.training.tuning.report import write_report
    from services.rl.training.tuning.storage import in_use, open_storage
    from services.rl.training.tuning.study import existing_study
    from services.rl.training.tuning.worker import folder_of, order_of

    parser = command_parser(confirm.__doc__ or "", CONFIRM_EXAMPLES)
    parser.prog = "auto_tune.py confirm"
    parser.add_argument("--study", required=True, help="a study that was played")
    add_storage(parser)
    parser.add_argument("--top", type=positive_int, default=3, help="candidates (default 3)")
    parser.add_argument("--seeds", type=positive_int, default=3, help="of each (default 3)")
    parser.add_argument(
        "--mode", choices=("sanity", "quick", "production"), default="production",
        help="budget of a training (default production)",
    )  # fmt: skip
    parser.add_argument(
        "--steps", type=positive_int,
        help="environment steps of a training (planner: generations) instead of the mode's",
    )  # fmt: skip
    parser.add_argument(
        "--choice-days", type=positive_int, default=200,
        help="fresh validation days that choose a candidate (default 200)",
    )  # fmt: skip
    parser.add_argument(
        "--test-days", type=positive_int, default=200,
        help="test days that compare it with the default (default 200)",
    )  # fmt: skip
    parser.add_argument("--transfer", help="another scenario to play both on, as they are")
    parser.add_argument("--data-dir", help="folder of real trips (default the study's)")
    parser.add_argument("--workers", type=positive_int, default=1, help="processes (default 1)")
    arguments = parser.parse_args(argv)
    make_folder(arguments.json and arguments.json.parent)
    with in_use(open_storage(arguments.storage, must_exist=True)) as storage:
        study = existing_study(arguments.study, storage)
        order = order_of(study, arguments.storage)
        if arguments.data_dir is not None:
            order = replace(order, data_dir=arguments.data_dir)
        plan = ConfirmPlan(
            top=arguments.top,
            seeds=arguments.seeds,
            mode=arguments.mode,
            steps=arguments.steps,
            choice_days=arguments.choice_days,
            test_days=arguments.test_days,
            transfer=None if arguments.transfer is None else load_scenario(arguments.transfer),
            workers=arguments.workers,
        )
        try:
            with ended_as_by_ctrl_c():
                document = confirmed(study, order, plan, _printer(arguments.quiet), provenance())
        except KeyboardInterrupt:
            print(
                "interrupted; finished trainings are kept: the same command goes on",
                file=sys.stderr,
            )
            return INTERRUPTED
        folder = folder_of(order.name)
        write_report(study, folder, document)
    if arguments.json is not None:
        write_json(arguments.json, {**document, **provenance()})
    if not arguments.quiet:
        test = document["test"]
        reward = test["kpis"]["reward"]
        low, high = reward["difference"]["ci95"]
        verdict = "a gain" if test["claimed"] else "no gain that can be claimed: the default stays"
        print(
            f"{document['candidate']} on test days: {reward['winner']:.1f} against "
            f"{reward['default']:.1f}, difference {low:+.1f} to {high:+.1f}: {verdict}"
        )
        if test["worse"]:
            print(f"worse for patients: {', '.join(test['worse'])}")
        script, *words = shlex.split(document["train"])
        options = shlex.join(_from_here(word) for word in words)
        print(
            f"report in {folder}; train {document['winner']} so: {script_beside(script)} {options}"
        )
    return SUCCESS


def _from_here(word: str) -> str:
    """A report's path as this folder needs it: reports count from the root of outputs."""
    kept = paths.home() / word
    return str(kept) if kept.is_file() and not Path(word).exists() else word


def report(argv: Sequence[str]) -> int:
    """Write a study's report again: Markdown, JSON, plots, TensorBoard."""
    from services.rl.training.tuning.report import study_document, write_hparams, write_report
    from services.rl.training.tuning.storage import in_use, open_storage
    from services.rl.training.tuning.study import existing_study
    from services.rl.training.tuning.worker import folder_of

    parser = command_parser(report.__doc__ or "", REPORT_EXAMPLES)
    parser.prog = "auto_tune.py report"
    parser.add_argument("--study", required=True)
    parser.add_argument("--out", type=Path, help="folder (default results/<study>)")
    add_storage(parser)
    arguments = parser.parse_args(argv)
    make_folder(arguments.out)
    make_folder(arguments.json and arguments.json.parent)
    with in_use(open_storage(arguments.storage, must_exist=True)) as storage:
        study = existing_study(arguments.study, storage)
        confirmed = confirmed_of(study, folder_of(arguments.study))
        files = write_report(study, arguments.out or folder_of(arguments.study), confirmed)
        write_hparams(study)
        if arguments.json is not None:
            write_json(arguments.json, {**study_document(study, confirmed), **provenance()})
    _printer(arguments.quiet)(f"{files[0]}")
    return SUCCESS


def compare(argv: Sequence[str]) -> int:
    """Compare two studies: steps, best scores at the end and at equal steps, paired by days."""
    from services.rl.training.tuning.comparison import comparison_markdown, write_comparison
    from services.rl.training.tuning.storage import in_use, open_storage
    from services.rl.training.tuning.study import existing_study
    from services.rl.training.tuning.worker import folder_of

    parser = command_parser(compare.__doc__ or "", COMPARE_EXAMPLES)
    parser.prog = "auto_tune.py compare"
    parser.add_argument("a", help="a study, such as TPE with pruning")
    parser.add_argument("b", help="another, such as random search")
    parser.add_argument("--out", type=Path, help="folder (default results/<a>/against_<b>)")
    add_storage(parser)
    arguments = parser.parse_args(argv)
    if arguments.a == arguments.b:
        raise UsageError(f"compare {arguments.a} {arguments.b}: name two studies")
    make_folder(arguments.json and arguments.json.parent)
    with in_use(open_storage(arguments.storage, must_exist=True)) as storage:
        a, b = (existing_study(name, storage) for name in (arguments.a, arguments.b))
        folder = arguments.out or folder_of(arguments.a) / f"against_{arguments.b}"
        make_folder(folder)
        document = write_comparison(a, b, folder)
    if arguments.json is not None:
        write_json(arguments.json, {**document, **provenance()})
    _printer(arguments.quiet)(comparison_markdown(document))
    return SUCCESS


def confirmed_of(study: "optuna.Study", folder: Path) -> dict[str, Any] | None:
    """The study's confirmation; None if there is none, or it is of another study of the name."""
    from services.rl.training.tuning.confirm import CONFIRMED_FILE, study_marks

    path = folder / CONFIRMED_FILE
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        whose = found["marks"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} cannot be read, or is no confirmation: {error}") from error
    if whose != study_marks(study):
        print(f"{path} confirms another study of this name: it is left out", file=sys.stderr)
        return None
    confirmed: dict[str, Any] = found
    return confirmed


def _printer(quiet: bool) -> Callable[[str], None]:
    return (lambda _: None) if quiet else (lambda text: print(text, flush=True))
