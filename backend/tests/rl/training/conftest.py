"""What keeps these tests short."""

import pytest
from matplotlib.figure import Figure

from services.rl.training import trainer


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """Drawing takes longer than a tiny run; `tests.scripts.test_train_dqn` looks at pictures."""
    monkeypatch.setattr(trainer, "learning_curve", lambda *_: Figure(figsize=(0.1, 0.1)))
