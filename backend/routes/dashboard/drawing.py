"""Geometry of the drawings: what the templates put into SVG. No tiles, no outside source.

The map is a plane that touches the middle of what is shown; places of the scenario (towns,
hospitals) give the eye something to hold on to.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.dispatching.pulse import Block
from services.dispatching.situation import BookingNow, DriverNow, Point, Situation
from services.rl.simulation.scenarios import Place

WIDTH, HEIGHT = 720, 500
_MARGIN: Final = 30.0
_KM_PER_DEGREE: Final = 111.195
_FURTHEST_KM: Final = 80.0
_LABEL_PX: Final = (7.2, 16.0)  # of a letter: width, height
_PHONE: Final = 1.65  # letters of the map are so much larger there
MOST_MARKS: Final = 200

XY = tuple[float, float]
_Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Mark:
    """Something at a place of the drawing."""

    x: float
    y: float
    driver: DriverNow | None = None
    booking: BookingNow | None = None
    to: XY | None = None


@dataclass(frozen=True)
class Label:
    """The name of a place."""

    x: float
    y: float
    text: str
    hospital: bool
    small: bool  # has no room where letters are larger, on a phone


@dataclass(frozen=True)
class FleetMap:
    """What the map shows.

    Attributes:
        drivers: Marks, those of state ``off`` first (others are drawn over them).
        bookings: Marks, the calmest first.
        places: Names for orientation.
        scale_px: Length of the scale bar.
        scale_km: What it stands for.
        outside: Marks too far away to be drawn.
    """

    drivers: tuple[Mark, ...]
    bookings: tuple[Mark, ...]
    places: tuple[Label, ...]
    scale_px: float
    scale_km: int
    outside: int


class _Plane:
    """From degrees to the drawing."""

    def __init__(self, points: Sequence[Point]) -> None:
        lats, lons = [p[0] for p in points], [p[1] for p in points]
        self._lat0 = (min(lats) + max(lats)) / 2
        self._lon0 = (min(lons) + max(lons)) / 2
        self._per_lon = _KM_PER_DEGREE * math.cos(math.radians(self._lat0))
        wide = max(4.0, (max(lons) - min(lons)) * self._per_lon)
        high = max(3.0, (max(lats) - min(lats)) * _KM_PER_DEGREE)
        self.px_per_km = min((WIDTH - 2 * _MARGIN) / wide, (HEIGHT - 2 * _MARGIN) / high)

    def __call__(self, point: Point) -> XY:
        x = WIDTH / 2 + (point[1] - self._lon0) * self._per_lon * self.px_per_km
        y = HEIGHT / 2 - (point[0] - self._lat0) * _KM_PER_DEGREE * self.px_per_km
        return round(x, 1), round(y, 1)


def fleet_map(situation: Situation, place: Place) -> FleetMap:
    """Lay out drivers, open bookings and places."""
    base = (place.base.lat, place.base.lon)
    bookings = situation.bookings[:MOST_MARKS]
    near = [p for p in (d.at for d in situation.drivers) if _km(p, base) <= _FURTHEST_KM]
    near += [b.at for b in bookings if _km(b.at, base) <= _FURTHEST_KM]
    plane = _Plane([base, *near])
    outside = len(situation.drivers) + len(bookings) - len(near)
    drivers = [
        Mark(*plane(d.at), driver=d, to=None if d.heading_to is None else plane(d.heading_to))
        for d in situation.drivers
        if _km(d.at, base) <= _FURTHEST_KM
    ]
    drivers.sort(key=lambda mark: mark.driver is not None and mark.driver.state != "off")
    marks = [Mark(*plane(b.at), booking=b) for b in bookings if _km(b.at, base) <= _FURTHEST_KM]
    marks.reverse()
    scale_km = next((km for km in (20, 10, 5, 2) if km * plane.px_per_km <= WIDTH / 4), 1)
    return FleetMap(
        tuple(drivers), tuple(marks), _labels(place, plane),
        round(scale_km * plane.px_per_km, 1), scale_km, outside,
    )  # fmt: skip


def _labels(place: Place, plane: _Plane) -> tuple[Label, ...]:
    """Names that fit beside each other, the busiest places first."""
    placed: dict[float, list[_Box]] = {1.0: [], _PHONE: []}
    found = []
    kinds = {"hospital": 0, "residential": 1}
    sites = [site for site in place.sites if site.kind in kinds]
    for site in sorted(sites, key=lambda s: (-s.weight, kinds[s.kind])):
        x, y = plane((site.lat, site.lon))
        fits = {}
        for size, others in placed.items():
            half = size * _LABEL_PX[0] * len(site.name) / 2
            box = (x - half, y - size * _LABEL_PX[1], x + half, y + 4 * size)
            inside = box[0] > 4 and box[2] < WIDTH - 4 and box[1] > 4 and box[3] < HEIGHT - 28
            fits[size] = inside and not any(_overlap(box, other) for other in others)
            if fits[size]:
                others.append(box)
        if fits[1.0]:
            found.append(Label(x, y, site.name, site.kind == "hospital", not fits[_PHONE]))
    return tuple(found)


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _km(a: Point, b: Point) -> float:
    per_lon = _KM_PER_DEGREE * math.cos(math.radians(b[0]))
    return math.hypot((a[0] - b[0]) * _KM_PER_DEGREE, (a[1] - b[1]) * per_lon)


# --- charts --------------------------------------------------------------------------------------

CHART_WIDTH, CHART_HEIGHT = 400, 190
LEFT, RIGHT, TOP, BOTTOM = 56, 8, 12, 26


@dataclass(frozen=True)
class Bar:
    """A column of a chart."""

    x: float
    y: float
    width: float
    height: float
    block: Block


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    at: float
    value: float


def fallback_bars(blocks: Sequence[Block]) -> tuple[list[Bar], list[Tick]]:
    """Share of the learned arm's answers that the heuristic had to give, per block."""
    shares = [b.fallbacks / b.learned if b.learned else 0.0 for b in blocks]
    top = next(t for t in (0.05, 0.1, 0.25, 0.5, 1.0) if max(shares, default=0.0) <= t)
    step = (CHART_WIDTH - LEFT - RIGHT) / max(1, len(blocks))
    bars = []
    for i, (block, share) in enumerate(zip(blocks, shares, strict=True)):
        y = _y(share, top)
        # Where there were answers and no fallback, a hair's breadth says so; without any, nothing.
        height = max(1.5, _y(0.0, top) - y) if block.learned else 0.0
        left = LEFT + i * step
        bars.append(
            Bar(round(left, 1), round(_y(0.0, top) - height, 1), round(step - 1, 1),
                round(height, 1), block)
        )  # fmt: skip
    return bars, [Tick(_y(v, top), v) for v in (0.0, top / 2, top)]


@dataclass(frozen=True)
class LatencyChart:
    """Two lines over time, on a logarithmic scale."""

    p50: tuple[str, ...]
    p99: tuple[str, ...]
    ticks: list[Tick]


def latency_lines(blocks: Sequence[Block]) -> LatencyChart:
    """Latency of answers: p50 and p99 per block; a line is broken where there was no answer."""
    values = [(b.percentile_ms(0.5), b.percentile_ms(0.99)) for b in blocks]
    most = max((v[1] or 0.0 for v in values), default=0.0)
    least = min((v[0] for v in values if v[0] is not None), default=1.0)
    high = max(1, math.ceil(math.log10(max(1.0, most))))
    low = min(high - 1, math.floor(math.log10(max(0.1, least))))
    step = (CHART_WIDTH - LEFT - RIGHT) / max(1, len(blocks))

    def line(which: int) -> tuple[str, ...]:
        runs: list[list[str]] = [[]]
        for i, value in enumerate(values):
            ms = value[which]
            if ms is None:
                runs.append([])
                continue
            share = (math.log10(max(10.0**low, ms)) - low) / (high - low)
            runs[-1].append(f"{LEFT + (i + 0.5) * step:.1f},{_y(share, 1.0):.1f}")
        # A single point is drawn as a short dash.
        return tuple(
            " ".join(run if len(run) > 1 else [run[0], _beside(run[0])]) for run in runs if run
        )

    ticks = [Tick(_y((e - low) / (high - low), 1.0), 10.0**e) for e in range(low, high + 1)]
    return LatencyChart(line(0), line(1), ticks)


def hours(blocks: Sequence[Block], every: int = 12) -> list[tuple[float, Block]]:
    """Places of time labels: one block in ``every``."""
    step = (CHART_WIDTH - LEFT - RIGHT) / max(1, len(blocks))
    first = next(
        (i for i, b in enumerate(blocks) if b.begin.minute == 0 and b.begin.hour % 3 == 0), 0
    )
    return [(round(LEFT + i * step, 1), blocks[i]) for i in range(first, len(blocks), every)]


def _y(value: float, top: float) -> float:
    return round(CHART_HEIGHT - BOTTOM - (CHART_HEIGHT - TOP - BOTTOM) * value / top, 1)


def _beside(point: str) -> str:
    x, y = point.split(",")
    return f"{float(x) + 3:.1f},{y}"
