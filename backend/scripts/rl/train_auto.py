"""``train_dqn.py --policy auto``: train the candidates within a time and keep the best."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from scripts.rl.command import INTERRUPTED, provenance, resuming, write_json
from services.rl import paths
from services.rl.data.sources import open_source
from services.rl.errors import UsageError
from services.rl.simulation.scenarios import load_scenario

_OF_OTHERS = (
    "env", "episodes", "timesteps", "device", "config", "network", "teacher", "checkpoint",
    "generations", "repeats",
)  # fmt: skip
_MINUTES = 30.0


def train(arguments: argparse.Namespace, argv: Sequence[str]) -> int:
    """Train, choose, report, and say what came out.

    Args:
        arguments: As parsed.
        argv: As given, for the command that goes on after an interruption.

    Raises:
        UsageError: If an option of another policy is given.
    """
    given = [name for name in _OF_OTHERS if getattr(arguments, name) is not None]
    given += ["mode"] if any(w == "--mode" or w.startswith("--mode=") for w in argv) else []
    if given:
        raise UsageError(
            f"--{given[0]} is an option of a single policy; --policy auto decides it by the time "
            "there is (--minutes)"
        )
    # Torch takes seconds to load: not for a mistyped option.
    from services.rl.training.auto_policy import run_auto
    from services.rl.training.auto_report import (
        candidate_sentences,
        verdict,
        write_auto_report,
    )
    from services.rl.training.config import TrainingConfig

    asked = arguments.scenario or "geneva"
    scenario = load_scenario(asked)
    source = open_source(scenario, arguments.data_dir)
    name = arguments.name or f"{Path(asked).stem}_auto"
    TrainingConfig().changed(experiment_name=name)  # the same names are allowed
    folder = paths.results_dir() / name

    def say(line: str) -> None:
        if not arguments.quiet:
            print(line, flush=True)

    try:
        result = run_auto(
            scenario,
            folder,
            minutes=arguments.minutes or _MINUTES,
            source=source,
            seed=arguments.seed or 0,
            resume=arguments.resume,
            provenance=provenance(),
            say=say,
        )
        winner = result.choice.winner
        command = checking(asked, winner, folder, len(result.state.test), arguments.data_dir)
        files = write_auto_report(result, scenario, source, command)
    except KeyboardInterrupt:
        again = resuming(argv, name)
        print(f"interrupted; finished candidates are kept: go on with {again}", file=sys.stderr)
        return INTERRUPTED
    if arguments.json is not None:
        write_json(arguments.json, result.document)
    say("")
    for line in candidate_sentences(result):
        say(line)
    say(f"\n{verdict(result)}")
    say(f"report: {files[0]}")
    say(f"check it: {command}")
    return 0


def checking(scenario: str, winner: str, folder: Path, days: int, data_dir: str | None) -> str:
    """The command that plays the winner against today's heuristics on the test days."""
    names = list(dict.fromkeys(["nearest", "matching", winner]))
    words = ["evaluate.py", "--scenario", scenario, "--policies", ",".join(names)]
    if winner.endswith("_tuned") or winner in ("planner", "dqn_matching", "matching_values"):
        words += ["--model", str(folder / "checkpoints" / "best")]
    words += ["--split", "test", "--days", str(days)] if days else []
    words += ["--data-dir", data_dir] if data_dir else []
    return shlex.join(words)
