"""What gunicorn serves: the API with its dispatcher; models are those of the database."""

import gc
import logging

from flask import Flask

from app import create_app
from extensions import Services
from services.dispatching.part import PART, DispatcherPart, hang_in
from services.learning.part import hang_in as hang_in_learning
from services.rl.errors import AtmrError

_LOG = logging.getLogger("atmr.start")


def create() -> Flask:
    """The app, with settings of the environment.

    Each worker makes its own, before it takes requests: nobody waits for compiled code and models.
    """
    return create_app(set_up=(hang_in, hang_in_learning, _warm_up))


def _warm_up(at_work: Services) -> None:
    part = at_work.parts[PART]
    assert isinstance(part, DispatcherPart)
    try:
        part.get()
    except AtmrError as error:  # /readyz tries again, and says so
        _LOG.error("the engine is not ready", extra={"kind": type(error).__name__})
    # Compiled code and its types are hundreds of thousands of objects that stay: looking through
    # them at every full collection took longer than a dozen decisions.
    gc.collect()
    gc.freeze()
