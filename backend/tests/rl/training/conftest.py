"""What keeps these tests short."""

import pytest
from matplotlib.figure import Figure

from services.rl.training import trainer


@pytest.fixture(autouse=True)
def _no_pictures(request, monkeypatch):
    """Drawing takes longer than a tiny run; a test that asks for ``pictures`` gets them."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(trainer, "learning_curve", lambda *_: Figure(figsize=(0.1, 0.1)))


@pytest.fixture
def pictures():
    """Draw the learning curve."""
