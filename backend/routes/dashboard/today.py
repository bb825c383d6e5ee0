"""Today: fleet map, open bookings, results by arm, the engine's health, and the big switch."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, get_args

from flask import redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from extensions import Services, services
from routes.problems import Problem
from services.dispatching.experiments import experiment_row
from services.dispatching.outcomes import Counts, Outcome, Outcomes, read_outcomes
from services.dispatching.pulse import Block, Pulse
from services.dispatching.situation import Situation, read_situation
from services.dispatching.switching import SWITCH_REASONS, SwitchReason, heuristic_only
from services.rl.evaluation.intervals import wilson
from services.rl.simulation.engine import travel_tables
from services.rl.simulation.travel import TravelTables

from .blueprint import dashboard
from .drawing import (
    Bar,
    FleetMap,
    LatencyChart,
    Tick,
    fallback_bars,
    fleet_map,
    hours,
    latency_lines,
)
from .formats import Formats
from .sessions import Visit, change_session, page
from .words import words_of

PART: Final = "dashboard"
_PARTS: Final = ("switch", "tiles", "map", "bookings", "kpis", "charts", "drivers")
_KEPT_S: Final = 300.0
_MAKING = threading.Lock()


@dataclass
class Board:
    """What the dashboard keeps in a process: caches, nothing that matters."""

    tables: TravelTables
    pulse: Pulse = field(default_factory=Pulse)
    outcomes: dict[int, tuple[float, dict[int, Outcome]]] = field(default_factory=dict)

    def known(self, company_id: int) -> dict[int, Outcome]:
        """Final outcomes of a company; forgotten after a while, in case a host mends its rows."""
        now = time.monotonic()
        began, found = self.outcomes.get(company_id, (-1e9, {}))
        if now - began > _KEPT_S:
            began, found = now, {}
            self.outcomes[company_id] = (began, found)
        return found


def board(at_work: Services) -> Board:
    """This process's board; made at first use, after a server has forked."""
    found = at_work.parts.get(PART)
    if found is None:
        with _MAKING:
            found = at_work.parts.setdefault(PART, Board(travel_tables(at_work.scenario)))
    assert isinstance(found, Board)
    return found


@dataclass(frozen=True)
class Switch:
    """The state of the big switch: ``off``, ``stopped``, ``shadow`` or ``ab``."""

    state: str
    exists: bool
    rl_share: float
    at: datetime | None

    @property
    def can_stop(self) -> bool:
        """Whether the learned policy is asked at all."""
        return self.state in ("ab", "shadow")


@dataclass(frozen=True)
class Tile:
    """One big number."""

    key: str
    value: str
    more: str = ""
    kind: str = ""


@dataclass(frozen=True)
class ArmRow:
    """One line of the table of results."""

    arm: str
    counts: Counts


@dataclass(frozen=True)
class Charts:
    """The last 24 hours of the engine."""

    bars: list[Bar]
    bar_ticks: list[Tick]
    lines: LatencyChart
    hours: list[tuple[float, Block]]
    answers: int
    learned: int
    fallbacks: int
    reasons: list[tuple[str, int]]
    p50: float
    p99: float


@dataclass(frozen=True)
class Today:
    """All that the page shows."""

    situation: Situation
    map: FleetMap
    kpis: list[ArmRow]
    cut: bool
    charts: Charts
    switch: Switch
    tiles: list[Tile]
    on_time_min: str
    switch_reasons: tuple[str, ...] = SWITCH_REASONS

    @staticmethod
    def wilson(count: int, of: int) -> Any:
        """Interval of a share; None where there are too few."""
        return wilson(count, of)


@dashboard.get("/")
@dashboard.get("")  # the last is the one that links name
@page()
def today(visit: Visit) -> str:
    """The page."""
    return render_template("atmr_dashboard/today.html", today=look(visit))


@dashboard.get("/live")
@page()
def live(visit: Visit) -> dict[str, Any]:
    """The page's parts, for the script that refreshes them."""
    now = look(visit)
    fmt = Formats(visit.language, visit.zone)
    parts = {
        name: render_template(f"atmr_dashboard/part_{name}.html", today=now) for name in _PARTS
    }
    return {"at": fmt.time(visit.now), "parts": parts}


@dashboard.post("/heuristic-only")
@page("admin")
def heuristic_only_now(visit: Visit) -> Response:
    """The big switch.

    Raises:
        Problem: 422 without a reason.
    """
    why = switch_reason()
    with services().database.writing() as session:
        row = heuristic_only(session, visit.company_id, visit.caller.name, why, visit.now)
    change_session(note="note.nothing_off" if row is None else "note.off")
    return redirect(url_for(".today"), 303)


def switch_reason() -> SwitchReason:
    """The reason that the form gives.

    Raises:
        Problem: 422 if it is none of ours.
    """
    why = request.form.get("why", "")
    if why not in get_args(SwitchReason):
        raise Problem(422, "a reason is needed, of those listed", field="form.why")
    return why  # type: ignore[return-value]


def look(visit: Visit) -> Today:
    """Read everything the page shows, on one state of the database."""
    at_work = services()
    kept, scenario = board(at_work), at_work.scenario
    with at_work.database.reading() as session:
        situation = read_situation(
            session, visit.company_id, visit.now, scenario, kept.tables, visit.zone
        )
        begin = situation.day.start - timedelta(hours=1)
        end = situation.day.instant(scenario.rules.horizon_min + scenario.rules.overtime_min)
        outcomes = read_outcomes(
            session, visit.company_id, begin, end, visit.now, scenario.rules,
            known=kept.known(visit.company_id),
        )  # fmt: skip
        blocks = kept.pulse.last_day(session, visit.company_id, visit.now)
        experiment = experiment_row(session, visit.company_id)
    return Today(
        situation=situation,
        map=fleet_map(situation, scenario.place),
        kpis=arm_rows(outcomes),
        cut=outcomes.cut,
        charts=charts(blocks),
        switch=switch_of(experiment),
        tiles=_tiles(visit, situation, outcomes),
        on_time_min=Formats(visit.language, visit.zone).number(scenario.rules.on_time_min),
    )


def switch_of(experiment: Any) -> Switch:
    """The switch as an experiment's row sets it; no row: off."""
    if experiment is None:
        return Switch("off", False, 0.0, None)
    state = "stopped" if experiment.stopped_at and experiment.mode != "off" else experiment.mode
    at = experiment.stopped_at if state == "stopped" else experiment.updated_at
    return Switch(state, True, experiment.rl_share, at)


def arm_rows(outcomes: Outcomes) -> list[ArmRow]:
    """All bookings, then each arm's; bookings that nobody decided stand by themselves."""
    rows = [ArmRow("all", outcomes.of())]
    rows += [ArmRow(arm, outcomes.of(arm)) for arm in outcomes.arms()]
    without = outcomes.of("")
    if without.known:
        rows.append(ArmRow("none", without))
    return rows


def charts(blocks: list[Block]) -> Charts:
    """Lay out the charts and sum them up."""
    bars, ticks = fallback_bars(blocks)
    latencies = sorted(ms for block in blocks for ms in block.latencies_ms)
    whole = Block(blocks[0].begin, 0, 0, 0, (), tuple(latencies))
    reasons: Counter[str] = Counter()
    for block in blocks:
        reasons.update(dict(block.reasons))
    return Charts(
        bars=bars,
        bar_ticks=ticks,
        lines=latency_lines(blocks),
        hours=hours(blocks),
        answers=sum(b.answers for b in blocks),
        learned=sum(b.learned for b in blocks),
        fallbacks=sum(b.fallbacks for b in blocks),
        reasons=reasons.most_common(5),
        p50=whole.percentile_ms(0.5) or 0.0,
        p99=whole.percentile_ms(0.99) or 0.0,
    )


def _tiles(visit: Visit, situation: Situation, outcomes: Outcomes) -> list[Tile]:
    t, fmt = words_of(visit.language), Formats(visit.language, visit.zone)
    overdue = situation.count(("overdue", "nobody"))
    urgent = situation.count(("late", "now"))
    duty = [d for d in situation.drivers if d.state not in ("off", "down")]
    free = sum(d.state == "free" for d in duty)
    counts = outcomes.of()
    share = fmt.percent(counts.on_time / counts.known, 0) if counts.known else "–"
    return [
        Tile("tile.overdue", str(overdue), kind="bad" if overdue else ""),
        Tile("tile.urgent", str(urgent), kind="warn" if urgent else ""),
        Tile("tile.open", str(len(situation.bookings))),
        Tile("tile.committed", str(situation.committed)),
        Tile("tile.free", str(free), t("tile.of_duty", n=len(duty))),
        Tile("tile.on_time", share, t("tile.of_known", n=counts.known)),
    ]
