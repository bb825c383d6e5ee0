"""The tick: a company's open bookings are decided, and its guardrails looked at, every epoch."""

from typing import Any

from celery import shared_task

from .performing import perform


@shared_task(name="tasks.dispatch_tick.tick")
def tick(company_id: int | None = None, period: str | None = None) -> dict[str, Any]:
    """Dispatch one company, or all; nothing, if this epoch was dispatched or is over."""
    return perform("tick", company_id, period)
