"""Learning from production: outcomes collected every hour, models retrained every night.

Celery tasks that are plain callables too: ``collect_production_experiences()`` in a shell does the
present hour for all companies, with the settings of the environment.
"""

from typing import Any

from celery import shared_task

from .performing import perform


@shared_task(name="tasks.rl_feedback_task.collect_production_experiences")
def collect_production_experiences(
    company_id: int | None = None, period: str | None = None
) -> dict[str, Any]:
    """Join decisions with what became of them, and keep them as experiences.

    Args:
        company_id: Whose; None: all companies'.
        period: Key of the hour; None: the present one.

    Returns:
        State and counts of the run; of several, by their keys.
    """
    return perform("collection", company_id, period)


@shared_task(name="tasks.rl_feedback_task.retrain_agent_daily")
def retrain_agent_daily(company_id: int | None = None, period: str | None = None) -> dict[str, Any]:
    """Make a candidate from what happened lately; Torch is imported by this task's body only.

    Args:
        company_id: Whose; None: all companies'.
        period: Key of the night; None: the present one.

    Returns:
        State and verdict of the run; of several, by their keys.
    """
    return perform("retraining", company_id, period)


@shared_task(name="tasks.rl_feedback_task.roll_out_models")
def roll_out_models(company_id: int | None = None, period: str | None = None) -> dict[str, Any]:
    """Promote, open up or take back what is due, for companies with ``ATMR_ROLLOUT=auto``.

    Args:
        company_id: Whose; None: all companies'.
        period: Key of the hour; None: the present one.

    Returns:
        State and steps of the run; of several, by their keys.
    """
    return perform("rollout", company_id, period)
