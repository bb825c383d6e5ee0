"""What gunicorn serves: the API with its dispatcher and the registry of models in files."""

from flask import Flask

from app import create_app
from clock import SystemClock
from services.dispatching.part import hang_in
from services.rl.serving.registry import FileRegistry


def create() -> Flask:
    """The app, with settings of the environment."""
    clock = SystemClock()
    return create_app(clock=clock, registry=FileRegistry(now=clock.now), set_up=(hang_in,))
