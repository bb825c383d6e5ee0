"""Every epoch: a company's open bookings are decided, and all guardrails looked at."""

from typing import Any

from celery import shared_task

from .performing import perform


@shared_task(name="tasks.dispatch_tick.tick")
def tick(company_id: int | None = None, period: str | None = None) -> dict[str, Any]:
    """Dispatch one company, or all; nothing, if this epoch was dispatched or is over."""
    return perform("tick", company_id, period)


@shared_task(name="tasks.dispatch_tick.guardrails")
def guardrails(company_id: int | None = None, period: str | None = None) -> dict[str, Any]:
    """Weigh what is new of every experiment; a breach stops its learned arm."""
    return perform("guardrails", company_id, period)
