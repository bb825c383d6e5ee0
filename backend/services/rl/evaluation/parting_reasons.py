"""Why two policies part over a booking, in words: each a fact of the two played days.

A policy's intentions are not known, so none are told: only what it did instead, what else it could
have done at that moment, and what came of it.
"""

import numpy as np

from services.rl.simulation.types import BookingStatus

from .day_comparison import Commitment, DayComparison, Epoch, Parting, PlayedDay

_STATUS = {
    BookingStatus.COMPLETED: "served",
    BookingStatus.UNSERVED: "not served",
    BookingStatus.NO_SHOW: "patient not there",
    BookingStatus.CALLED_OFF: "called off",
}
_EQUAL_KM, _EQUAL_MIN = 0.05, 0.5  # below what is written


def status_words(day: PlayedDay, booking: int) -> str:
    """What became of a booking."""
    return _STATUS[BookingStatus(int(day.history["status"][booking]))]


def late_min(day: PlayedDay, booking: int) -> float:
    """Minutes between the window's end and the pickup; NaN if there was none."""
    row = day.history[booking]
    if row["status"] != BookingStatus.COMPLETED:
        return float("nan")
    return max(0.0, float(row["pickup_min"]) - float(row["window_end_min"]))


def deed(comparison: DayComparison, day: PlayedDay, booking: int) -> str:
    """What a policy did with a booking: driver, times, lateness, empty kilometres."""
    given = day.given(booking)
    if not given:
        return status_words(day, booking)
    row, last = day.history[booking], given[-1]
    if row["driver"] < 0:
        return (
            f"{status_words(day, booking)}, after it was given to driver {last.driver} at "
            f"{comparison.clock(last.now_min)}"
        )
    words = [f"driver {last.driver}", f"decided {comparison.clock(last.now_min)}"]
    if day.served(booking):
        late = late_min(day, booking)
        words.append(
            f"pickup {comparison.clock(row['pickup_min'])}"
            + (f", {late:.0f} min late" if late >= _EQUAL_MIN else ", in time")
        )
    else:
        words.append(status_words(day, booking))
    words.append(f"{row['deadhead_km']:.1f} km empty")
    return "; ".join(words)


def reason(comparison: DayComparison, booking: int, epoch: int) -> str:
    """Why the two part over a booking at an epoch: sentences of facts."""
    both = [(day, _at(day, booking, epoch)) for day in (comparison.a, comparison.b)]
    (one, first), (other, second) = both
    if first and second:
        if first.driver == second.driver:
            sentences = [_same_driver(comparison, first, second)]
        else:
            sentences = _two_drivers(comparison, first, second)
    elif first:
        sentences = _one_acts(comparison, one, other, first)
    elif second:
        sentences = _one_acts(comparison, other, one, second)
    else:
        sentences = []  # not decided on at this epoch
    for day in (one, other):
        sentences += _undone(comparison, day, booking)
    return " ".join(sentences)


def parting_reason(comparison: DayComparison, parting: Parting) -> str:
    """Why the two part over a booking whose fate differs."""
    return reason(comparison, parting.booking, parting.epoch)


def first_parting_bookings(comparison: DayComparison) -> list[int]:
    """Bookings that the two decided on differently at their first parting."""
    epoch = comparison.first
    if epoch is None:
        return []
    a, b = comparison.a.epochs[epoch], comparison.b.epochs[epoch]
    differing = np.flatnonzero((a.queues != b.queues).any(axis=1))
    rows = {int(row) for day in (a, b) for row in day.queues[differing].ravel() if row >= 0}
    decided = {c.booking for d in (comparison.a, comparison.b) for c in d.commitments
               if c.epoch == epoch}  # fmt: skip
    return sorted(rows & decided)


def _at(day: PlayedDay, booking: int, epoch: int) -> Commitment | None:
    return next((c for c in day.commitments_at(epoch) if c.booking == booking), None)


def _two_drivers(comparison: DayComparison, a: Commitment, b: Commitment) -> list[str]:
    one, other = comparison.a, comparison.b
    farther = b.km - a.km
    how = "as far" if abs(farther) < _EQUAL_KM else (
        f"{abs(farther):.1f} km {'farther' if farther > 0 else 'nearer'}"
    )  # fmt: skip
    later = b.pickup_min - a.pickup_min
    when = "" if abs(later) < _EQUAL_MIN else (
        f", pickup planned {abs(later):.0f} min {'later' if later > 0 else 'earlier'}"
    )  # fmt: skip
    return [
        f"At {comparison.clock(a.now_min)} {one.policy} gave it to driver {a.driver} "
        f"({_terms(comparison, a)}), {other.policy} to driver {b.driver} ({how}{when}).",
        _instead(comparison, other, a.driver, a.epoch, a.booking),
        _instead(comparison, one, b.driver, b.epoch, b.booking),
    ]


def _same_driver(comparison: DayComparison, a: Commitment, b: Commitment) -> str:
    one, other = comparison.a, comparison.b
    return (
        f"Both gave it to driver {a.driver} at {comparison.clock(a.now_min)}, but the driver's "
        f"earlier work differs: under {one.policy} {_terms(comparison, a)}, pickup planned "
        f"{comparison.clock(a.pickup_min)}; under {other.policy} {_terms(comparison, b)}, pickup "
        f"planned {comparison.clock(b.pickup_min)}."
    )


def _one_acts(
    comparison: DayComparison, acting: PlayedDay, holding: PlayedDay, given: Commitment
) -> list[str]:
    booking, epoch = given.booking, given.epoch
    sentences = [
        f"At {comparison.clock(given.now_min)} {acting.policy} gave it to driver {given.driver} "
        f"({_terms(comparison, given)})."
    ]
    later = next((c for c in holding.given(booking) if c.epoch > epoch), None)
    if later is not None:
        who = "the same driver" if later.driver == given.driver else f"driver {later.driver}"
        sentences.append(
            f"{holding.policy} left it open until {comparison.clock(later.now_min)} and gave it to "
            f"{who} ({_terms(comparison, later)})."
        )
        if later.driver == given.driver:
            return sentences
        return [*sentences, _instead(comparison, holding, given.driver, epoch, booking)]
    sentences.append(f"{holding.policy} gave it to nobody.")
    sentences.append(_instead(comparison, holding, given.driver, epoch, booking))
    return [*sentences, _chance_words(comparison, holding, given)]


def _terms(comparison: DayComparison, given: Commitment) -> str:
    """Under which conditions a driver took a booking."""
    words = f"{given.km:.1f} km away"
    if given.jobs_before:
        words += f" once done with other work at {comparison.clock(given.free_min)}"
    elif given.depart_min > given.now_min + _EQUAL_MIN:
        words += f", to leave at {comparison.clock(given.depart_min)}"
    else:
        words += ", leaving at once"
    return words


def _instead(
    comparison: DayComparison, day: PlayedDay, driver: int, epoch: int, booking: int
) -> str:
    """What a policy did with the driver to whom the other gave the booking at this epoch."""
    seen = day.epochs[epoch]
    column = seen.column(booking)
    if column is None:
        return f"Under {day.policy} it was no longer open then."
    then = _following(comparison, day, day.next_of(driver, epoch), epoch)
    if seen.can[driver, column]:
        return (
            f"{day.policy} could have sent driver {driver} as well "
            f"({_offer(comparison, seen, driver, column)}); it {then}."
        )
    return f"Under {day.policy} driver {driver} {_hindrance(comparison, seen, driver, column)}."


def _offer(comparison: DayComparison, seen: Epoch, driver: int, column: int) -> str:
    words = f"{seen.km[driver, column]:.1f} km away"
    if seen.free_min[driver] > seen.now_min:
        words += f" from {comparison.clock(seen.free_min[driver])} on"
    return words


def _following(
    comparison: DayComparison, day: PlayedDay, given: Commitment | None, epoch: int
) -> str:
    if given is None:
        return "gave that driver nothing more that day"
    what = _booking_words(day, given)
    if given.epoch == epoch:
        return f"gave that driver {what}"
    return f"next gave that driver {what} at {comparison.clock(given.now_min)}"


def _booking_words(day: PlayedDay, given: Commitment) -> str:
    row = day.history[given.booking]
    spare = float(row["window_end_min"]) - given.pickup_min
    words = [f"priority {row['priority']}"]
    if row["wheelchair"]:
        words.append("wheelchair")
    if spare >= 0:
        words.append(f"{spare:.0f} min to spare")
    else:
        words.append(f"{-spare:.0f} min late")
    words.append(f"{given.km:.1f} km away")
    return (
        f"booking {given.booking} ({', '.join(words)}; it brought {day.worth(given.booking):+.1f})"
    )


def _hindrance(comparison: DayComparison, seen: Epoch, driver: int, column: int) -> str:
    if not np.isfinite(seen.free_min[driver]):
        return "was out of service"
    jobs = int(seen.jobs[driver])
    if jobs >= 1 + comparison.scenario.rules.queue:
        return (
            f"already had {jobs} booking{'s' if jobs > 1 else ''}, until "
            f"{comparison.clock(seen.free_min[driver])}, and could take no more"
        )
    free = max(seen.now_min, float(seen.free_min[driver]))
    return (
        f"(free at {comparison.clock(free)}, {seen.km[driver, column]:.1f} km away) could not have "
        "served it in time"
    )


def _chance_words(comparison: DayComparison, holding: PlayedDay, given: Commitment) -> str:
    """Until when the policy that never gave a booking to anybody could have done so."""
    chance = _last_chance(holding, given.booking)
    if chance is None:
        return f"Under {holding.policy} no driver could take it at any moment."
    epoch, able, nearest = chance
    seen = holding.epochs[epoch]
    column = seen.column(given.booking)
    assert column is not None
    following = holding.next_of(nearest, epoch)
    when = comparison.clock(seen.now_min)
    if nearest == given.driver and following == holding.next_of(nearest, given.epoch):
        if epoch == given.epoch:
            return "After that nobody could."
        if epoch > given.epoch:
            return (
                f"As late as {when} driver {nearest} could still have taken it; after that nobody "
                "could."
            )
    who = f"driver {nearest}" if able == 1 else f"{able} drivers, the nearest driver {nearest}"
    return (
        f"The last time anyone could take it was {when} ({who}, "
        f"{_offer(comparison, seen, nearest, column)}); {holding.policy} "
        f"{_following(comparison, holding, following, epoch)}."
    )


def _last_chance(day: PlayedDay, booking: int) -> tuple[int, int, int] | None:
    """Last epoch at which anybody could take a booking, how many could, and the nearest."""
    for epoch in range(len(day.epochs) - 1, -1, -1):
        seen = day.epochs[epoch]
        column = seen.column(booking)
        if column is not None and seen.can[:, column].any():
            able = np.flatnonzero(seen.can[:, column])
            return epoch, able.size, int(able[np.argmin(seen.km[able, column])])
    return None


def _undone(comparison: DayComparison, day: PlayedDay, booking: int) -> list[str]:
    """Breakdowns that took the booking from a driver."""
    return [
        f"Under {day.policy} driver {driver} broke down at {comparison.clock(time)} and lost it."
        for time, driver, row in day.released
        if row == booking
    ]
