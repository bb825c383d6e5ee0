"""Train a policy: the planner's values, a DQN (on any Gymnasium environment too), edge values, all.

Results go to results/<name>: checkpoints/best is the model to evaluate and to serve.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scripts.rl.command import (
    Parser,
    command_parser,
    finite,
    make_folder,
    positive_float,
    positive_int,
    provenance,
    resuming,
    run,
    seed_number,
    write_json,
)
from scripts.rl.train_planner import NETWORK_OPTIONS
from services.rl.data.sources import open_source
from services.rl.errors import AtmrError, UsageError
from services.rl.simulation.scenarios import load_scenario

EXAMPLES = """
train_dqn.py --mode sanity --scenario geneva
train_dqn.py --mode quick --scenario geneva --name first
train_dqn.py --mode production --scenario geneva_overload --name planner
train_dqn.py --mode production --scenario geneva_overload --name planner --resume
train_dqn.py --mode production --policy dqn_matching --scenario geneva --name network --seed 1
train_dqn.py --mode production --scenario geneva --network flat --name flat
train_dqn.py --mode production --scenario manhattan_11 --data-dir DIR
train_dqn.py --policy auto --scenario data/rl/history/mine/scenario.yaml --minutes 30 --name mine
train_dqn.py --env CartPole-v1 --timesteps 50000 --name cartpole
"""
FAILED_CHECK = 1


def build_parser() -> Parser:
    """The options."""
    parser = command_parser(__doc__ or "", EXAMPLES)
    parser.add_argument(
        "--mode", default="quick", choices=("sanity", "quick", "production", "gpu", "kaggle"),
        help="starting point of the configuration (default quick; kaggle is gpu)",
    )  # fmt: skip
    parser.add_argument(
        "--policy", choices=("dqn_matching", "planner", "matching_values", "auto"),
        help="dqn_matching: the network; planner: the values of the route search; "
        "matching_values: the edge values of the manhattan_* scenarios; auto: every candidate "
        "within --minutes, the best on validation days is kept. Default: in production planner (or "
        "matching_values), the best policy measured, unless an option of the networks is given; "
        "else dqn_matching",
    )  # fmt: skip
    parser.add_argument("--minutes", type=positive_float, help="of --policy auto (default 30)")
    parser.add_argument(
        "--generations", type=positive_int, help="of the evolution of planner and matching_values"
    )
    parser.add_argument(
        "--repeats",
        type=positive_int,
        help="fits of the planner that are averaged; seeds from --seed",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--scenario", help="name or YAML file (default geneva)")
    where.add_argument("--env", metavar="ID", help="a Gymnasium environment instead")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--episodes", type=positive_int, help="stop after so many episodes")
    length.add_argument("--timesteps", type=positive_int, help="stop after so many steps")
    parser.add_argument("--name", help="folder under results/ (default <scenario>_<mode>)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: the mode's")
    parser.add_argument("--seed", type=seed_number, help="default 0")
    parser.add_argument("--config", type=Path, help="JSON or YAML of fields to change")
    parser.add_argument(
        "--network", choices=("pair", "flat"),
        help="pair (default): any fleet; flat: the roadmap's, for one fleet size",
    )  # fmt: skip
    parser.add_argument("--teacher", help="policy to learn from first; 'none': from nothing")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    parser.add_argument("--checkpoint", type=Path, help="go on from this checkpoint")
    parser.add_argument("--no-sanity-checks", action="store_true", help="skip the checks")
    parser.add_argument("--data-dir", help="folder of real trips (default ATMR_DATA_DIR)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Check, train, say what came out and what to do next."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    given = sys.argv[1:] if argv is None else argv
    policy = chosen_policy(arguments)
    if policy == "auto":
        from scripts.rl import train_auto

        make_folder(arguments.json and arguments.json.parent)
        return train_auto.train(arguments, given)
    if arguments.minutes is not None:
        raise UsageError("--minutes belongs to --policy auto")
    if policy == "planner":
        from scripts.rl import train_planner

        make_folder(arguments.json and arguments.json.parent)
        return train_planner.train(arguments, given)
    if arguments.repeats is not None:
        raise UsageError("--repeats belongs to --policy planner")
    if policy == "matching_values":
        from scripts.rl import train_edges

        make_folder(arguments.json and arguments.json.parent)
        return train_edges.train(arguments, given)
    if arguments.generations is not None:
        raise UsageError("--generations belongs to --policy planner and matching_values")
    # Torch takes a second to load: not for --help or a mistyped option.
    from services.rl.training.config import flat_fields, load_config, mode_config, sanity_fields
    from services.rl.training.sanity import run_sanity_checks
    from services.rl.training.task import DispatchTask, GymnasiumTask, Task
    from services.rl.training.trainer import Trainer, require_device

    config = mode_config(arguments.mode)
    if arguments.env is not None:
        config = config.changed(**foreign_defaults())
    elif arguments.network == "flat":
        config = config.changed(**flat_fields())
    if arguments.mode == "sanity":  # a hundred steps, whatever the network needs otherwise
        config = config.changed(**sanity_fields())
    if arguments.config is not None:
        config = load_config(arguments.config, config)
    config = config.changed(**_overrides(arguments, config.experiment_name))
    make_folder(arguments.json and arguments.json.parent)
    require_device(config.device)  # a missing GPU is a wrong option, not a failed check
    task: Task
    if arguments.env is not None:
        task = GymnasiumTask(arguments.env)
    else:
        scenario = load_scenario(arguments.scenario or "geneva")
        task = DispatchTask(scenario, open_source(scenario, arguments.data_dir))
    going_on = config.resume_training or config.checkpoint_path is not None
    if config.sanity.enabled and not going_on:  # they passed at the first start
        try:
            for line in run_sanity_checks(task, config):
                _say(arguments, f"sanity: {line}")
        except AtmrError:
            raise
        except RuntimeError as error:
            print(f"sanity check failed: {error}", file=sys.stderr)
            return FAILED_CHECK
    bar = _bar(arguments, config.total_timesteps, arguments.episodes)
    trainer = Trainer(
        task,
        config,
        episodes=arguments.episodes,
        on_progress=bar,
        on_message=None if arguments.quiet else _teller(bar),
        provenance=provenance(),
    )
    try:
        result = trainer.train()
    finally:
        trainer.cleanup()
        if bar is not None:
            bar.close()
    if arguments.json is not None:
        scores = {k: finite(getattr(result, k)) for k in ("best_score", "final_score")}
        document = {**provenance(), **vars(result), **scores, "folder": str(result.folder)}
        write_json(arguments.json, document)
    if result.stopped == "interrupted":
        again = resuming(sys.argv[1:] if argv is None else argv, config.experiment_name)
        print(
            f"interrupted at step {result.steps}; the state is saved: go on with {again}",
            file=sys.stderr,
        )
        return 130
    _say(
        arguments,
        f"{result.steps - result.first_step:,} steps in {result.seconds:.0f} s"
        + (f" ({result.steps:,} in all)" if result.first_step else "")
        + f"; best score {result.best_score:.1f} at step {result.best_step:,} on "
        f"{config.evaluation.n_eval_episodes} {task.judged_on}, last {result.final_score:.1f}"
        + (
            f" (step 0 is the teacher's copy, {config.warm_start.teacher})"
            if config.warm_start.teacher and result.best_step == 0
            else ""
        ),
    )
    if isinstance(task, DispatchTask):
        shown = arguments.scenario or "geneva"
        # The best model was chosen on the first validation days: they would flatter it.
        unseen = (
            f"--first-day {config.evaluation.n_eval_episodes}"
            if task.source is None
            else "--split test"
        )
        _say(
            arguments,
            f"evaluate it: evaluate.py --scenario {shown} --policies "
            f"nearest,matching,{_policies(config)} --model {result.folder}/checkpoints/best "
            f"{unseen}",
        )
    return 0


def chosen_policy(arguments: argparse.Namespace) -> str:
    """What to train: as asked, or by the mode."""
    if arguments.policy is not None:
        chosen: str = arguments.policy
        return chosen
    of_networks = any(getattr(arguments, option) is not None for option in NETWORK_OPTIONS)
    if arguments.mode != "production" or of_networks or arguments.no_sanity_checks:
        return "dqn_matching"
    at_once = load_scenario(arguments.scenario or "geneva").rules.decide_once
    _say(
        arguments,
        f"production: fitting {'edge values' if at_once else 'the planner'}, the best policy "
        "measured (--policy dqn_matching trains the network)",
    )
    return "matching_values" if at_once else "planner"


def foreign_defaults() -> dict[str, Any]:
    """Settings for an environment without drivers and bookings: the flat network, one stream.

    Those of RL Baselines3 Zoo's DQN on CartPole, the usual reference for small control tasks.
    """
    return {
        "total_timesteps": 50_000,
        "hyperparameters": {
            "network": "flat",
            "hidden": (256, 256),
            "num_envs": 1,
            "learning_rate": 2.3e-3,
            "batch_size": 64,
            "learning_starts": 1_000,
            "gamma": 0.99,
            "train_freq": 256,
            "gradient_steps": 128,
            "target_update_interval": 128,  # updates; the Zoo's 10 steps come to a round of them
            "tau": 1.0,
            "n_step": 1,
            "exploration_fraction": 0.16,
            "exploration_initial_eps": 1.0,
            "exploration_final_eps": 0.04,
            "reward_scale": 1.0,
            "double": False,
        },
        "warm_start": {"teacher": None},
        "polish": {"generations": 0},
        "evaluation": {"eval_freq": 2_500, "n_eval_episodes": 20, "policy": "dqn"},
    }


def _overrides(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    base = arguments.env or Path(arguments.scenario or "geneva").stem
    default = f"{base.replace('/', '_').replace(':', '_')}_{arguments.mode}"
    fields: dict[str, Any] = {
        "experiment_name": arguments.name or (name if name != "dqn" else default),
        "resume_training": arguments.resume,
        "checkpoint_path": arguments.checkpoint,
    }
    if arguments.device is not None:
        fields["device"] = arguments.device
    if arguments.seed is not None:
        fields["seed"] = arguments.seed
    if arguments.timesteps is not None:
        fields["total_timesteps"] = arguments.timesteps
    if arguments.episodes is not None:
        fields["checkpoints"] = {"numbered_every_episodes": 100}
    if arguments.env is not None and arguments.network == "pair":
        raise UsageError("--network pair: a foreign environment has no driver-booking pairs")
    if arguments.no_sanity_checks:
        fields["sanity"] = {"enabled": False}
    if arguments.teacher is not None:
        if arguments.env is not None:
            raise UsageError("--teacher: a foreign environment has no dispatch policies")
        teacher = None if arguments.teacher == "none" else arguments.teacher
        fields["warm_start"] = {"teacher": teacher}
    return fields


def _policies(config: Any) -> str:
    return "dqn,dqn_matching" if config.hyperparameters.network == "pair" else "dqn"


class _Bar:
    """Progress in the terminal: steps/s (or episodes/s), time left, best score."""

    def __init__(self, timesteps: int, episodes: int | None) -> None:
        from tqdm import tqdm

        self._by_episode = episodes is not None
        unit = "episode" if self._by_episode else "step"
        self._bar: Any = tqdm(total=episodes or timesteps, unit=unit, unit_scale=True, leave=False)

    def __call__(self, steps: int, numbers: dict[str, Any]) -> None:
        """Move to ``steps``."""
        best = numbers["best"]
        self._bar.set_postfix(
            best="-" if best is None else f"{best:.1f}", eps=f"{numbers['eps']:.2f}", refresh=False
        )
        self._bar.update((numbers["episodes"] if self._by_episode else steps) - self._bar.n)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


def _bar(arguments: argparse.Namespace, timesteps: int, episodes: int | None) -> _Bar | None:
    if arguments.quiet or not sys.stderr.isatty():
        return None
    return _Bar(timesteps, episodes)


def _teller(bar: _Bar | None) -> Callable[[str], None]:
    """Prints the log's lines, above the bar where there is one."""
    if bar is not None:
        from tqdm import tqdm

        return lambda message: tqdm.write(message)
    return lambda message: print(message, flush=True)


def _say(arguments: argparse.Namespace, text: str) -> None:
    if not arguments.quiet:
        print(text, flush=True)


if __name__ == "__main__":
    run(main)
