"""One frame of the map: what changes over the base map, the side panel and the KPI strip."""

import math
from collections import Counter
from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from .map_canvas import (
    AMBER,
    BLUE,
    GREEN,
    GREY,
    INK,
    LINE,
    PALE,
    PANEL,
    PAPER,
    PURPLE,
    RED,
    SKY,
    WHITE,
    Canvas,
    Chart,
    Colour,
    Pixel,
    as_frame,
    draw_base,
    draw_base_map,
)
from .snapshot import Activity, BookingNow, DriverNow, Point, Snapshot

FRAME_SIZE = (960, 720)  # width, height

_WIDTH, _HEIGHT = FRAME_SIZE
_HEADER, _STRIP, _SIDE = 46, 78, 262
_MAP = (0, _HEADER, _WIDTH - _SIDE, _HEIGHT - _HEADER - _STRIP)  # x, y, width, height
_LISTED = 12  # drivers listed one by one; a larger fleet is counted by activity
_LABELLED = 40  # drivers that carry their number on the map

TIGHT_MIN, AMPLE_MIN, LATER_MIN = 15.0, 45.0, 120.0  # bounds of slack between the colours

_ACTIVITY: dict[Activity, tuple[Colour, Colour]] = {  # marker, number on it
    Activity.CARRYING: (PURPLE, WHITE),
    Activity.ALIGHTING: (PURPLE, WHITE),
    Activity.BOARDING: (BLUE, WHITE),
    Activity.WAITING: (SKY, INK),
    Activity.DRIVING: (BLUE, WHITE),
    Activity.STANDBY: (SKY, INK),
    Activity.FREE: (WHITE, INK),
    Activity.OFF: (LINE, GREY),
    Activity.DOWN: (INK, WHITE),
}


class MapFrame:
    """Draws frames over one base map, which it draws once."""

    def __init__(self, chart: Chart) -> None:
        self._chart = chart
        ground = Canvas.blank(FRAME_SIZE, PAPER)
        x, y, width, height = _MAP
        draw_base_map(ground, chart, x, y, width, height)
        ground.rectangle(x + width, y, _SIDE, height, PANEL)
        ground.line((x + width, y), (x + width, y + height), LINE, 1)
        ground.line((0, y + height), (_WIDTH, y + height), LINE, 1)
        _draw_legend(ground, x + width + 16, y + height - 238)
        self._ground = ground.image

    def draw(self, now: Snapshot, ringed: Collection[int] = ()) -> npt.NDArray[np.uint8]:
        """The frame of one moment, ``(720, 960, 3)`` uint8; ``ringed``: rows of open bookings."""
        canvas = Canvas(self._ground.copy())
        crowded = len(now.drivers) > _LABELLED
        for driver in now.drivers:
            self._draw_route(canvas, driver, crowded)
        for booking in reversed(now.bookings):  # the most urgent on top
            if booking.row in ringed:
                _draw_ring(canvas, self._pixel(booking.pickup))
            _draw_booking(canvas, self._pixel(booking.pickup), booking)
        for place in now.lost:
            _draw_cross(canvas, self._pixel(place))
        self._draw_drivers(canvas, now)
        _draw_header(canvas, now)
        _draw_fleet(canvas, now, _MAP[2] + 16, _HEADER + 26)
        _draw_kpis(canvas, now)
        return as_frame(canvas.reduced())

    def _pixel(self, place: Point) -> Pixel:
        x, y, width, height = _MAP
        px, py = self._chart.projection.to_pixel(place, width, height, x, y)
        # A place beyond the chart (an address far from its site) is shown at its edge.
        return min(max(px, x + 8), x + width - 8), min(max(py, y + 8), y + height - 8)

    def _draw_route(self, canvas: Canvas, driver: DriverNow, crowded: bool) -> None:
        """Committed legs; of a large fleet only the one being driven, or nothing would be seen."""
        aboard = driver.activity == Activity.CARRYING
        for leg in driver.legs[:1] if crowded else reversed(driver.legs):
            a, b = self._pixel(leg.start), self._pixel(leg.end)
            if leg.queued:
                canvas.line(a, b, PALE, 1, dash=0 if leg.loaded else 3)
            elif leg.loaded:
                canvas.line(a, b, PURPLE, 2.2 if aboard and not crowded else 1.1)
            else:
                canvas.line(a, b, BLUE, 1.0 if crowded else 1.8, dash=5)
            if leg.loaded and not crowded:
                canvas.disc(b, 2.6, WHITE, PALE if leg.queued else PURPLE, 1.2)

    def _draw_drivers(self, canvas: Canvas, now: Snapshot) -> None:
        labelled = len(now.drivers) <= _LABELLED
        radius = 8.5 if labelled else 4.0
        placed: list[Pixel] = []
        for d, driver in enumerate(now.drivers):
            home = self._pixel(driver.place)
            spot = _free_spot(home, placed, 2 * radius) if labelled else home
            placed.append(spot)
            canvas.line(home, spot, GREY, 1)
            fill, ink = _ACTIVITY[driver.activity]
            canvas.disc(spot, radius, fill, INK, 1.2)
            if labelled:
                canvas.text(spot, str(d), 10, ink, bold=True, anchor="mm")


def _free_spot(home: Pixel, placed: list[Pixel], distance: float) -> Pixel:
    """The nearest spot, on rings about ``home``, that touches no marker placed before."""
    for ring in range(6):
        steps = 1 if ring == 0 else 6 * ring
        for i in range(steps):
            angle = 2 * math.pi * i / steps - math.pi / 2
            reach = ring * distance * 0.55
            spot = (home[0] + reach * math.cos(angle), home[1] + reach * math.sin(angle))
            if all(math.dist(spot, other) >= distance for other in placed):
                return spot
    return home


def _draw_booking(canvas: Canvas, at: Pixel, booking: BookingNow) -> None:
    """Colour and shape tell the slack, size the priority."""
    _draw_slack(canvas, at, booking.slack_min, 3.2 + 0.65 * booking.priority)


def _draw_ring(canvas: Canvas, at: Pixel) -> None:
    canvas.disc(at, 12.5, WHITE, INK, 2)


def _draw_slack(canvas: Canvas, at: Pixel, slack_min: float, r: float) -> None:
    x, y = at
    if slack_min >= LATER_MIN:
        canvas.disc(at, 0.7 * r, WHITE, GREEN, 1.1)
    elif slack_min >= AMPLE_MIN:
        canvas.disc(at, r, GREEN, WHITE, 1)
    elif slack_min >= TIGHT_MIN:
        s = 1.25 * r
        canvas.polygon([(x, y - s), (x + s, y), (x, y + s), (x - s, y)], AMBER, WHITE)
    else:
        s = 1.3 * r
        canvas.polygon([(x, y - s), (x + s, y + 0.75 * s), (x - s, y + 0.75 * s)], RED, WHITE)


def _draw_cross(canvas: Canvas, at: Pixel) -> None:
    x, y = at
    canvas.line((x - 5, y - 5), (x + 5, y + 5), INK, 2.4)
    canvas.line((x - 5, y + 5), (x + 5, y - 5), INK, 2.4)


def _draw_header(canvas: Canvas, now: Snapshot) -> None:
    canvas.text((16, 30), now.clock(now.now_min), 22, bold=True)
    canvas.text((100, 29), f"{now.scenario} · {now.day}", 13, GREY)
    left, right, y = 560.0, _WIDTH - 66.0, 25.0
    share = min(1.0, max(0.0, now.now_min / now.horizon_min))
    canvas.rectangle(left, y - 3, right - left, 6, LINE, 3)
    if share > 0.02:
        canvas.rectangle(left, y - 3, (right - left) * share, 6, INK, 3)
    canvas.text((left - 10, y), now.clock(0), 11, GREY, anchor="rm")
    canvas.text((right + 10, y), now.clock(now.horizon_min), 11, GREY, anchor="lm")


def _draw_fleet(canvas: Canvas, now: Snapshot, x: float, y: float) -> None:
    canvas.text((x, y), f"{len(now.drivers)} drivers", 13, bold=True)
    if len(now.drivers) > _LISTED:
        _draw_fleet_counts(canvas, now, x, y + 26)
        return
    for d, driver in enumerate(now.drivers):
        row = y + 24 + 24 * d
        fill, ink = _ACTIVITY[driver.activity]
        canvas.disc((x + 9, row), 8.5, fill, INK, 1.2)
        canvas.text((x + 9, row), str(d), 10, ink, bold=True, anchor="mm")
        canvas.text((x + 26, row), driver.activity, 12, INK, anchor="lm")
        if driver.until_min is not None:
            canvas.text((x + 142, row), now.clock(driver.until_min), 12, GREY, anchor="lm")
        queued = sum(leg.queued for leg in driver.legs) // 2
        if queued:
            canvas.text((x + 190, row), f"+ {queued}", 12, GREY, anchor="lm")


def _draw_fleet_counts(canvas: Canvas, now: Snapshot, x: float, y: float) -> None:
    counts = Counter(driver.activity for driver in now.drivers)
    most = max(counts.values())
    for i, activity in enumerate(Activity):
        row = y + 26 * i
        canvas.disc((x + 9, row), 6, _ACTIVITY[activity][0], INK, 1.2)
        canvas.text((x + 26, row), activity, 12, INK, anchor="lm")
        canvas.text((x + 150, row), str(counts[activity]), 12, GREY, anchor="rm")
        if counts[activity]:
            canvas.rectangle(x + 160, row - 4, 64 * counts[activity] / most, 8, PALE, 2)


def _draw_legend(canvas: Canvas, x: float, y: float) -> None:
    canvas.text((x, y), "open bookings, by slack", 12, bold=True)
    rows = (
        (LATER_MIN, f"over {LATER_MIN / 60:g} h"),
        (AMPLE_MIN, f"{AMPLE_MIN:g} min to {LATER_MIN / 60:g} h"),
        (TIGHT_MIN, f"{TIGHT_MIN:g} to {AMPLE_MIN:g} min"),
        (0.0, f"under {TIGHT_MIN:g} min"),
    )
    for i, (slack, words) in enumerate(rows):
        row = y + 20 + 19 * i
        _draw_slack(canvas, (x + 9, row), slack, 5.2)
        canvas.text((x + 26, row), words, 11, INK, anchor="lm")
    row = y + 20 + 19 * len(rows)
    _draw_cross(canvas, (x + 9, row))
    canvas.text((x + 26, row), "not served, just now", 11, INK, anchor="lm")
    canvas.text((x, row + 18), "larger: higher priority. Slack: minutes left", 9, GREY)
    canvas.text((x, row + 30), "to leave the base and arrive in the window", 9, GREY)
    row += 50
    for words, colour, dash, width in (
        ("trip with patient (thin: to come)", PURPLE, 0, 2.2),
        ("empty, to the pickup", BLUE, 5, 1.8),
        ("next job in the queue", PALE, 0, 1.2),
    ):
        canvas.line((x, row), (x + 19, row), colour, width, dash)
        canvas.text((x + 26, row), words, 11, INK, anchor="lm")
        row += 17
    draw_base(canvas, (x + 9, row + 1))
    canvas.text((x + 26, row), "base", 11, INK, anchor="lm")


def _draw_kpis(canvas: Canvas, now: Snapshot) -> None:
    k = now.kpis
    completed, due = k["completed"], k["bookings_due"]
    on_time = k["on_time_pct"] * due / 100
    decided = completed + k["unserved"]
    rows = (
        ("completed", f"{completed:.0f}", f"of {due:.0f} due today"),
        ("on time", f"{100 * on_time / decided:.0f} %" if decided else "–", "of those decided"),
        ("open now", f"{len(now.bookings)}", "bookings"),
        ("unserved", f"{k['unserved']:.0f}", "bookings"),
        ("mean wait", f"{k['wait_mean_min']:.1f} min" if completed else "–", "beyond the promise"),
        (
            "empty drive",
            f"{k['deadhead_km_per_trip']:.1f} km" if completed else "–",
            "per completed trip",
        ),
        ("satisfaction", f"{k['satisfaction']:.2f}" if decided else "–", "1 to 5"),
        ("reward", f"{k['reward']:.1f}", "points so far"),
    )
    top, width = _HEIGHT - _STRIP, _WIDTH / len(rows)
    for i, (name, value, unit) in enumerate(rows):
        x = 16 + i * width
        canvas.text((x, top + 20), name, 11, GREY)
        canvas.text(
            (x, top + 45), value, 18, RED if name == "unserved" and k[name] else INK, bold=True
        )
        canvas.text((x, top + 64), unit, 9, GREY)
