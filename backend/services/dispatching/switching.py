"""The manager's switch: the heuristic alone, and back; every turn is an event with a reason."""

from datetime import datetime
from typing import Any, Final, Literal, get_args

from sqlalchemy import select
from sqlalchemy.orm import Session

from models import Experiment, ExperimentEvent
from services.rl.experiments.config import ExperimentError

from .experiments import DISPATCH, experiment_row

SwitchReason = Literal[
    "precaution", "late_pickups", "wrong_choices", "incident", "maintenance", "checked", "other"
]
SWITCH_REASONS: Final[tuple[str, ...]] = get_args(SwitchReason)

_COPIED: Final = (
    "unit", "salt", "rl_share", "block_min", "epsilon", "guardrails", "webhook_url",
)  # fmt: skip


def heuristic_only(
    session: Session, company_id: int, who: str, why: SwitchReason, now: datetime
) -> Experiment | None:
    """Switch the learned policy off for a company; doing it twice changes nothing.

    A company that follows the default experiment gets one of its own: others are not switched off
    with it.

    Returns:
        The company's experiment; None where there is none at all, so nothing to switch off.
    """
    row = _own(session, company_id)
    if row is None:
        default = experiment_row(session, company_id)
        if default is None:
            return None
        row = Experiment(
            company_id=company_id, name=DISPATCH, mode=default.mode,
            stopped_at=default.stopped_at, stop_reason=default.stop_reason,
            created_at=now, updated_at=now, **{name: getattr(default, name) for name in _COPIED},
        )  # fmt: skip
        session.add(row)
        session.flush()
        _log(session, row, now, "created", who, why, {"copied_from": "default"})
    if row.mode != "off":
        before, row.mode, row.updated_at = row.mode, "off", now
        session.flush()
        _log(session, row, now, "heuristic_only", who, why, {"mode": [before, "off"]})
    return row


def switch_on(
    session: Session,
    company_id: int,
    mode: Literal["shadow", "ab"],
    who: str,
    why: SwitchReason,
    now: datetime,
) -> Experiment:
    """Let the learned policy run again, also after a guardrail has stopped it.

    Raises:
        ExperimentError: If the company has no experiment of its own.
    """
    row = _own(session, company_id)
    if row is None:
        raise ExperimentError("this company has no experiment of its own to switch on")
    changes: dict[str, Any] = {}
    if row.mode != mode:
        changes["mode"] = [row.mode, mode]
        row.mode = mode
    if row.stopped_at is not None:
        changes["stopped_at"] = [row.stopped_at.isoformat(), None]
        row.stopped_at = row.stop_reason = None
    if changes:
        row.updated_at = now
        session.flush()
        _log(session, row, now, "resumed", who, why, changes)
    return row


def _own(session: Session, company_id: int) -> Experiment | None:
    return session.scalars(
        select(Experiment)
        .where(Experiment.company_id == company_id, Experiment.name == DISPATCH)
        .with_for_update()
    ).one_or_none()


def _log(
    session: Session,
    row: Experiment,
    at: datetime,
    kind: str,
    who: str,
    why: str,
    data: dict[str, Any],
) -> None:
    session.add(
        ExperimentEvent(experiment_id=row.id, at=at, kind=kind, who=who, why=why, data=data)
    )
