"""The dashboard: what an operations manager looks at all day, at ``/dashboard``.

`sessions` and `login` say who looks; each page has a module of its own (`today`, `decisions`,
`bookings`, `experiment`, `models`, `report`); `drawing` lays out map and charts, `told` and
`timeline` put the log into sentences, `words` has the sentences in both languages. Nothing is
computed here that a service computes: decisions, overrides, promotions and outcomes are those of
the API and of `services.dispatching`.
"""

# Importing a page joins its views to the blueprint.
from . import bookings, decisions, experiment, login, models, report, today
from .blueprint import dashboard

__all__ = [
    "bookings",
    "dashboard",
    "decisions",
    "experiment",
    "login",
    "models",
    "report",
    "today",
]
