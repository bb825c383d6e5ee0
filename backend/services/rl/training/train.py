"""``python -m services.rl.training.train``: another name of ``scripts/rl/train_dqn.py``."""

import runpy

if __name__ == "__main__":
    runpy.run_module("scripts.rl.train_dqn", run_name="__main__")
