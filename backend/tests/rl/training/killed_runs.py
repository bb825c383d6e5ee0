"""Trains in child processes and kills them at random moments; prints what it found as JSON.

A program of its own: the test runs ``python -m tests.rl.training.killed_runs KILLS SEED``.
"""

import json
import os
import random
import signal
import sys
import time

from services.rl.policies.model_files import read_arrays, read_manifest
from services.rl.training.checkpoints import RotatingCheckpoints, read_model, read_state
from services.rl.training.trainer import Trainer

from .tiny_runs import interrupted_at, tiny

CONFIG = tiny(
    vector_steps=1_000_000,
    checkpoints={"save_freq": 1},
    evaluation={"eval_freq": 2, "n_eval_episodes": 1},
)


class Improving(Trainer):
    """Every evaluation is a new best, so that ``best`` is replaced all the time."""

    def _judge(self) -> None:
        self.progress.best = None
        super()._judge()


def train(resume: bool) -> None:
    Improving("geneva_small", CONFIG.changed(resume_training=resume)).train()


def killed_child(resume: bool, latest: RotatingCheckpoints, wait_s: float) -> None:
    """Train until a further checkpoint is there and some more time has passed; kill -9."""
    before = latest.newest()
    child = os.fork()
    if child == 0:
        try:
            train(resume)
        finally:
            os._exit(1)
    try:
        until = time.monotonic() + 300
        while latest.newest() == before:
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "the child ended by itself"
            assert time.monotonic() < until, "no checkpoint in five minutes"
            time.sleep(0.01)
        time.sleep(wait_s)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def main(kills: int, seed: int) -> None:
    chance = random.Random(seed)
    folder = Trainer("geneva_small", CONFIG).folder  # also loads the compiled code, once
    latest = RotatingCheckpoints(folder / "checkpoints" / "latest", 2)
    found = []
    for k in range(kills):
        killed_child(k > 0, latest, chance.uniform(0.0, 0.3))
        newest = latest.newest()
        assert newest is not None
        read_model(newest)
        best = folder / "checkpoints" / "best"
        read_manifest(best)
        read_arrays(best)
        found.append(
            {
                "steps": read_state(newest)["steps"],
                "hidden": sorted(p.name for p in folder.glob("checkpoints/**/.*")),
            }
        )
    last = Improving("geneva_small", CONFIG.changed(resume_training=True))
    stop = found[-1]["steps"] // last.stream.num_envs + 2
    result = interrupted_at(last, stop).train()
    left = sorted(p.name for p in latest.folder.iterdir())
    json.dump({"kills": found, "stopped": result.stopped, "left": left}, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
