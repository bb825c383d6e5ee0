"""The way in for an existing Flask backend: one name that nobody else has.

Our rooms have plain names (`models`, `routes`, `config`, ...), because that is how the house of a
backend is built. A host whose own modules have the same names hides ours, or we hide its; that is
found out here, before anything half-works.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from flask import Flask

ROOMS: Final = (
    "access",
    "app",
    "clock",
    "config",
    "extensions",
    "logs",
    "metrics",
    "migrations",
    "models",
    "rate_limits",
    "routes",
    "services",
)
"""Top-level names that we import."""

_HERE: Final = Path(__file__).resolve().parent


def check_names() -> None:
    """Find out whether our modules are the ones that Python finds under their names.

    Raises:
        ImportError: Naming those that are somebody else's, and what to do.
    """
    foreign = [name for name in ROOMS if not _is_ours(name)]
    if foreign:
        raise ImportError(
            f"your application has modules named {', '.join(foreign)}, as this backend has: put "
            "yours into a package (yourapp.models), or run this backend beside yours as a process "
            "of its own (make serve, behind the same proxy)"
        )


def init_app(app: "Flask", *, url_prefix: str = "/atmr", **settings: Any) -> Any:
    """Add API, dashboard and dispatcher to an existing Flask app, with the registry of models.

    Args:
        app: The host.
        url_prefix: Under which all our addresses lie.
        settings: Fields of `config.Config`; those left out come from ``ATMR_...`` variables.

    Returns:
        The services at work (`extensions.Services`).

    Raises:
        ImportError: If the host's modules and ours have the same names.
        services.rl.errors.AtmrError: If a setting or the scenario is wrong.
    """
    check_names()
    from app import init_app as hang_in_blueprint
    from config import Config
    from services.dispatching.part import hang_in

    return hang_in_blueprint(
        app,
        Config.from_environment(**settings),
        url_prefix=url_prefix,
        set_up=(hang_in,),
    )


def _is_ours(name: str) -> bool:
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):  # a stand-in without a spec
        return False
    if spec is None:
        return False
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    return any(Path(place).resolve().is_relative_to(_HERE) for place in places)
