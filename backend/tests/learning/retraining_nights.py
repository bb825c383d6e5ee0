"""A night that other processes can run: a loop on a file, and gates that say what they are told."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from clock import FixedClock
from config import Config
from extensions import Database
from services.learning.loop import Loop
from services.learning.retraining import retrain
from services.model_registry import SqlRegistry
from services.rl.data.memory_replay import MemoryReplayStore
from services.rl.evaluation.gate_lines import Line
from services.rl.simulation.scenarios import load_scenario
from services.rl.training.learners import TINY

SMALL = load_scenario("geneva_small")
MONDAY = date(2026, 3, 2)
NIGHT = datetime(2026, 3, 8, 2, tzinfo=UTC)


@dataclass
class Told:
    """A gate's report, such as it is."""

    go: bool
    lines: Sequence[Line] = field(default_factory=list)

    def write(self, folder: Path) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "gate.json").write_text("{}")
        return [folder / "gate.json"]


def gate_that_says(margin: float = 0.0, **gains: float) -> Any:
    """GO with a gain for each kind; below minus the margin: NO-GO. Remembers whom it judged."""

    def gate(candidate, champion, simulator, experiences, on, say):
        gate.asked.append((candidate.kind, champion, sum(1 for _ in experiences)))
        gain = gains[candidate.kind]
        name = "heuristic.reward" if champion is None else "champion.reward"
        verdict = "pass" if gain >= -margin else "fail"
        line = Line(name, "reward", "", gain, gain - 1, gain + 1, -margin, verdict)
        return Told(gain >= -margin, [line])

    gate.asked = []
    return gate


def loop_at(home: Path, now: datetime) -> Loop:
    """On the database that the test has made."""
    url = f"sqlite:///{home / 'atmr.sqlite'}"
    config = Config.from_environment(database_url=url, scenario="geneva_small")
    database, clock = Database(url), FixedClock(now)
    registry = SqlRegistry(database, clock, home)
    return Loop(config, database, clock, registry, SMALL, MemoryReplayStore(1000), home)


if __name__ == "__main__":  # <home> <minutes after NIGHT> <kind,...>
    at = NIGHT + timedelta(minutes=float(sys.argv[2]))
    retrain(
        loop_at(Path(sys.argv[1]), at),
        1,
        kinds=sys.argv[3].split(","),
        budget=TINY,
        gate=gate_that_says(planner=1.0, dqn_matching=2.0),
        say=lambda text: print(text, flush=True),  # noqa: T201 - the test counts lines
    )
