"""What gunicorn serves: the API with its dispatcher and the registry of models in files."""

import logging

from flask import Flask

from app import create_app
from clock import SystemClock
from extensions import Services
from services.dispatching.part import PART, DispatcherPart, hang_in
from services.rl.errors import AtmrError
from services.rl.serving.registry import FileRegistry

_LOG = logging.getLogger("atmr.start")


def create() -> Flask:
    """The app, with settings of the environment.

    Each worker makes its own, before it takes requests: nobody waits for compiled code and models.
    """
    clock = SystemClock()
    return create_app(clock=clock, registry=FileRegistry(now=clock.now), set_up=(hang_in, _warm_up))


def _warm_up(at_work: Services) -> None:
    part = at_work.parts[PART]
    assert isinstance(part, DispatcherPart)
    try:
        part.get()
    except AtmrError as error:  # /readyz tries again, and says so
        _LOG.error("the engine is not ready", extra={"kind": type(error).__name__})
