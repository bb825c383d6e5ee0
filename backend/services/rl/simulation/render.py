"""Frames of a running day: text for a terminal, a map for a GIF or a report.

Both show any environment of any engine, at its present moment or (by forecast) a little later, so
that a film may run smoother than the decision epochs.
"""

from collections.abc import Collection
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from .engine import Engine
from .map_canvas import Chart, Projection
from .map_frame import MapFrame
from .snapshot import Snapshot, take_snapshot
from .types import FloatArray

Frame = npt.NDArray[np.uint8]  # (height, width, 3)

_MAX_LISTED = 15
_frames: WeakKeyDictionary[Engine, MapFrame] = WeakKeyDictionary()


def render_rgb(
    engine: Engine, env: int = 0, at_min: float | None = None, ringed: Collection[int] = ()
) -> Frame:
    """A map of one environment, ``(720, 960, 3)`` uint8.

    Drivers on their way, routes of what is committed, open bookings by slack, KPIs of the day so
    far. The base map is drawn once per engine. Open bookings (rows of the day) may be ringed.
    """
    frame = _frames.get(engine)
    if frame is None:
        frame = _frames[engine] = MapFrame(chart_of(engine))
    return frame.draw(take_snapshot(engine, env, at_min), ringed)


def chart_of(engine: Engine) -> Chart:
    """The piece of the Earth where an engine's days take place, and its named sites."""
    places = [engine.scenario.place.base, *engine.scenario.place.sites]
    points = [np.array([(place.lat, place.lon) for place in places])]
    for day in engine.days:
        for lat, lon in (("pickup_lat", "pickup_lon"), ("dropoff_lat", "dropoff_lon")):
            points.append(np.column_stack([day.bookings[lat], day.bookings[lon]]))
        points.append(np.column_stack([day.drivers["lat"], day.drivers["lon"]]))
    every: FloatArray = np.concatenate(points)
    base = engine.scenario.place.base
    return Chart(
        base=(base.lat, base.lon),
        sites=engine.scenario.place.sites,
        projection=Projection.around(every),
        to_scale=engine.scenario.travel.kind != "matrix",
    )


def render_ansi(engine: Engine, env: int = 0, at_min: float | None = None) -> str:
    """One environment as a few lines of text: time, drivers, open bookings, KPIs so far."""
    now = take_snapshot(engine, env, at_min)
    return "\n".join([_headline(now), *_driver_lines(now), *_booking_lines(now), _kpi_line(now)])


def _headline(now: Snapshot) -> str:
    state = "day over" if now.ended else f"{now.now_min:.0f} of {now.horizon_min:.0f} min"
    return f"{now.clock(now.now_min)}  {now.scenario} · {now.day} · {state}"


def _driver_lines(now: Snapshot) -> list[str]:
    lines = [f"drivers ({len(now.drivers)})"]
    for d, driver in enumerate(now.drivers[:_MAX_LISTED]):
        until = "" if driver.until_min is None else f"until {now.clock(driver.until_min)}"
        queued = sum(leg.queued for leg in driver.legs) // 2
        then = f"  then {queued} more" if queued else ""
        marks = ("w" if driver.wheelchair else "-") + ("e" if driver.emergency else "-")
        lines.append(f"  {d:>3} {marks}  {driver.activity:<12} {until:<11}{then}".rstrip())
    return lines + _more(len(now.drivers), "drivers")


def _booking_lines(now: Snapshot) -> list[str]:
    lines = [f"open bookings ({len(now.bookings)}), slack in minutes"]
    for slot, booking in enumerate(now.bookings[:_MAX_LISTED]):
        need = " wheelchair" if booking.wheelchair else ""
        lines.append(
            f"  {slot:>3}  slack {booking.slack_min:>5.0f}  promised "
            f"{now.clock(booking.promised_min)}  priority {booking.priority}{need}"
        )
    return lines + _more(len(now.bookings), "bookings")


def _more(number: int, what: str) -> list[str]:
    return [f"  … and {number - _MAX_LISTED} {what} more"] if number > _MAX_LISTED else []


def _kpi_line(now: Snapshot) -> str:
    k = now.kpis
    return (
        f"completed {k['completed']:.0f} of {k['bookings_due']:.0f} · on time "
        f"{k['on_time_pct'] * k['bookings_due'] / 100:.0f} · unserved {k['unserved']:.0f} · wait "
        f"{k['wait_mean_min']:.1f} min · empty {k['deadhead_km_per_trip']:.1f} km/trip · reward "
        f"{k['reward']:.1f}"
    )
