"""How the loop does for one company, in a few words: for pages that people look at."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import func, or_, select

from extensions import Database
from models.learning import DeadLetter, TaskRun

COLLECTION: Final = "collection"
RETRAINING: Final = "retraining"
LATE: Final = timedelta(hours=2)
"""Two periods of the collection."""


@dataclass(frozen=True)
class LoopNow:
    """What the loop last did for a company.

    Attributes:
        collected_at: End of the last collection that was done; None: never.
        collection_late: That is more than two periods ago.
        trained_at: Begin of the last retraining; None: never.
        training_state: Of that run.
        candidate: The version that it registered; None: none.
        letters: Dead letters open, of this company or of everybody.
    """

    collected_at: datetime | None
    collection_late: bool
    trained_at: datetime | None
    training_state: str | None
    candidate: str | None
    letters: int


def loop_of(database: Database, now: datetime, company_id: int | None) -> LoopNow:
    """How the loop does.

    Args:
        database: Rows.
        now: The present moment.
        company_id: Whose; None: of all, the latest.
    """
    whose = "" if company_id is None else f"{company_id}/"
    with database.reading() as session:
        collected_at = session.scalar(
            select(func.max(TaskRun.finished_at)).where(
                TaskRun.task == COLLECTION,
                TaskRun.state == "done",
                TaskRun.period_key.startswith(whose, autoescape=True),
            )
        )
        training = session.scalars(
            select(TaskRun)
            .where(
                TaskRun.task == RETRAINING, TaskRun.period_key.startswith(whose, autoescape=True)
            )
            .order_by(TaskRun.started_at.desc())
            .limit(1)
        ).first()
        letters = session.scalar(
            select(func.count())
            .select_from(DeadLetter)
            .where(
                DeadLetter.closed_at.is_(None),
                or_(
                    DeadLetter.period_key.startswith(whose, autoescape=True),
                    ~DeadLetter.period_key.contains("/"),
                ),
            )
        )
    result = (training.result or {}) if training is not None else {}
    return LoopNow(
        collected_at=collected_at,
        collection_late=collected_at is not None and now - collected_at > LATE,
        trained_at=None if training is None else training.started_at,
        training_state=None if training is None else training.state,
        candidate=result.get("registered"),
        letters=letters or 0,
    )
