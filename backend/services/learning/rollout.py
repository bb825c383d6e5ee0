"""From a candidate to a champion and, where need be, back: what a person would do with the models.

With ``ATMR_ROLLOUT=manual`` (the default) nothing happens here: a candidate that passed the gate
waits for a person, and guardrails stop a harmful arm by themselves. With ``auto``:

1. The learned arm was stopped since the loop's own promotion: the model before it is champion
   again. The arm stays stopped until a person lets it run.
2. The experiment says that the learned arm is worse: it is stopped, and 1. follows.
3. A candidate of the nightly retraining (so one that passed the gate) becomes champion, unless a
   person has stopped something, or the champion has changed since the gate judged it; the
   experiment's evidence begins afresh with it.
4. Where the learned policy is off and nobody ever switched it off, it begins in ``shadow``; after a
   day of shadow without trouble it gets its share (``ab``). A shadow that a person chose stays.

Everything is an event with a reason, in the registry's history or the experiment's.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from models import Decision, Experiment, ExperimentEvent, ModelEvent
from services.dispatching.experiments import DISPATCH, SqlExperiment, config_of, experiment_row
from services.dispatching.verdict import judge_experiment
from services.rl.errors import AtmrError
from services.rl.serving.registry import CANDIDATE, CHAMPION

from .loop import Loop

LOOP: Final = "retraining"
"""Who registers candidates that passed the gate."""

ROLLOUT: Final = "rollout"
"""Who promotes and takes back by itself."""

SHADOW_FOR: Final = timedelta(hours=24)
SHADOW_DECISIONS: Final = 100
"""Fewer logged in shadow say nothing about fallbacks."""

Did = Literal["promoted", "rolled_back", "stopped", "shadow_begun", "ab_begun", "waits"]
Judge = Callable[[Loop, int], str]
"""The experiment's answer for a company: ``better``, ``worse``, ``undecided``, ..."""


@dataclass(frozen=True)
class Step:
    """One thing that was done, or is not done for a reason that a person should know."""

    did: Did
    why: str
    version: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def experiment_answer(loop: Loop, company_id: int) -> str:
    """What a company's experiment says; see `services.rl.evaluation.experiments.Answer`."""
    with loop.database.reading() as session:
        row = experiment_row(session, company_id)
        if row is None or row.mode != "ab" or row.stopped_at is not None:
            return "no_data"
        judged = judge_experiment(
            session, row, company_id, loop.clock.now(), loop.scenario.rules, loop.config.zone
        )
    return judged.report.answer


def roll_out(loop: Loop, company_id: int, judge: Judge) -> list[Step]:
    """Look at a company's models and experiment, and do what is due.

    Args:
        loop: Settings, database, registry.
        company_id: Whose.
        judge: Tells the experiment's answer.

    Raises:
        AtmrError: If a model that must come back is damaged; nothing is changed then.
    """
    if loop.config.rollout != "auto":
        return []
    steps: list[Step] = []
    if judge(loop, company_id) == "worse":
        SqlExperiment(loop.database, company_id).stop(
            "The experiment says that the learned arm is worse.", loop.clock.now()
        )
        steps.append(Step("stopped", "the experiment says that the learned arm is worse"))
    with loop.database.reading() as session:
        row = experiment_row(session, company_id)
        stopped_at = None if row is None else row.stopped_at
        off_by_person = _off_by_person(session, row)
        champion = _last_move(session, company_id, CHAMPION)
        candidate = _last_move(session, company_id, CANDIDATE)
    if stopped_at is not None:
        return [*steps, *_take_back(loop, company_id, champion, stopped_at)]
    steps += _promote(loop, company_id, champion, candidate, off_by_person)
    if not off_by_person:
        steps += _open_up(loop, company_id)
    return steps


def _take_back(
    loop: Loop, company_id: int, champion: ModelEvent | None, stopped_at: datetime
) -> list[Step]:
    """Undo the loop's own last promotion, if the arm was stopped after it."""
    if champion is None or champion.who != ROLLOUT or champion.at > stopped_at:
        return []
    if champion.why.startswith("taken back"):
        return []
    try:
        version = loop.registry.rollback(
            ROLLOUT,
            f"taken back: the learned arm was stopped at {stopped_at:%Y-%m-%d %H:%M} UTC",
            company_id,
            champion=champion.to_version,
        )
    except AtmrError as error:  # the first model ever: there is nothing to go back to
        return [Step("waits", f"the learned arm is stopped, and {error}")]
    return [Step("rolled_back", "the learned arm was stopped", version)]


def _promote(
    loop: Loop,
    company_id: int,
    champion: ModelEvent | None,
    candidate: ModelEvent | None,
    off_by_person: bool,
) -> list[Step]:
    version = None if candidate is None else candidate.to_version
    if candidate is None or version is None or candidate.who != LOOP:
        return []
    now_champion = loop.registry.alias(company_id, CHAMPION)
    if version == now_champion or _was_champion(loop, company_id, version):
        return []
    if off_by_person:
        return [Step("waits", "a person switched the learned policy off", version)]
    if champion is not None and champion.id > candidate.id:
        # The gate has held it against what was served then, perhaps a model since taken back.
        return [Step("waits", "the champion has changed since the gate judged it", version)]
    loop.registry.promote(
        version, ROLLOUT, "passed the gate", company_id, gate_report=candidate.gate_report
    )
    return [Step("promoted", "passed the gate", version)]


def _open_up(loop: Loop, company_id: int) -> list[Step]:
    """From off to shadow, and from shadow to ab."""
    if loop.registry.alias(company_id, CHAMPION) is None:
        return []
    now = loop.clock.now()
    with loop.database.writing() as session:
        row = _own_experiment(loop, session, company_id)
        if row.mode == "off":
            row.mode, row.updated_at = "shadow", now
            _note(session, row, now, "changed", "there is a champion", {"mode": ["off", "shadow"]})
            return [Step("shadow_begun", "there is a champion")]
        if row.mode != "shadow" or now < row.updated_at + SHADOW_FOR:
            return []
        if not _shadow_is_ours(session, row):
            return [Step("waits", "a person put the learned policy in shadow")]
        limit = config_of(row, company_id).guardrails.fallback_rate
        fell_back = func.sum(case((Decision.fallback_reason.is_not(None), 1), else_=0))
        count, fallbacks = session.execute(
            select(func.count(), fell_back).where(
                Decision.company_id == company_id,
                Decision.shadow,
                Decision.decided_at >= row.updated_at,
            )
        ).one()
        if count < SHADOW_DECISIONS:
            return [Step("waits", f"{count} decisions in shadow, {SHADOW_DECISIONS} are needed")]
        if fallbacks > limit * count:
            return [Step("waits", f"{fallbacks} of {count} decisions in shadow fell back")]
        row.mode, row.updated_at = "ab", now
        why = f"{count} decisions in shadow, {fallbacks} fell back"
        _note(session, row, now, "changed", why, {"mode": ["shadow", "ab"]})
        return [Step("ab_begun", why)]


def _own_experiment(loop: Loop, session: Session, company_id: int) -> Experiment:
    """The experiment of this company alone; made (off, switchback by the hour) if it has none."""
    now = loop.clock.now()
    row = experiment_row(session, company_id)
    if row is not None and row.company_id == company_id:
        return row
    kept = {"unit": "switchback", "rl_share": 0.5, "block_min": 60, "epsilon": 0.0, "mode": "off",
            "guardrails": {}, "webhook_url": None}  # fmt: skip
    if row is not None:
        kept = {name: getattr(row, name) for name in kept}
    salt = hashlib.sha256(f"{company_id}:{now.isoformat()}".encode()).hexdigest()[:16]
    made = Experiment(company_id=company_id, name=DISPATCH, salt=salt, created_at=now,
                      updated_at=now, **kept)  # fmt: skip
    session.add(made)
    session.flush()
    _note(session, made, now, "created", "first model of this company")
    return made


def _note(
    session: Session,
    row: Experiment,
    at: datetime,
    kind: str,
    why: str,
    data: dict[str, Any] | None = None,
) -> None:
    session.flush()
    session.add(
        ExperimentEvent(
            experiment_id=row.id, at=at, kind=kind, who=ROLLOUT, why=why[:200], data=data or {}
        )
    )


def _off_by_person(session: Session, row: Experiment | None) -> bool:
    """Whether it is off because somebody switched it off, rather than never begun."""
    if row is None or row.mode != "off":
        return False
    return (
        session.scalar(
            select(func.count())
            .select_from(ExperimentEvent)
            .where(ExperimentEvent.experiment_id == row.id, ExperimentEvent.who != ROLLOUT)
        )
        or 0
    ) > 0


def _shadow_is_ours(session: Session, row: Experiment) -> bool:
    """Whether the rollout began this shadow; what a person took back to shadow stays there."""
    events = session.scalars(
        select(ExperimentEvent)
        .where(ExperimentEvent.experiment_id == row.id)
        .order_by(ExperimentEvent.id.desc())
    )
    last = next((event for event in events if "mode" in event.data), None)
    return last is not None and last.who == ROLLOUT


def _last_move(session: Session, company_id: int, alias: str) -> ModelEvent | None:
    """The last change of a company's alias, or of the default's where it has none of its own."""
    rows = session.scalars(
        select(ModelEvent)
        .where(
            ModelEvent.alias == alias,
            (ModelEvent.company_id == company_id) | ModelEvent.company_id.is_(None),
        )
        .order_by(ModelEvent.company_id.is_(None), ModelEvent.id.desc())
        .limit(1)
    )
    return rows.one_or_none()


def _was_champion(loop: Loop, company_id: int, version: str) -> bool:
    """Whether the company had it before: what was taken back is not promoted again."""
    with loop.database.reading() as session:
        count = session.scalar(
            select(func.count())
            .select_from(ModelEvent)
            .where(
                ModelEvent.alias == CHAMPION,
                ModelEvent.to_version == version,
                (ModelEvent.company_id == company_id) | ModelEvent.company_id.is_(None),
            )
        )
    return bool(count)
