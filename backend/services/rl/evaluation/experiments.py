"""The experiment's report: what each arm came to, whether that is a difference, how much longer.

One pure function, `report`, of the units and the settings; the API, the dashboard and the nightly
job render the same `ExperimentReport`. The verdict is on the share of bookings on time; the other
KPIs are told beside it. Arms have ordinary 95 % intervals, which describe; *differences* have
always-valid ones (`sequential`), which may be looked at as often as one likes. A split that is less
likely than `RATIO_P` blocks the verdict. Guardrails have their own evidence
(`services.rl.experiments.guardrails`); what they found is told, not judged again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from typing import Any, Final, Literal

import numpy as np

from services.rl.experiments.attribution import RECOMMENDED_BLOCK_MIN
from services.rl.experiments.config import UnitKind

from .arm_ratios import Estimate, Moments, arm_estimate, half_width
from .intervals import ENOUGH
from .power import MOST_DAYS, Question, days_needed
from .sequential import ENOUGH_STAYING, ENOUGH_UNITS, RATIO_P, boundary, ratio_p

SCHEMA: Final = 1
MARGIN: Final = 0.01
EFFECT: Final = 0.03

Answer = Literal["no_data", "wrong_split", "too_early", "better", "worse", "undecided", "same"]
Note = Literal["shared_fleet", "carry_over", "few_looks"]

Kpi = Literal["on_time", "late", "unserved", "urgent_unserved", "wait_min", "late_min"]
KPIS: Final[dict[Kpi, tuple[str, str]]] = {
    "on_time": ("on_time", "bookings"),
    "late": ("late", "bookings"),
    "unserved": ("unserved", "bookings"),
    "urgent_unserved": ("urgent_unserved", "urgent"),
    "wait_min": ("wait_min", "served"),
    "late_min": ("late_min", "served"),
}
"""Each a ratio of two sums over an arm's units: numerator, denominator."""


@dataclass(frozen=True)
class UnitOutcomes:
    """One randomised unit: its bookings that were due and have an outcome, counted.

    Attributes:
        learned: Whether it was the learned arm's.
        bookings: On time, late and unserved together.
        on_time: Picked up within the rule's minutes of waiting.
        late: Picked up later.
        unserved: Nobody came.
        urgent: Bookings of priority 4 and 5.
        urgent_unserved: Of these, unserved.
        wait_min: Minutes waited, summed over those served.
        late_min: Minutes after the window's end, summed over those served.
    """

    learned: bool
    bookings: int
    on_time: int
    late: int = 0
    unserved: int = 0
    urgent: int = 0
    urgent_unserved: int = 0
    wait_min: float = 0.0
    late_min: float = 0.0

    @property
    def served(self) -> int:
        """On time or late."""
        return self.on_time + self.late


@dataclass(frozen=True)
class ReportConfig:
    """What the report must know beside the units.

    Attributes:
        unit: What was randomised.
        share: Of units that should have gone to the learned arm, as they were drawn.
        drawn: In the order drawn, which units went to the learned arm, also those without an
            outcome yet; None: judged by the units that have one.
        days: Of service that the units cover; None: unknown, and nothing is told in days.
        look: Of companies, the number of this look (`sequential.looks_until`).
        block_min: Of switchback blocks.
        alpha: Probability of ever calling a difference that is none.
        margin: Differences within ± this are as good as none.
        effect: "How many days for this difference?"
        power: With this probability of finding it.
        breaches: Guardrails that stopped the learned arm, by name.
    """

    unit: UnitKind
    share: float = 0.5
    drawn: Sequence[bool] | None = None
    days: float | None = None
    look: int = 0
    block_min: int | None = None
    alpha: float = 0.05
    margin: float = MARGIN
    effect: float = EFFECT
    power: float = 0.8
    breaches: tuple[str, ...] = ()

    @property
    def stay(self) -> bool:
        """Whether units are drawn once and stay."""
        return self.unit == UnitKind.COMPANY

    @property
    def least_units(self) -> int:
        """Per arm, before anything is called."""
        return ENOUGH_STAYING if self.stay else ENOUGH_UNITS


@dataclass(frozen=True)
class ArmReport:
    """One arm: how much there is, and its KPIs with ordinary 95 % intervals (None: no data)."""

    units: int
    bookings: int
    kpis: Mapping[Kpi, Estimate | None]


@dataclass(frozen=True)
class SampleRatio:
    """Whether units went where they should.

    Attributes:
        p: Always-valid p-value, of units drawn and of units analysed the smaller.
        drawn: Units per arm (heuristic, learned), as drawn.
        blocked: It blocks the verdict.
    """

    p: float
    drawn: tuple[int, int]
    blocked: bool


@dataclass(frozen=True)
class Outlook:
    """How much longer.

    Attributes:
        more_bookings: Until the interval could exclude zero, if the difference stays what it is;
            None: not foreseeable, or not needed.
        more_days: The same in days.
        effect: The difference asked about.
        days_always_valid: Days from the start until it is found with ``power`` by this test; None:
            unknown or never.
        days_fixed: The same for a test read once, on a day fixed before.
        power: Probability of finding it.
        icc: Intra-cluster correlation of being on time within a unit.
        bookings_per_unit: Mean.
        units_per_day: Mean; None: unknown.
    """

    more_bookings: int | None
    more_days: float | None
    effect: float
    days_always_valid: float | None
    days_fixed: float | None
    power: float
    icc: float
    bookings_per_unit: float
    units_per_day: float | None


@dataclass(frozen=True)
class ExperimentReport:
    """What the experiment says.

    Attributes:
        answer: About the share on time, in a word. ``same``: whatever difference there is, it is
            below the margin.
        unit: What was randomised.
        arms: By name: ``heuristic``, ``rl``.
        differences: Learned less heuristic, by KPI, with always-valid intervals.
        ratio: The sample-ratio check.
        outlook: How much longer.
        alpha: Of the intervals of differences.
        margin: Of ``same``.
        breaches: Guardrails that stopped the learned arm.
        notes: What to know before believing it.
    """

    answer: Answer
    unit: str
    arms: dict[str, ArmReport]
    differences: Mapping[Kpi, Estimate | None]
    ratio: SampleRatio
    outlook: Outlook
    alpha: float
    margin: float
    breaches: tuple[str, ...] = ()
    notes: tuple[Note, ...] = field(default=())

    @property
    def difference(self) -> Estimate | None:
        """The difference that the verdict is on."""
        return self.differences["on_time"]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"schema": SCHEMA, **asdict(self)}


def report(units: Sequence[UnitOutcomes], config: ReportConfig) -> ExperimentReport:
    """Judge an experiment.

    Args:
        units: With an outcome, in the order drawn; those without bookings count for nothing.
        config: How they were drawn.
    """
    units = [u for u in units if u.bookings]
    moments = _moments(units)
    control, learned = moments["on_time"]
    counted = (int(control.d), int(learned.d))
    ratio = _ratio(units, config)
    differences = {kpi: _difference(*pair, config) for kpi, pair in moments.items()}
    answer = _answer(control, learned, differences["on_time"], ratio, config)
    kpis = [
        {kpi: arm_estimate(pair[i], _enough(pair[i])) for kpi, pair in moments.items()}
        for i in (0, 1)
    ]
    return ExperimentReport(
        answer=answer,
        unit=str(config.unit),
        arms={
            name: ArmReport(pair.units, count, told)
            for name, pair, count, told in zip(
                ("heuristic", "rl"), moments["on_time"], counted, kpis, strict=True
            )
        },
        differences=differences,
        ratio=ratio,
        outlook=_outlook(control, learned, differences["on_time"], answer, config),
        alpha=config.alpha,
        margin=config.margin,
        breaches=config.breaches,
        notes=_notes(config),
    )


def _moments(units: Sequence[UnitOutcomes]) -> dict[Kpi, tuple[Moments, Moments]]:
    """Sums of both arms (heuristic, learned), by KPI."""
    names = sorted({name for pair in KPIS.values() for name in pair})
    read = attrgetter("learned", *names)
    table = np.array([read(u) for u in units], dtype=np.float64).reshape(-1, 1 + len(names))
    arms = [table[table[:, 0] == which, 1:] for which in (0.0, 1.0)]
    column = {name: i for i, name in enumerate(names)}
    sums = [
        {kpi: Moments.of(arm[:, column[up]], arm[:, column[of]]) for kpi, (up, of) in KPIS.items()}
        for arm in arms
    ]
    return {kpi: (sums[0][kpi], sums[1][kpi]) for kpi in KPIS}


def call(
    control: Moments, learned: Moments, config: ReportConfig, *, ratio: float = 1.0
) -> tuple[Answer, Estimate | None]:
    """The verdict alone, from the sums of both arms: what `report` answers, look by look.

    Args:
        control: On time over bookings, of the heuristic arm.
        learned: Of the learned arm.
        config: How units were drawn.
        ratio: The sample-ratio check's p-value.
    """
    difference = _difference(control, learned, config)
    split = SampleRatio(ratio, (control.units, learned.units), ratio < RATIO_P)
    return _answer(control, learned, difference, split, config), difference


def _answer(
    control: Moments,
    learned: Moments,
    difference: Estimate | None,
    ratio: SampleRatio,
    config: ReportConfig,
) -> Answer:
    if ratio.blocked:
        return "wrong_split"
    if not control.d or not learned.d or difference is None:
        return "no_data"
    if difference.low is None or difference.high is None:
        return "too_early"
    if difference.low > 0 or difference.high < 0:
        return "better" if difference.low > 0 else "worse"
    if difference.low > -config.margin and difference.high < config.margin:
        return "same"
    return "undecided"


def _difference(control: Moments, learned: Moments, config: ReportConfig) -> Estimate | None:
    """Learned less heuristic; without an interval where there are too few units or looks."""
    if not control.d or not learned.d:
        return None
    value = learned.ratio - control.ratio
    enough = min(control.units, learned.units) >= config.least_units
    if not enough or (config.stay and config.look < 1):
        return Estimate(value)
    look = config.look if config.stay else None
    return Estimate.around(value, half_width(control, learned, alpha=config.alpha, look=look))


def _ratio(units: Sequence[UnitOutcomes], config: ReportConfig) -> SampleRatio:
    """Both of what was drawn and of what is analysed: outcomes may get lost on the way."""
    analysed = [u.learned for u in units]
    drawn = analysed if config.drawn is None else config.drawn
    p = min(ratio_p(analysed, config.share), ratio_p(drawn, config.share))
    learned = sum(map(bool, drawn))
    return SampleRatio(p, (len(drawn) - learned, learned), p < RATIO_P)


def _enough(moments: Moments) -> int:
    """Units that an arm needs for an interval: as many as give `ENOUGH` bookings, and five."""
    return 5 if moments.d >= ENOUGH else 10**9


def _outlook(
    control: Moments,
    learned: Moments,
    difference: Estimate | None,
    answer: Answer,
    config: ReportConfig,
) -> Outlook:
    both = control + learned
    per_unit, icc = both.mean_size, _icc(control, learned)
    per_day = both.units / config.days if config.days and both.units else None
    more = None
    if answer == "undecided" and not config.stay:
        more = _more_units(control, learned, difference, config)
    elif answer == "too_early" and not config.stay:
        least, share = config.least_units, min(config.share, 1 - config.share)
        missing = least - min(control.units, learned.units)
        more = math.ceil(missing / share) if share > 0 else None
    valid = fixed = None
    if config.days and 0 < both.ratio < 1 and 0 < config.share < 1 and _askable(both, config):
        rate, effect = control.ratio if control.d else both.ratio, config.effect
        if rate > 0 and rate + effect < 1:
            answered = days_needed(
                Question(
                    rate, effect, both.d / config.days, per_unit, both.size_cv2, icc,
                    both.units if config.stay else None, config.share, config.alpha, config.power,
                )
            )  # fmt: skip
            valid, fixed = answered.always_valid, answered.fixed
    return Outlook(
        more_bookings=None if more is None else max(1, math.ceil(more * per_unit)),
        more_days=None if more is None or not per_day else more / per_day,
        effect=config.effect,
        days_always_valid=valid,
        days_fixed=fixed,
        power=config.power,
        icc=icc,
        bookings_per_unit=per_unit,
        units_per_day=per_day,
    )


def _askable(both: Moments, config: ReportConfig) -> bool:
    return both.units >= 2 * (ENOUGH_STAYING if config.stay else ENOUGH)


def _icc(control: Moments, learned: Moments) -> float:
    """Of both arms, weighted by their units: a difference between arms is no correlation."""
    units = control.units + learned.units
    if not units:
        return 0.0
    return (control.units * control.icc() + learned.units * learned.icc()) / units


def _more_units(
    control: Moments, learned: Moments, difference: Estimate | None, config: ReportConfig
) -> int | None:
    """Units still to come until the interval is as narrow as the difference is wide."""
    if difference is None or abs(difference.value) < 1e-4:
        return None
    units = control.units + learned.units
    variance = units * (control.error2 + learned.error2)

    def wide(n: float) -> bool:
        return boundary(n, alpha=config.alpha) * math.sqrt(variance / n) > abs(difference.value)

    low, high = units, units + 1
    while wide(high):
        low, high = high, 2 * high
        if (config.days and high * config.days / units > MOST_DAYS) or high > 1e7:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if wide(middle) else (low, middle)
    return max(1, high - units)


def _notes(config: ReportConfig) -> tuple[Note, ...]:
    notes: list[Note] = []
    if config.unit == UnitKind.BOOKING:
        notes.append("shared_fleet")
    short = config.block_min is not None and config.block_min < RECOMMENDED_BLOCK_MIN
    if config.unit == UnitKind.SWITCHBACK and short:
        notes.append("carry_over")
    if config.stay:
        notes.append("few_looks")
    return tuple(notes)
