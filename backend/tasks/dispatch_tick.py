"""Every epoch: companies' open bookings are decided, and guardrails looked at."""

from typing import Any

from celery import shared_task

from .performing import perform


@shared_task(name="tasks.dispatch_tick.tick")
def tick(company_id: int | None = None, period: str | None = None) -> dict[str, Any]:
    """Dispatch one company, or all; nothing, if this epoch was dispatched or is over."""
    return perform("tick", company_id, period)


@shared_task(name="tasks.dispatch_tick.watch_guardrails")
def watch_guardrails(company_id: None = None, period: str | None = None) -> dict[str, Any]:
    """Weigh both arms' outcomes of all companies; a learned arm that does harm is stopped."""
    return perform("guardrails", company_id, period)
