"""Pictures of a day under two policies: maps side by side, a film, the reward over the day."""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from services.rl.simulation.engine import Engine
from services.rl.simulation.map_canvas import (
    AMBER,
    FAINT,
    GREEN,
    GREY,
    INK,
    LAND,
    LINE,
    PALE,
    PANEL,
    PAPER,
    PURPLE,
    RED,
    SKY,
    WHITE,
    Canvas,
    Colour,
)
from services.rl.simulation.map_canvas import BLUE as BLUE_INK
from services.rl.simulation.map_frame import FRAME_SIZE
from services.rl.simulation.render import render_rgb
from services.rl.simulation.types import FloatArray

from .day_comparison import DayComparison, PlayedDay
from .kpi_figure import BLUE, ORANGE
from .kpi_figure import GREY as MARK
from .plots import save_figure
from .runner import DayBook

FILM_MAX_BYTES: Final = 5_000_000
_FILM_WIDTH = 1200
_FRAME_MS, _LAST_FRAME_MS = 350, 3_000
_HEAD, _FOOT, _GAP = 44, 62, 6
_NAMED = 12  # bookings or drivers that a caption names
_A_COLOUR, _B_COLOUR = BLUE_INK, AMBER  # those of the chart's lines


class Replay:
    """A played day again, epoch by epoch, from its commitments alone."""

    def __init__(self, book: DayBook, day: PlayedDay) -> None:
        self.day = day
        self.engine: Engine = book.engine([0])
        self._epoch = -1

    def decided(self, epoch: int) -> Engine:
        """The engine at an epoch, its decisions made; never before one shown already."""
        while self._epoch < epoch:
            if self._epoch >= 0:
                self.engine.wait(0)
            self._epoch += 1
            for commitment in self.day.commitments_at(self._epoch):
                self.engine.commit(0, commitment.driver, commitment.booking)
        return self.engine


def moment_frames(
    comparison: DayComparison, book: DayBook, epochs: Sequence[int]
) -> Iterator[Image.Image]:
    """The two maps side by side after each of the epochs, which must increase."""
    a, b = Replay(book, comparison.a), Replay(book, comparison.b)
    for epoch in epochs:
        yield _side_by_side(comparison, epoch, a.decided(epoch), b.decided(epoch))


def write_moments(
    comparison: DayComparison, book: DayBook, epochs: Sequence[int], folder: Path
) -> list[Path]:
    """``moment_1.png`` and so on."""
    files = []
    for number, frame in enumerate(moment_frames(comparison, book, epochs), 1):
        path = folder / f"moment_{number}.png"
        temporary = path.with_name(path.name + ".partial")
        frame.save(temporary, format="PNG", optimize=True)
        temporary.replace(path)
        files.append(path)
    return files


def caption(comparison: DayComparison, epoch: int) -> tuple[str, str]:
    """What differs after an epoch, in two lines."""
    drivers, bookings = comparison.apart(epoch)
    if not drivers and not bookings:
        return "Both worlds are the same so far.", ""
    a, b = (day.epochs[epoch].still_open for day in (comparison.a, comparison.b))
    names = comparison.a.policy, comparison.b.policy
    everybody = len(comparison.a.epochs[epoch].queues)
    if len(drivers) == everybody > 1:
        one = f"All {everybody} drivers have other jobs under the two policies."
    else:
        one = f"With other jobs under the two policies: {_listed('driver', drivers)}."
    two = " · ".join(
        f"open under {name} alone: {_listed('booking', sorted(rows))}"
        for name, rows in zip(names, (a - b, b - a), strict=True)
        if rows
    )
    return one, two[:1].upper() + two[1:] + ("." if two else "")


def _listed(what: str, numbers: Sequence[int]) -> str:
    if not numbers:
        return f"no {what}"
    if len(numbers) == 1:
        return f"{what} {numbers[0]}"
    shown = ", ".join(str(n) for n in numbers[:_NAMED])
    more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
    return f"{what}s {shown}{more}"


def _side_by_side(comparison: DayComparison, epoch: int, a: Engine, b: Engine) -> Image.Image:
    width, height = FRAME_SIZE
    canvas = Canvas.blank((2 * width + _GAP, _HEAD + height + _FOOT), PAPER)
    _, differing = comparison.apart(epoch)
    for left, day, other, colour in (
        (0, comparison.a, comparison.b, _A_COLOUR),
        (width + _GAP, comparison.b, comparison.a, _B_COLOUR),
    ):
        _draw_name(canvas, left, width, day, other, colour, epoch)
    one, two = caption(comparison, epoch)
    top = _HEAD + height
    canvas.rectangle(0, top, 2 * width + _GAP, _FOOT, PANEL)
    canvas.line((0, top), (2 * width + _GAP, top), LINE, 1)
    canvas.text((16, top + 25), one, 13, INK, bold=True)
    ringed = "  (ringed on the map)" if differing else ""
    canvas.text((16, top + 48), two + ringed, 13, GREY)
    canvas.rectangle(width, 0, _GAP, top, LINE)
    picture = canvas.reduced()
    for left, engine in ((0, a), (width + _GAP, b)):
        frame = render_rgb(engine, 0, ringed=differing)
        picture.paste(Image.fromarray(frame), (left, _HEAD))
    return picture


def _draw_name(
    canvas: Canvas, left: float, width: float, day: PlayedDay, other: PlayedDay,
    colour: Colour, epoch: int,
) -> None:  # fmt: skip
    now = day.epochs[epoch].now_min
    ahead = reward_at(day, now) - reward_at(other, now)
    canvas.rectangle(left, 0, width, _HEAD, colour)
    ink = WHITE if colour == _A_COLOUR else INK
    canvas.text((left + 16, 30), day.policy, 20, ink, bold=True)
    words = f"reward so far {reward_at(day, now):.1f}"
    if abs(ahead) >= 0.05:
        words += f", {abs(ahead):.1f} {'ahead' if ahead > 0 else 'behind'}"
    canvas.text((left + width - 16, 29), words, 14, ink, anchor="rs")


def reward_at(day: PlayedDay, minute: float) -> float:
    """Reward booked up to and including a moment."""
    last = int(np.searchsorted(day.curve[:, 0], minute + 1e-9, side="right")) - 1
    return float(day.curve[max(0, last), 1])


# --- the film -------------------------------------------------------------------------------------


def write_film(
    comparison: DayComparison,
    book: DayBook,
    path: Path,
    tick: Callable[[], None] | None = None,
) -> int:
    """A GIF of every epoch, or of every n-th where it would be too large; returns n.

    The file stays below `FILM_MAX_BYTES` unless even eight frames exceed it.
    """
    frames: list[Image.Image] = []
    palette = _film_palette()
    for frame in moment_frames(comparison, book, range(len(comparison.a.epochs))):
        small = frame.resize(
            (_FILM_WIDTH, round(frame.height * _FILM_WIDTH / frame.width)), Image.Resampling.LANCZOS
        )
        frames.append(small.quantize(palette=palette, dither=Image.Dither.NONE))
        if tick:
            tick()
    step = 1
    while True:
        film = _encoded(frames[::-1][::step][::-1])
        if len(film) <= FILM_MAX_BYTES or len(frames) // step <= 8:
            break
        step += 1
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(film)
    temporary.replace(path)
    return step


def _film_palette() -> Image.Image:
    """The maps' colours and their blends with the ground: few, the same in every frame."""
    strong = (INK, GREY, GREEN, AMBER, RED, BLUE_INK, SKY, PURPLE)
    colours = [PAPER, LAND, PANEL, LINE, PALE, FAINT, *strong]
    for ground in (LAND, AMBER, BLUE_INK):
        for colour in strong if ground is LAND else (INK, WHITE):
            for share in (0.25, 0.5, 0.75) if ground is LAND else (0.35, 0.7):
                red, green, blue = (
                    round(share * c + (1 - share) * g) for c, g in zip(colour, ground, strict=True)
                )
                colours.append((red, green, blue))
    palette = Image.new("P", (1, 1))
    palette.putpalette([level for colour in colours for level in colour])
    return palette


def _encoded(frames: Sequence[Image.Image]) -> bytes:
    buffer = io.BytesIO()
    frames[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=frames[1:],
        duration=[_FRAME_MS] * (len(frames) - 1) + [_LAST_FRAME_MS],
        loop=0,
        optimize=False,
    )
    return buffer.getvalue()


# --- the chart ------------------------------------------------------------------------------------


def write_chart(comparison: DayComparison, epochs: Sequence[int], path: Path) -> Path:
    """Reward so far of both, and their difference, over the day."""
    a, b = comparison.a, comparison.b
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    end = max(float(a.curve[-1, 0]), float(b.curve[-1, 0]))
    ahead = a if a.curve[-1, 1] > b.curve[-1, 1] else b
    for day, colour in ((a, BLUE), (b, ORANGE)):
        last = float(day.curve[-1, 1])
        times, rewards = np.append(day.curve[:, 0], end), np.append(day.curve[:, 1], last)
        upper.step(times, rewards, where="post", color=colour, linewidth=1.7)
        upper.annotate(
            f"{day.policy} {last:.1f}", (end, last),
            xytext=(6, 6 if day is ahead else -6),
            textcoords="offset points", va="center", color=colour, fontsize=9, fontweight="bold",
        )  # fmt: skip
    _mark_moments(comparison, epochs, (upper, lower))
    times, lead = _lead(comparison)
    times, lead = np.append(times, end), np.append(lead, lead[-1])
    # Clipped, not masked: between two events a mask leaves holes where the lead changes hands.
    for part, colour in ((np.maximum(lead, 0), ORANGE), (np.minimum(lead, 0), BLUE)):
        lower.fill_between(times, part, 0, step="post", color=colour, alpha=0.45, linewidth=0)
    lower.step(times, lead, where="post", color="black", linewidth=1)
    lower.axhline(0, color="black", linewidth=0.6)
    for axis in (upper, lower):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9)
    upper.set_ylabel("reward so far", fontsize=9)
    lower.set_ylabel(f"{b.policy} minus {a.policy}", fontsize=9)
    ticks = np.linspace(0, comparison.scenario.rules.horizon_min, 9)
    lower.set_xticks(ticks, [comparison.clock(t) for t in ticks])
    lower.set_xlim(0, 1.005 * end)  # the last event stays within
    figure.suptitle(
        f"Reward over the day — {comparison.scenario.name}, {comparison.day}", fontsize=11
    )
    return save_figure(figure, path)


def _mark_moments(comparison: DayComparison, epochs: Sequence[int], axes: Sequence[Any]) -> None:
    """Dotted lines at the pictured moments, named above the upper axis."""
    for number, epoch in enumerate(epochs, 1):
        now = comparison.a.epochs[epoch].now_min
        for axis in axes:
            axis.axvline(now, color=MARK, linestyle=":", linewidth=1, zorder=0)
        what = "they part" if epoch == comparison.first else f"moment {number}"
        axes[0].text(
            now, 1.01, what, color=MARK, ha="center", va="bottom", fontsize=8,
            transform=axes[0].get_xaxis_transform(),
        )  # fmt: skip


def _lead(comparison: DayComparison) -> tuple[FloatArray, FloatArray]:
    """Times at which either reward changes, and the second's lead from then on."""
    a, b = comparison.a, comparison.b
    times = np.unique(np.concatenate([a.curve[:, 0], b.curve[:, 0]]))
    lead = np.array([reward_at(b, t) - reward_at(a, t) for t in times.tolist()])
    return times, lead
