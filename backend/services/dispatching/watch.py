"""Guardrails of an experiment, fed from the log and the outcomes in the database.

Companies that follow the default experiment share one arm's fate, so their evidence is weighed
together: harm shows in hours instead of days, and twenty companies are not twenty chances of a
false alarm. A company with an experiment of its own is weighed alone.

One process watches (that of the tick). Its evidence is rebuilt from the database when it starts:
nothing is lost with it but time. Outcomes are found by looking back a while, because they are told
late; a booking counts once, however often it is seen.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from extensions import Database
from models import Assignment, Booking, Decision, Experiment, ExperimentUnit
from routes.statuses import COMPLETED, PENDING, UNASSIGNED
from services.rl.ab_dispatcher import RL, Breach, GuardrailMonitor, notifier_for
from services.rl.errors import AtmrError
from services.rl.simulation.scenarios import Rules

from .experiments import DISPATCH, SqlExperiment, experiment_row

logger = logging.getLogger(__name__)

_LOOK_BACK: Final = timedelta(hours=6)
_FURTHEST: Final = timedelta(days=7)
_MOST_ROWS: Final = 20_000
_INFEASIBLE: Final = "infeasible"


@dataclass(frozen=True)
class _Event:
    at: datetime
    outcome: bool
    fields: dict[str, Any]


class Watches:
    """All experiments that companies follow, each watched once.

    Args:
        database: The log and the outcomes.
        rules: What is late, and when nobody came.
    """

    def __init__(self, database: Database, rules: Rules) -> None:
        self._database = database
        self._rules = rules
        self._watches: dict[int | None, Watch] = {}  # company of the experiment; None: the default

    def look(self, company_ids: Sequence[int], now: datetime) -> dict[int | None, Breach]:
        """Weigh what is new of all these companies.

        Returns:
            Breaches that stopped a learned arm just now, by the company whose experiment it is
            (None: the default one).

        Raises:
            AtmrError: If one could not be weighed; the others have been.
        """
        with self._database.reading() as session:
            own = set(
                session.scalars(
                    select(Experiment.company_id).where(
                        Experiment.name == DISPATCH, Experiment.company_id.is_not(None)
                    )
                )
            )
        followers: dict[int | None, list[int]] = {}
        for company_id in company_ids:
            key = company_id if company_id in own else None
            followers.setdefault(key, []).append(company_id)
        breaches: dict[int | None, Breach] = {}
        failed: list[AtmrError] = []
        for key, ids in followers.items():
            watch = self._watches.get(key)
            if watch is None:
                watch = self._watches[key] = Watch(self._database, ids, self._rules)
            watch.follow(ids)
            try:
                breach = watch.look(now)
            except AtmrError as error:  # one company's must not leave the others unguarded
                logger.error("company %s: guardrails not weighed: %s", key, error)
                failed.append(error)
                continue
            if breach is not None:
                breaches[key] = breach
        if failed:
            raise failed[0]
        return breaches


class Watch:
    """Watches one experiment.

    Args:
        database: The log and the outcomes.
        company_ids: Companies that follow it; at least one.
        rules: What is late, and when nobody came.
        name: Of the experiment.
    """

    def __init__(
        self,
        database: Database,
        company_ids: Sequence[int],
        rules: Rules,
        name: str = DISPATCH,
    ) -> None:
        self._database = database
        self.company_ids = list(company_ids)
        self._rules = rules
        self._name = name
        self._experiment = SqlExperiment(database, self.company_ids[0], name)
        self._monitor: GuardrailMonitor | None = None
        self._version = -1
        self._since: datetime | None = None
        self._decided: set[int] = set()

    @property
    def monitor(self) -> GuardrailMonitor | None:
        """The evidence so far; None while nothing is compared."""
        return self._monitor

    def follow(self, company_ids: Sequence[int]) -> None:
        """Watch these companies from now on.

        The experiment is looked up by the first of them. Where that one has gone (it has an
        experiment of its own now, or no driver left) the lookup must not stay with it, or its own
        experiment would be stopped in place of the one that the others follow.
        """
        if company_ids[0] != self.company_ids[0]:
            self._experiment = SqlExperiment(self._database, company_ids[0], self._name)
            self._monitor = None  # it writes its stop by the old lookup
        self.company_ids = list(company_ids)

    def look(self, now: datetime) -> Breach | None:
        """Weigh what is new; the breach, if the learned arm was stopped by this.

        Another version of the experiment (another split, other thresholds, resumed by a person)
        begins the evidence afresh, at that change.
        """
        config = self._experiment.current()
        if not config.asks_rl:
            self._monitor = None
            return None
        if self._monitor is None or config.version != self._version:
            self._monitor = GuardrailMonitor(self._experiment, notifier_for(config.webhook_url))
            self._version = config.version
            self._decided.clear()
            with self._database.reading() as session:
                row = experiment_row(session, self.company_ids[0], self._name)
                began = now if row is None else row.updated_at
            began = max(began, now - _FURTHEST)
            self._monitor.restart(began)
            self._since = began
        assert self._since is not None
        with self._database.reading() as session:
            events = sorted(self._events(session, self._since, now), key=lambda e: e.at)
        for event in events:
            feed = self._monitor.record_outcome if event.outcome else self._monitor.record_decision
            breach = feed(event.at, **event.fields)
            if breach is not None:
                return breach
        self._since = now
        return self._monitor.check(now)

    def _events(self, session: Session, since: datetime, now: datetime) -> Iterator[_Event]:
        decisions = session.execute(
            select(
                Decision.snapshot_id,
                Decision.decided_at,
                Decision.fallback_reason,
                Decision.latency_ms,
            )
            .where(
                Decision.company_id.in_(self.company_ids),
                Decision.decided_at > since,
                Decision.decided_at <= now,
                (Decision.arm == RL),
                Decision.source == "policy",
            )
            .order_by(Decision.decided_at)
            .limit(_MOST_ROWS)
        )
        for row in decisions:
            if row.snapshot_id in self._decided:  # one answer, however many bookings
                continue
            self._decided.add(row.snapshot_id)
            yield _Event(
                row.decided_at,
                False,
                {
                    "fallback": row.fallback_reason is not None,
                    "infeasible": row.fallback_reason == _INFEASIBLE,
                    "latency_ms": row.latency_ms,
                },
            )
        yield from self._outcomes(session, since - _LOOK_BACK, now)

    def _outcomes(self, session: Session, since: datetime, now: datetime) -> Iterator[_Event]:
        on_time = timedelta(minutes=self._rules.on_time_min)
        given_up = timedelta(minutes=self._rules.window_min + self._rules.grace_min)
        arm_of = self._arms(session)
        served = session.execute(
            select(
                Booking.id,
                Booking.scheduled_time,
                Assignment.actual_pickup_at,
                Assignment.actual_dropoff_at,
                Decision.unit,
            )
            .join(Assignment, Assignment.booking_id == Booking.id)
            .join(
                Decision,
                (Decision.booking_id == Booking.id)
                & (Decision.action == "assign")
                & Decision.shadow.is_(False),
            )
            .where(
                Booking.company_id.in_(self.company_ids),
                Assignment.status == COMPLETED,
                Assignment.actual_dropoff_at > since,
                Assignment.actual_dropoff_at <= now,
                Assignment.actual_pickup_at.is_not(None),
            )
            .order_by(Decision.decided_at.desc())
            .limit(_MOST_ROWS)
        )
        brought: set[int] = set()
        for row in served:
            if row.id in brought:  # given anew: the last to assign it answers, as in the verdict
                continue
            brought.add(row.id)
            late = row.actual_pickup_at > row.scheduled_time + on_time
            yield from self._told(row.id, row.unit, row.actual_dropoff_at, arm_of, late, False)
        waiting = session.execute(
            select(Booking.id, Booking.scheduled_time, Decision.unit)
            .join(Decision, (Decision.booking_id == Booking.id) & Decision.shadow.is_(False))
            .where(
                Booking.company_id.in_(self.company_ids),
                # A host may close the booking the moment its grace is over, before any look.
                Booking.status.in_((PENDING, UNASSIGNED)),
                Booking.scheduled_time <= now - given_up,
                Booking.scheduled_time > since - given_up,
            )
            .order_by(Decision.decided_at.desc())
            .limit(_MOST_ROWS)
        )
        told: set[int] = set()
        for booking_id, promised, unit in waiting:
            if booking_id not in told:  # whoever deferred it last left it, not who saw it first
                told.add(booking_id)
                yield from self._told(booking_id, unit, promised + given_up, arm_of, False, True)

    def _arms(self, session: Session) -> dict[str, ExperimentUnit]:
        row = experiment_row(session, self.company_ids[0], self._name)
        if row is None:
            return {}
        units = session.scalars(
            select(ExperimentUnit)
            .where(ExperimentUnit.experiment_id == row.id)
            .order_by(ExperimentUnit.created_at.desc())
            .limit(_MOST_ROWS)
        )
        return {unit.unit: unit for unit in units}

    @staticmethod
    def _told(
        booking_id: int,
        unit: str,
        at: datetime,
        arm_of: dict[str, ExperimentUnit],
        late: bool,
        unserved: bool,
    ) -> Iterator[_Event]:
        known = arm_of.get(unit)
        if known is None:  # nothing was randomised
            return
        yield _Event(
            at,
            True,
            {
                "booking_id": booking_id,
                "unit": unit,
                "arm": known.arm,
                "late": late,
                "unserved": unserved,
                "first_seen_at": known.created_at,
            },
        )
