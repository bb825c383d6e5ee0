"""Studies whose trials take no time: a hill to climb in place of a training.

Storage, processes, heartbeats, sampler and pruner are the real ones.
"""

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.rl.errors import TrainingError
from services.rl.simulation.scenarios import load_scenario
from services.rl.training.task import Score
from services.rl.training.tuning.objective import RUNGS
from services.rl.training.tuning.search_space import Parameter, SearchSpace
from services.rl.training.tuning.worker import Order, StudySetup

SPACE = SearchSpace((Parameter("height", 0.0, 10.0), Parameter("kind", choices=("a", "b"))))
DEFAULTS = {"height": 5.0, "kind": "a"}
DAYS = 4


class Hill:
    """The score is the height; every rung tells an eighth of it."""

    policy = plays_as = "toy"
    unit = "steps"

    def __init__(self, trouble: str, folder: Path) -> None:
        self.trouble = trouble
        self.folder = folder

    def fields(self):
        return dict(DEFAULTS)

    def identity(self):
        return {"budget": 8}

    def steps(self, _values):
        return RUNGS

    def document(self, values):
        return dict(values)

    def run(self, values, name, report):
        (self.folder / f"{name}.{os.getpid()}").touch()
        self._make_trouble(values, name)
        score = Score(0.0, np.zeros(DAYS), {})
        for rung in range(1, RUNGS + 1):
            mean = values["height"] * rung / RUNGS
            if self.trouble == "nan" and values["height"] > 6:
                mean = float("nan")
            score = Score(mean, np.full(DAYS, mean), {"reward": mean})
            report(rung, score, rung)
        return score

    def train(self, values, seed, folder, on_message=None):
        if self.trouble == "cannot train b" and values["kind"] == "b":
            raise TrainingError("the loss is nan after 12 updates")
        if self.trouble == "hangs in training":
            (self.folder / f"training.{os.getpid()}").touch()
            time.sleep(300)
        model = folder / "checkpoints" / "best"
        model.mkdir(parents=True, exist_ok=True)
        trained = {"values": values, "seed": seed, "times": 1}
        if (model / "toy.json").exists():
            trained["times"] += json.loads((model / "toy.json").read_text())["times"]
        (model / "toy.json").write_text(json.dumps(trained))

    def _make_trouble(self, values, name):
        if self.trouble == "refuses" or (self.trouble == "picky" and values["kind"] == "b"):
            raise TrainingError("the loss is nan after 12 updates")
        first = self.folder / "first"
        if self.trouble == "hangs once" and not name.endswith("0000"):
            try:
                first.touch(exist_ok=False)
            except FileExistsError:
                return
            time.sleep(300)
        if self.trouble == "dies once" and name.endswith("0002"):
            try:
                first.touch(exist_ok=False)
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)
        if self.trouble == "slow":
            time.sleep(0.2)


@dataclass(frozen=True)
class ToyOrder(Order):
    """An order whose objective is the hill.

    Attributes:
        trouble: What goes wrong: nan, refuses, picky, hangs once, dies once, slow, cannot train b,
            hangs in training;
            or nothing.
        folder: Where trials leave their marks.
    """

    trouble: str = ""
    folder: Path = Path()

    def setup(self) -> StudySetup:
        return StudySetup(
            self.name,
            self.scenario,
            Hill(self.trouble, self.folder),
            self.space,
            self.sampler,
            self.pruning,
            self.seed,
        )


def toy(folder: Path, trials: int = 12, **fields) -> ToyOrder:
    """An order of the hill, with heartbeats of a second."""
    settings = {
        "name": "toy", "scenario": load_scenario("geneva_small"), "policy": "toy", "space": SPACE,
        "storage": None, "mode": "quick", "trials": trials, "heartbeat_s": 1, "grace_s": 3,
        "folder": folder, **fields,
    }  # fmt: skip
    return ToyOrder(**settings)
