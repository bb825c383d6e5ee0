"""What gunicorn serves: the API with its dispatcher; models are those of the database."""

from flask import Flask

from app import create_app
from services.dispatching.part import hang_in


def create() -> Flask:
    """The app, with settings of the environment."""
    return create_app(set_up=(hang_in,))
