"""Search for better hyper-parameters (Optuna), and prove that they are better.

A study screens on validation days; `confirm` retrains the best with fresh seeds and compares the
winner with the default on test days: only that is a gain. Commands: confirm, report, compare,
protocol (fast tuning by an offline fit, GO or NO-GO).
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.rl.auto_tune_results import add_storage, compare, confirm, confirmed_of, report
from scripts.rl.command import (
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
    without_secrets,
    write_json,
)
from services.rl.simulation.scenarios import Scenario, load_scenario

if TYPE_CHECKING:
    import optuna
    from optuna.storages import RDBStorage

    from services.rl.training.tuning.worker import Order

POLICIES = ("dqn_matching", "planner", "qnetwork")
EXAMPLES = """
auto_tune.py --trials 50
auto_tune.py --trials 50 --policy planner --scenario geneva_overload --workers 2
auto_tune.py --trials 50 --policy qnetwork --scenario geneva_overload --workers 2 --resume
auto_tune.py --trials 50 --study here --storage postgresql://atmr@db/tuning --workers 2
auto_tune.py --trials 50 --policy qnetwork --scenario geneva_overload --sampler random
auto_tune.py confirm --study geneva_overload_qnetwork --transfer geneva --workers 2
auto_tune.py report --study geneva_overload_qnetwork --out session/RL/tuning/mine
auto_tune.py compare geneva_overload_qnetwork geneva_overload_qnetwork_random
auto_tune.py protocol --scenario geneva_overload
"""
_TELL_EVERY_S = 5.0


def build_parser() -> Parser:
    """The options of a study."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument(
        "--trials", type=positive_int, default=50, help="that the study shall have (default 50)"
    )
    parser.add_argument(
        "--policy", choices=POLICIES, default="dqn_matching",
        help="dqn_matching (default): the pair network; planner; qnetwork: the roadmap's flat "
        "network and its four parameters",
    )  # fmt: skip
    parser.add_argument("--scenario", default="geneva", help="name or YAML file (default geneva)")
    parser.add_argument("--hours", type=positive_float, help="another length of the day")
    parser.add_argument("--drivers", type=positive_int, help="another fleet size, demand in ratio")
    parser.add_argument("--workers", type=positive_int, default=1, help="processes (default 1)")
    parser.add_argument(
        "--study",
        help="its name (default <scenario>_<policy>, then _random and _unpruned where they apply)",
    )
    add_storage(parser)
    parser.add_argument("--resume", action="store_true", help="go on with the study")
    parser.add_argument(
        "--other-code", action="store_true", help="go on although the code has changed; noted"
    )
    parser.add_argument(
        "--mode", choices=("sanity", "quick", "production"), default="quick",
        help="budget of a trial (default quick)",
    )  # fmt: skip
    parser.add_argument(
        "--steps", type=positive_int,
        help="environment steps of a trial (planner: generations) instead of the mode's",
    )  # fmt: skip
    parser.add_argument("--days", type=positive_int, help="validation days (default 64)")
    parser.add_argument("--space", type=Path, help="YAML or JSON file of parameters to move")
    parser.add_argument(
        "--sampler", choices=("tpe", "random"), default="tpe", help="default tpe, multivariate"
    )
    parser.add_argument("--no-pruning", action="store_true", help="play every trial to the end")
    parser.add_argument("--seed", type=seed_number, default=0)
    parser.add_argument("--data-dir", help="folder of real trips (default ATMR_DATA_DIR)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a study, or one of the commands on studies."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given and given[0] in COMMANDS:
        return COMMANDS[given[0]](given[1:])
    arguments = build_parser().parse_args(given)
    make_folder(arguments.json and arguments.json.parent)
    with ended_as_by_ctrl_c():
        return _search(arguments, given)


# --- a study ---------------------------------------------------------------------------------


def _search(arguments: argparse.Namespace, given: Sequence[str]) -> int:
    from services.rl.training.tuning.storage import in_use

    order = _order(arguments)
    with in_use(order.connect()) as storage:
        return _play(order, storage, arguments, given)


def _play(
    order: "Order", storage: "RDBStorage", arguments: argparse.Namespace, given: Sequence[str]
) -> int:
    from services.rl.training.tuning.study import RUNS, open_study
    from services.rl.training.tuning.worker import ORDER, work, work_together

    study = open_study(
        order.setup(), storage, resume=arguments.resume, other_code=arguments.other_code
    )
    if ORDER not in study.user_attrs:  # of who began it: another host's paths are its own
        study.set_user_attr(ORDER, order.document())
    study.set_user_attr(RUNS, [*study.user_attrs.get(RUNS, []), provenance()])
    tell = _Teller(study, arguments.quiet)
    try:
        if arguments.workers == 1:
            work(order, on_trial=lambda *_: tell(at_once=True))
        else:
            work_together(order, arguments.workers, on_look=tell)
    except KeyboardInterrupt:
        tell(at_once=True)
        _conclude(study, order, arguments)
        words = [w for w in without_secrets(given) if w != "--resume"]
        print(
            "interrupted; the best so far is written: go on with "
            f"{script_beside('auto_tune.py')} {shlex.join([*words, '--resume'])}",
            file=sys.stderr,
        )
        return INTERRUPTED
    tell(at_once=True)
    _conclude(study, order, arguments)
    return SUCCESS


def _order(arguments: argparse.Namespace) -> "Order":
    from services.rl.training.tuning.objective import STUDY_DAYS, objective_of
    from services.rl.training.tuning.search_space import SPACES, load_space
    from services.rl.training.tuning.worker import Order

    scenario = load_scenario(arguments.scenario)
    if arguments.hours is not None or arguments.drivers is not None:
        horizon = None if arguments.hours is None else 60.0 * arguments.hours
        scenario = scenario.resized(num_drivers=arguments.drivers, horizon_min=horizon)
    name = _default_name(arguments, scenario) if arguments.study is None else arguments.study
    check_name("--study", name)
    days = arguments.days or STUDY_DAYS
    objective = objective_of(
        arguments.policy,
        scenario,
        mode=arguments.mode,
        seed=arguments.seed,
        steps=arguments.steps,
        days=days,
        data_dir=arguments.data_dir,
    )
    fields = objective.fields()
    if arguments.space is not None:
        space = load_space(arguments.space, fields)
    else:
        space = SPACES[arguments.policy].checked(fields)
    return Order(
        name,
        scenario,
        arguments.policy,
        space,
        arguments.storage,
        arguments.mode,
        arguments.trials,
        sampler=arguments.sampler,
        pruning=not arguments.no_pruning,
        seed=arguments.seed,
        steps=arguments.steps,
        days=days,
        data_dir=arguments.data_dir,
    )


def _default_name(arguments: argparse.Namespace, scenario: Scenario) -> str:
    parts = [scenario.name, arguments.policy]
    if arguments.sampler != "tpe":
        parts.append(arguments.sampler)
    if arguments.no_pruning:
        parts.append("unpruned")
    return "_".join(parts)


class _Teller:
    """Says what became of each trial, once."""

    def __init__(self, study: "optuna.Study", quiet: bool) -> None:
        self._study = study
        self._quiet = quiet
        self._told = {t.number for t in study.get_trials(deepcopy=False) if t.state.is_finished()}
        self._last = time.monotonic()

    def __call__(self, *, at_once: bool = False) -> None:
        """Look, every few seconds or at once."""
        now = time.monotonic()
        if self._quiet or (not at_once and now - self._last < _TELL_EVERY_S):
            return
        self._last = now
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state.is_finished() and trial.number not in self._told:
                self._told.add(trial.number)
                print(_line(trial), flush=True)


def _line(trial: Any) -> str:
    seconds = trial.duration.total_seconds() if trial.duration is not None else 0.0
    state = trial.state.name.lower()
    if state == "complete":
        what = f"{trial.values[0]:.2f}"
    elif state == "pruned":
        what = f"pruned at rung {trial.last_step}, {trial.intermediate_values[trial.last_step]:.2f}"
    else:
        reason = trial.user_attrs.get("reason")
        what = "interrupted, queued again" if reason is None else f"failed: {reason}"
    return f"trial {trial.number}: {what} ({seconds:.0f} s)"


def _conclude(study: "optuna.Study", order: "Order", arguments: argparse.Namespace) -> None:
    """Report, the best so far as a configuration, and what to do next."""
    from services.rl.training.evolution_run import write_document
    from services.rl.training.tuning.report import write_hparams, write_report
    from services.rl.training.tuning.study import best_trials
    from services.rl.training.tuning.worker import folder_of, remove_leftovers, summary

    remove_leftovers(study)
    folder = folder_of(order.name)
    write_report(study, folder, confirmed_of(study, folder))
    write_hparams(study)
    best = best_trials(study, 1)
    if best:
        setup = order.setup()
        values = order.space.fields(best[0].params)
        write_document(folder / "screened.json", setup.objective.document(values))
    document = {"study": order.name, **summary(study)}
    if arguments.json is not None:
        write_json(arguments.json, {**document, **provenance()})
    if not arguments.quiet:
        found = document["best"]
        text = "nothing finished" if found is None else f"best {found['score']:.2f} (screening)"
        print(f"{order.name}: {document['complete']} complete, {document['pruned']} pruned, "
              f"{document['failed']} failed; {text}; report in {folder}")  # fmt: skip
        if best:
            budget = " --mode sanity" if order.mode == "sanity" else ""
            tuner = script_beside("auto_tune.py")
            print(f"prove it: {tuner} confirm --study {order.name}{budget}")


def _protocol(argv: Sequence[str]) -> int:
    """The fast-tuning protocol; its own room."""
    from scripts.rl.auto_tune_protocol import main as protocol

    return protocol(argv)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "confirm": confirm,
    "report": report,
    "compare": compare,
    "protocol": _protocol,
}


if __name__ == "__main__":
    run(main)
