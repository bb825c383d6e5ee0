"""What keeps the house: old rows go, yesterday is told."""

from typing import Any

from celery import shared_task

from .performing import perform


@shared_task(name="tasks.housekeeping.purge")
def purge(company_id: None = None, period: str | None = None) -> dict[str, Any]:
    """Delete what is older than the settings keep."""
    return perform("purge", company_id, period)


@shared_task(name="tasks.housekeeping.daily_report")
def daily_report(company_id: None = None, period: str | None = None) -> dict[str, Any]:
    """Yesterday in numbers, as JSON and Markdown under results/reports."""
    return perform("report", company_id, period)
