"""One day under two policies: what each did, where they part, and what every parting is worth.

Each policy plays the day in a world of its own; up to the first decision on which they differ the
two worlds are the same, afterwards they are not. Every reward term but the day's own (balance,
idle time) belongs to one booking, so the differences by booking add up to that of the day.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from services.rl.errors import PolicyError, UsageError
from services.rl.policies.base import Policy
from services.rl.simulation import world
from services.rl.simulation.engine import Engine
from services.rl.simulation.scenarios import Scenario
from services.rl.simulation.types import BookingStatus, BoolArray, FloatArray, IntArray

from .runner import DayBook

SAME_PICKUP_MIN: Final = 5.0
"""Pickups by the same driver no further apart than this are the same fate."""

NOT_OF_A_BOOKING: Final = ("invalid_action", "balance", "idle")
"""Reward terms of the day as a whole."""

_TERM = {name: k for k, name in enumerate(world.REWARD_TERMS)}


@dataclass(frozen=True)
class Commitment:
    """A booking given to a driver, and what was planned at that moment.

    Attributes:
        epoch: Number of the decision epoch.
        now_min: Its time.
        booking: Row of the day.
        driver: Row of the fleet.
        depart_min: Planned departure.
        pickup_min: Planned pickup.
        late_min: Planned minutes after the window's end.
        km: Planned empty kilometres to the pickup.
        jobs_before: What the driver had in progress or queued.
        free_min: When the driver is done with that.
        score: The policy's own, in its own units.
        features: The policy's own explanation.
    """

    epoch: int
    now_min: float
    booking: int
    driver: int
    depart_min: float
    pickup_min: float
    late_min: float
    km: float
    jobs_before: int
    free_min: float
    score: float
    features: Mapping[str, float]


@dataclass(frozen=True)
class Epoch:
    """One decision epoch, as it was before deciding, and the queues afterwards.

    Attributes:
        now_min: Its time.
        open_rows: ``(n,)`` open bookings, rows of the day.
        can: ``(N, n)`` whether a driver could be given a booking.
        km: ``(N, n)`` empty kilometres from where the driver's committed work ends.
        free_min: ``(N,)`` when that work ends; infinite while the vehicle is down.
        jobs: ``(N,)`` in progress or queued.
        queues: ``(N, capacity)`` rows after deciding, -1 where there is none.
        still_open: Rows open after deciding.
    """

    now_min: float
    open_rows: IntArray
    can: BoolArray
    km: FloatArray
    free_min: FloatArray
    jobs: IntArray
    queues: IntArray
    still_open: frozenset[int]

    def column(self, booking: int) -> int | None:
        """Where a booking stands among the open ones, if it is open."""
        found = np.flatnonzero(self.open_rows == booking)
        return int(found[0]) if found.size else None


@dataclass(frozen=True)
class PlayedDay:
    """A day as one policy played it.

    Attributes:
        policy: Its name.
        note: Where its numbers come from.
        epochs: All decision epochs.
        commitments: All commitments, in order.
        history: ``(B,)`` of `engine.HISTORY_DTYPE`.
        contributions: ``(B, TERMS)`` reward terms of each booking, from the event log.
        elsewhere: `NOT_OF_A_BOOKING`, by name.
        curve: ``(K, 2)`` simulated time and the reward booked up to it, day's terms at the end.
        kpis: Of the finished day.
        terms: Reward terms of the finished day.
        released: (time, driver, booking) of commitments that breakdowns undid.
        refused: Decisions that were not allowed.
    """

    policy: str
    note: str
    epochs: tuple[Epoch, ...]
    commitments: tuple[Commitment, ...]
    history: npt.NDArray[np.void]
    contributions: FloatArray
    elsewhere: dict[str, float]
    curve: FloatArray
    kpis: dict[str, float]
    terms: dict[str, float]
    released: tuple[tuple[float, int, int], ...]
    refused: int

    def given(self, booking: int) -> tuple[Commitment, ...]:
        """Commitments of one booking: several where breakdowns undid some."""
        return self._by_booking.get(booking, ())

    def commitments_at(self, epoch: int) -> tuple[Commitment, ...]:
        """Commitments of one epoch, in order."""
        return self._by_epoch.get(epoch, ())

    def next_of(self, driver: int, epoch: int) -> Commitment | None:
        """The driver's first commitment at an epoch or later."""
        return next((c for c in self._by_driver.get(driver, ()) if c.epoch >= epoch), None)

    def worth(self, booking: int) -> float:
        """Reward that a booking brought, penalties included."""
        return float(self.contributions[booking].sum())

    def served(self, booking: int) -> bool:
        """Whether the patient was brought to the destination."""
        return bool(self.history["status"][booking] == BookingStatus.COMPLETED)

    @cached_property
    def _by_booking(self) -> dict[int, tuple[Commitment, ...]]:
        return _grouped(self.commitments, "booking")

    @cached_property
    def _by_epoch(self) -> dict[int, tuple[Commitment, ...]]:
        return _grouped(self.commitments, "epoch")

    @cached_property
    def _by_driver(self) -> dict[int, tuple[Commitment, ...]]:
        return _grouped(self.commitments, "driver")


def _grouped(commitments: Sequence[Commitment], by: str) -> dict[int, tuple[Commitment, ...]]:
    groups: dict[int, list[Commitment]] = {}
    for commitment in commitments:
        groups.setdefault(getattr(commitment, by), []).append(commitment)
    return {key: tuple(group) for key, group in groups.items()}


def play(book: DayBook, policy: Policy, *, seed: int = 0) -> PlayedDay:
    """Play the first day of a book under a policy, and note everything.

    Decides exactly as `runner.play_day` does.

    Raises:
        PolicyError: If the policy decides on a booking or driver that is not there.
    """
    engine = book.engine([0], record_events=True)
    rng = np.random.default_rng([seed, int(engine.out.day[0])])
    plan: Any = None
    epochs: list[Epoch] = []
    commitments: list[Commitment] = []
    refused = 0
    while not engine.ended():
        before = _look(engine)
        answer = policy.decide(engine.state(), plan=plan, rng=rng)
        plan = answer.plan
        for decision in answer.decisions:
            if decision.driver is None:
                continue
            if not 0 <= decision.booking < before.open_rows.size:
                raise PolicyError(
                    f"policy {policy.name!r} decided on booking {decision.booking} of a state "
                    f"with {before.open_rows.size} open bookings"
                )
            row = int(before.open_rows[decision.booking])
            jobs = engine.world.driver_ints[0, world.COMMITTED].copy()
            free = engine.world.drivers[0, world.FREE_AT].copy()
            if not engine.commit(0, decision.driver, row):
                refused += 1
                continue
            planned = engine.world.bookings[0, row]
            commitments.append(
                Commitment(
                    epoch=len(epochs),
                    now_min=before.now_min,
                    booking=row,
                    driver=decision.driver,
                    depart_min=float(planned[world.DEPART]),
                    pickup_min=float(planned[world.PLAN_PICKUP]),
                    late_min=float(planned[world.PLAN_LATE]),
                    km=float(planned[world.PLAN_DEADHEAD]),
                    jobs_before=int(jobs[decision.driver]),
                    free_min=float(free[decision.driver]),
                    score=decision.score,
                    features=decision.features,
                )
            )
        epochs.append(_decided(engine, before))
        engine.wait(0)
    return _played(engine, policy, epochs, commitments, refused)


def _look(engine: Engine) -> Epoch:
    """What can be done now."""
    w, rules = engine.world, engine.scenario.rules
    rows = engine.open_rows()
    columns = w.open_columns[0, : rows.size]
    free = w.drivers[0, world.FREE_AT].copy()
    jobs = w.driver_ints[0, world.COMMITTED].copy()
    earliest = np.maximum(engine.now_min(), free)
    can = earliest[:, None] <= w.pair_latest[0][:, columns]
    can &= (jobs < 1 + rules.queue)[:, None]
    km = w.pair_km[0][:, columns].copy()
    return Epoch(engine.now_min(), rows, can, km, free, jobs, jobs[:, None], frozenset())


def _decided(engine: Engine, before: Epoch) -> Epoch:
    w = engine.world
    queues = w.queue[0].copy()
    queues[np.arange(queues.shape[1]) >= w.driver_ints[0, world.COMMITTED][:, None]] = -1
    still_open = frozenset(int(row) for row in engine.open_rows())
    return Epoch(
        before.now_min, before.open_rows, before.can, before.km, before.free_min, before.jobs,
        queues, still_open,
    )  # fmt: skip


def _played(
    engine: Engine,
    policy: Policy,
    epochs: Sequence[Epoch],
    commitments: Sequence[Commitment],
    refused: int,
) -> PlayedDay:
    history, events, terms = engine.history(), engine.events(), engine.reward_terms()
    contributions = np.zeros((len(history), world.TERMS))
    curve = [(0.0, 0.0)]
    for event in events:
        if event["booking"] >= 0:
            earned = _earned(engine, event)
            for term, amount in earned.items():
                contributions[event["booking"], _TERM[term]] += amount
            if any(earned.values()):
                curve.append((event["time_min"], curve[-1][1] + sum(earned.values())))
    elsewhere = {name: terms[name] for name in NOT_OF_A_BOOKING}
    end = max(engine.scenario.rules.horizon_min, curve[-1][0])
    curve.append((end, curve[-1][1] + sum(elsewhere.values())))
    return PlayedDay(
        policy=policy.name,
        note=str(getattr(policy, "note", "")),
        epochs=tuple(epochs),
        commitments=tuple(commitments),
        history=history,
        contributions=contributions,
        elsewhere=elsewhere,
        curve=np.array(curve),
        kpis=engine.kpis(),
        terms=terms,
        released=tuple(
            (event["time_min"], event["driver"], event["booking"])
            for event in events
            if event["kind"] == "released"
        ),
        refused=refused,
    )


def _earned(engine: Engine, event: Mapping[str, Any]) -> dict[str, float]:
    """Reward terms of one event of the log, by the definitions of `simulation.reward`."""
    weights = engine.scenario.reward
    booking = engine.world.bookings[0, event["booking"]]
    kind, km = event["kind"], event["km"]
    if kind == "completed":
        return {
            "completion": float(booking[world.WORTH]),
            "loaded": -weights.loaded_per_km * km,
        }
    if kind == "unserved":
        return {"cancellation": -float(booking[world.LOSS])}
    if kind == "picked_up":
        late = max(0.0, event["time_min"] - float(booking[world.WINDOW_END]))
        return {
            "deadhead": -weights.deadhead_per_km * km,
            "lateness": -weights.late_per_min * late,
        }
    if kind in ("no_show", "called_off", "released"):
        return {"deadhead": -weights.deadhead_per_km * km}
    return {}


class Fate(StrEnum):
    """How the fates of a booking differ."""

    ONLY_B = "served by the second alone"
    ONLY_A = "served by the first alone"
    OTHER_DRIVER = "served by another driver"
    OTHER_TIME = "served by the same driver at another time"
    NEITHER = "served by neither"
    SAME = "the same fate"


@dataclass(frozen=True)
class Parting:
    """A booking whose fate differs.

    Attributes:
        booking: Row of the day.
        at_min: When the two first did something different with it.
        epoch: The decision epoch of that moment.
        fate: How its fates differ.
        a: The commitment by which the first policy served it, or its last; None: never given.
        b: Likewise of the second.
        worth_a: Reward it brought under the first policy.
        worth_b: Likewise of the second.
    """

    booking: int
    at_min: float
    epoch: int
    fate: Fate
    a: Commitment | None
    b: Commitment | None
    worth_a: float
    worth_b: float

    @property
    def difference(self) -> float:
        """Second minus first."""
        return self.worth_b - self.worth_a


@dataclass(frozen=True)
class DayComparison:
    """One day under two policies.

    Attributes:
        scenario: The world.
        day: What the day is called.
        a: As the first policy played it.
        b: As the second did.
        partings: Bookings whose fates differ, by size of the difference in reward.
        first: Epoch of the first decision that differs; None: the two decided alike all day.
    """

    scenario: Scenario
    day: str
    a: PlayedDay
    b: PlayedDay
    partings: tuple[Parting, ...]
    first: int | None

    def clock(self, minute: float) -> str:
        """Time of day, ``HH:MM``, as on the map."""
        total = int(np.floor(self.scenario.rules.day_start_min + minute + 1e-6))
        return f"{total // 60 % 24:02d}:{total % 60:02d}"

    def difference(self) -> float:
        """Reward of the second minus that of the first."""
        return self.b.kpis["reward"] - self.a.kpis["reward"]

    def by_fate(self) -> dict[Fate, tuple[int, float]]:
        """Bookings and sum of differences, for each kind of parting and for the rest."""
        found = dict.fromkeys(Fate, (0, 0.0))
        for parting in self.partings:
            count, total = found[parting.fate]
            found[parting.fate] = (count + 1, total + parting.difference)
        parted = [parting.booking for parting in self.partings]
        rest = np.delete(self.b.contributions - self.a.contributions, parted, axis=0)
        found[Fate.SAME] = (len(rest), float(rest.sum()))
        return found

    def elsewhere(self) -> float:
        """Difference of the terms that belong to no booking."""
        return sum(self.b.elsewhere.values()) - sum(self.a.elsewhere.values())

    def apart(self, epoch: int) -> tuple[list[int], list[int]]:
        """After an epoch: drivers with other jobs, and bookings open under one alone."""
        a, b = self.a.epochs[epoch], self.b.epochs[epoch]
        drivers = np.flatnonzero((a.queues != b.queues).any(axis=1)).tolist()
        return drivers, sorted(a.still_open ^ b.still_open)

    def moments(self, count: int) -> list[int]:
        """Epochs worth a picture: the first parting, then where the worlds are furthest apart.

        One per equal piece of what is left of the day; evenly spread where they never part.
        """
        epochs = len(self.a.epochs)
        count = min(count, epochs)
        if self.first is None:
            return [int((k + 0.5) * epochs / count) for k in range(count)]
        apart = [sum(map(len, self.apart(epoch))) for epoch in range(epochs)]
        chosen = [self.first]
        bounds = np.linspace(self.first + 1, epochs, max(count, 1)).astype(int)
        for low, high in pairwise(bounds.tolist()):
            spaced = max(low, chosen[-1] + (high - low) // 2)  # not two pictures of one scene
            if spaced < high:
                chosen.append(int(spaced + np.argmax(apart[spaced:high])))
        return chosen


def compare_day(
    book: DayBook, policies: tuple[Policy, Policy], *, seed: int = 0, day: str = ""
) -> DayComparison:
    """Play the first day of a book under two policies and find where they part.

    Raises:
        UsageError: If both are the same policy.
        PolicyError: If one decides on what is not there.
    """
    if policies[0].name == policies[1].name:
        raise UsageError(f"both policies are {policies[0].name!r}: name two different ones")
    a, b = (play(book, policy, seed=seed) for policy in policies)
    return DayComparison(
        book.scenario, day or book.labels[0], a, b, _partings(a, b), _first_parting(a, b)
    )


def _first_parting(a: PlayedDay, b: PlayedDay) -> int | None:
    """The first epoch after which the queues or the open bookings differ."""
    for epoch, (one, other) in enumerate(zip(a.epochs, b.epochs, strict=True)):
        if not np.array_equal(one.queues, other.queues) or one.still_open != other.still_open:
            return epoch
    return None


def _partings(a: PlayedDay, b: PlayedDay) -> tuple[Parting, ...]:
    found = []
    for row in range(len(a.history)):
        fate = _fate(a, b, row)
        if fate is Fate.SAME:
            continue
        given_a, given_b = a.given(row), b.given(row)
        epoch = _parting_epoch(given_a, given_b)
        found.append(
            Parting(
                booking=row,
                at_min=a.epochs[epoch].now_min,
                epoch=epoch,
                fate=fate,
                a=given_a[-1] if given_a else None,
                b=given_b[-1] if given_b else None,
                worth_a=a.worth(row),
                worth_b=b.worth(row),
            )
        )
    return tuple(sorted(found, key=lambda p: (-abs(p.difference), p.at_min, p.booking)))


def _fate(a: PlayedDay, b: PlayedDay, row: int) -> Fate:
    one, other = a.history[row], b.history[row]
    if a.served(row) != b.served(row):
        return Fate.ONLY_A if a.served(row) else Fate.ONLY_B
    apart = abs(float(one["pickup_min"]) - float(other["pickup_min"])) > SAME_PICKUP_MIN
    if one["status"] == other["status"] and one["driver"] == other["driver"] and not apart:
        return Fate.SAME  # where nobody ever came, times are NaN and never apart
    if not a.served(row):
        return Fate.NEITHER
    return Fate.OTHER_DRIVER if one["driver"] != other["driver"] else Fate.OTHER_TIME


def _parting_epoch(a: Sequence[Commitment], b: Sequence[Commitment]) -> int:
    """The epoch of the first commitment of a booking that the other policy did not make too."""
    for one, other in zip(a, b, strict=False):
        if (one.epoch, one.driver) != (other.epoch, other.driver):
            return min(one.epoch, other.epoch)
    longer = a if len(a) > len(b) else b
    if len(a) != len(b):
        return longer[min(len(a), len(b))].epoch
    return a[-1].epoch  # given alike; the drivers' earlier work made the difference
