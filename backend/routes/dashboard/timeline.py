"""One booking's story, and the answer to "why late?", from the log alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from models import Assignment, Booking, BookingPin, Commitment, Decision
from routes.statuses import CANCELED, NO_SHOW
from services.dispatching.outcomes import Outcome
from services.rl.simulation.scenarios import Rules

from .told import Teller

_CLOSE = timedelta(minutes=45)


@dataclass(frozen=True)
class Moment:
    """One line of the timeline."""

    at: datetime
    words: str
    more: tuple[str, ...] = ()
    decision_id: str | None = None
    alarm: bool = False
    ahead: bool = False


@dataclass(frozen=True)
class Story:
    """What is known of a booking.

    Attributes:
        booking: The booking.
        decisions: About it that were acted on, oldest first.
        assignments: Oldest first.
        commitment: What a driver is to do; None: nobody has it, or it is over.
        pin: What a person has fixed.
        outcome: By the definition of all pages.
    """

    booking: Booking
    decisions: Sequence[Decision]
    assignments: Sequence[Assignment]
    commitment: Commitment | None
    pin: BookingPin | None
    outcome: Outcome

    @property
    def last_assigned(self) -> Decision | None:
        """The decision that sent the last driver."""
        return next((d for d in reversed(self.decisions) if d.driver_id is not None), None)


def moments(story: Story, teller: Teller, now: datetime) -> list[Moment]:
    """The timeline, oldest first; runs of deferrals are one line."""
    t, fmt, booking = teller.t, teller.fmt, story.booking
    promised = fmt.since(booking.scheduled_time, booking.created_at)
    found = [Moment(booking.created_at, t("timeline.created", at=promised))]
    if booking.scheduled_time > booking.created_at:
        found.append(Moment(booking.scheduled_time, t("timeline.promised")))
    window = booking.scheduled_time + timedelta(minutes=teller.rules.window_min)
    found.append(Moment(window, t("timeline.window"), alarm=story.outcome.fate == "unserved"))
    found += _decided(story, teller)
    if story.pin is not None:
        why = teller.reason(story.pin.reason_code)
        words = t("timeline.pinned", driver=story.pin.driver_id, why=why)
        found.append(Moment(story.pin.pinned_at, words))
    logged = {d.driver_id for d in story.decisions}
    for row in story.assignments:
        if row.driver_id not in logged:
            words = t("timeline.assigned_elsewhere", driver=row.driver_id)
            found.append(Moment(row.assigned_at, words))
        if row.actual_pickup_at is not None:
            late = story.outcome.fate == "late"
            words = t("timeline.pickup", driver=row.driver_id)
            found.append(Moment(row.actual_pickup_at, words, alarm=late))
        if row.actual_dropoff_at is not None:
            found.append(Moment(row.actual_dropoff_at, t("timeline.dropoff")))
        if row.status == NO_SHOW:
            at = row.actual_pickup_at or booking.scheduled_time
            found.append(Moment(at, t("timeline.no_show")))
    if booking.status == CANCELED and booking.cancelled_at is not None:
        found.append(Moment(booking.cancelled_at, t("timeline.cancelled")))
    found.sort(key=lambda moment: moment.at)
    return [replace(moment, ahead=True) if moment.at > now else moment for moment in found]


def _decided(story: Story, teller: Teller) -> list[Moment]:
    found: list[Moment] = []
    run: list[Decision] = []

    def flush() -> None:
        if not run:
            return
        words = teller.t("timeline.deferred_once")
        if len(run) > 1:
            until = teller.fmt.time(run[-1].decided_at)
            words = teller.t("timeline.deferred", n=len(run), at=until)
        more = tuple(teller.decision(run[-1])[1:])
        found.append(Moment(run[0].decided_at, words, more, run[-1].id))
        run.clear()

    for row in story.decisions:
        if row.driver_id is None and row.source == "policy":
            run.append(row)
            continue
        flush()
        told = teller.decision(row)
        found.append(Moment(row.decided_at, told[0], tuple(told[1:]), row.id))
    flush()
    return found


def why(story: Story, teller: Teller) -> list[str]:
    """What became of it, and, if that is late or nothing, the reason that the log gives."""
    t, fate = teller.t, story.outcome.fate
    wait = teller.fmt.minutes(story.outcome.wait_min or 0.0)
    if fate in ("open", "not_due", "on_time"):
        return [t(f"late.{fate}", wait=wait)]
    told = t(f"late.{fate}", wait=wait)
    return [told, _because_late(story, teller) if fate == "late" else _because_not(story, teller)]


def _because_late(story: Story, teller: Teller) -> str:
    t, fmt, rules = teller.t, teller.fmt, teller.rules
    last, pickup = story.last_assigned, story.outcome.pickup_at
    if last is None or pickup is None:
        return t("because.unknown")
    at = fmt.time(last.decided_at)
    promised = story.booking.scheduled_time
    human = last.source == "human" and last.reason_code is not None
    if human and promised - last.decided_at < _CLOSE and len(story.decisions) > 1:
        return t("because.reassigned", why=teller.reason(last.reason_code or "other"), at=at)
    planned = teller.planned_pickup(last)
    if planned is None and "late_min" in (last.features or {}):
        late = float((last.features or {})["late_min"])
        planned = promised + timedelta(minutes=rules.window_min + late) if late > 0 else promised
    if planned is None:
        return t("because.unknown")
    # An immediate booking waits from its request: what counts is when the driver was to be there.
    expected = (planned - pickup).total_seconds() / 60.0 + (story.outcome.wait_min or 0.0)
    if expected <= rules.on_time_min:
        lost = fmt.minutes((pickup - planned).total_seconds() / 60.0)
        return t("because.on_the_road", planned=fmt.time(planned), lost=lost)
    return _planned_late(story, teller, last, planned, rules)


def _planned_late(
    story: Story, teller: Teller, last: Decision, planned: datetime, rules: Rules
) -> str:
    """Why the plan itself was late."""
    t, fmt, booking = teller.t, teller.fmt, story.booking
    at = fmt.time(last.decided_at)
    policy = [d for d in story.decisions if d.source == "policy"]
    deferrals = [d for d in policy if d.driver_id is None and d.decided_at <= last.decided_at]
    latest = _last_chance(story, rules)
    if latest is not None and latest < last.decided_at:
        by = fmt.time(latest)
        return t("because.decided_late", by=by, at=at, n=len(deferrals))
    lead = booking.scheduled_time - booking.created_at
    if lead <= timedelta(minutes=1):
        return t("because.at_once", driver=last.driver_id, pickup=fmt.time(planned))
    if lead <= timedelta(minutes=rules.window_min + rules.grace_min):
        minutes = fmt.minutes(max(0.0, lead.total_seconds() / 60.0))
        return t("because.short_notice", lead=minutes)
    if policy and policy[0].must_decide_by is None:
        return t("because.nobody_free", at=fmt.time(policy[0].decided_at))
    return t("because.planned_late", at=at, driver=last.driver_id, pickup=fmt.time(planned))


def _because_not(story: Story, teller: Teller) -> str:
    """Why nobody came."""
    t, fmt = teller.t, teller.fmt
    if story.commitment is not None:
        planned = fmt.time(story.commitment.planned_pickup_at)
        return t("because.driver_not_there", driver=story.commitment.driver_id, planned=planned)
    if not story.decisions:
        return t("because.never_decided")
    latest = _last_chance(story, teller.rules)
    if latest is None:
        return t("because.nobody_free", at=fmt.time(story.decisions[0].decided_at))
    deferrals = [d for d in story.decisions if d.driver_id is None]
    return t("because.kept_waiting", n=len(deferrals), by=fmt.time(latest))


def _last_chance(story: Story, rules: Rules) -> datetime | None:
    """Until when, as the log knew, somebody could still be there within the promised window.

    Once nobody can, the dispatcher goes on with a later window; its limits are not meant here.
    """
    window_end = story.booking.scheduled_time + timedelta(minutes=rules.window_min)
    limits = [d.must_decide_by for d in story.decisions if d.must_decide_by is not None]
    return max((at for at in limits if at <= window_end), default=None)
