"""The ground under a map frame: projection, colours, fonts, and the base map with its names.

Drawn at twice the size and reduced, since Pillow's lines have no antialiasing of their own.
Colours are those of Okabe and Ito (2008), told apart by colour-blind eyes too.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .scenarios import Site
from .types import FloatArray

SCALE = 2  # drawn so many times larger than shown

GREEN, AMBER, RED = (0, 158, 115), (230, 159, 0), (213, 94, 0)
BLUE, SKY, PURPLE = (0, 114, 178), (86, 180, 233), (160, 70, 130)
INK, GREY, FAINT = (34, 38, 44), (96, 102, 110), (146, 150, 156)
PALE, LINE = (176, 180, 186), (221, 222, 219)
PAPER, LAND, PANEL, WHITE = (255, 255, 255), (245, 244, 239), (250, 250, 248), (255, 255, 255)

Colour = tuple[int, int, int]
Pixel = tuple[float, float]  # on the shown frame: x to the right, y down

_KM_PER_DEGREE = 111.195
_MARGIN = 34.0  # pixels between the outermost place and the map's edge
_LABELLED = {"hospital": 0, "clinic": 2, "care_home": 3, "residential": 1, "zone": 1}


@lru_cache(maxsize=32)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib carries: it has accents and arrows."""
    from matplotlib import get_data_path  # here, since importing it takes a tenth of a second

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / name), size * SCALE)


class Canvas:
    """A picture drawn in pixels of the shown frame."""

    def __init__(self, image: Image.Image) -> None:
        self.image = image
        self._draw = ImageDraw.Draw(image)

    @classmethod
    def blank(cls, size: tuple[int, int], colour: Colour) -> "Canvas":
        """An empty canvas of ``(width, height)`` shown pixels."""
        return cls(Image.new("RGB", (size[0] * SCALE, size[1] * SCALE), colour))

    def rectangle(
        self, x: float, y: float, width: float, height: float, fill: Colour, radius: float = 0
    ) -> None:
        """Fill a rectangle given by its upper left corner."""
        box = [x * SCALE, y * SCALE, (x + width) * SCALE - 1, (y + height) * SCALE - 1]
        self._draw.rounded_rectangle(box, radius * SCALE, fill=fill)

    def line(self, a: Pixel, b: Pixel, colour: Colour, width: float, dash: float = 0) -> None:
        """A line, dashed where ``dash`` (its length in pixels) is given."""
        length = math.dist(a, b)
        if length < 0.5:
            return
        pieces = max(1, math.ceil(length / (2 * dash))) if dash else 1
        for i in range(pieces):
            begin = 2 * dash * i / length if dash else 0.0
            end = min(1.0, begin + dash / length) if dash else 1.0
            points = [
                ((a[0] + t * (b[0] - a[0])) * SCALE, (a[1] + t * (b[1] - a[1])) * SCALE)
                for t in (begin, end)
            ]
            self._draw.line(points, fill=colour, width=max(1, round(width * SCALE)))

    def disc(self, at: Pixel, radius: float, fill: Colour, edge: Colour, width: float = 1) -> None:
        """A circle with an outline."""
        x, y, r = at[0] * SCALE, at[1] * SCALE, radius * SCALE
        self._draw.ellipse(
            [x - r, y - r, x + r, y + r],
            fill=fill,
            outline=edge,
            width=max(1, round(width * SCALE)),
        )

    def polygon(self, points: list[Pixel], fill: Colour, edge: Colour) -> None:
        """A polygon with a thin outline."""
        self._draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill=fill, outline=edge)

    def text(
        self,
        at: Pixel,
        words: str,
        size: int = 12,
        colour: Colour = INK,
        *,
        bold: bool = False,
        anchor: str = "ls",
    ) -> None:
        """Words at a point; ``anchor`` as in Pillow (``ls``: left end of the baseline)."""
        self._draw.text(
            (at[0] * SCALE, at[1] * SCALE), words, fill=colour, font=font(size, bold), anchor=anchor
        )

    def width_of(self, words: str, size: int = 12, *, bold: bool = False) -> float:
        """Pixels that words take."""
        return font(size, bold).getlength(words) / SCALE

    def reduced(self) -> Image.Image:
        """The picture at its shown size."""
        return self.image.reduce(SCALE)


@dataclass(frozen=True)
class Projection:
    """Equirectangular about the middle of what is shown: true enough for a city or a canton."""

    north: float  # degrees
    south: float
    east: float
    west: float

    @classmethod
    def around(cls, points: FloatArray) -> "Projection":
        """The box of ``(n, 2)`` degrees, at least two kilometres wide and high."""
        south, west = points.min(axis=0)
        north, east = points.max(axis=0)
        least = 1.0 / _KM_PER_DEGREE
        middle = float(south + north) / 2
        shrink = math.cos(math.radians(middle))
        extra_lat = max(0.0, least - float(north - south) / 2)
        extra_lon = max(0.0, least / shrink - float(east - west) / 2)
        return cls(
            float(north) + extra_lat,
            float(south) - extra_lat,
            float(east) + extra_lon,
            float(west) - extra_lon,
        )

    def pixels_per_km(self, width: float, height: float) -> float:
        """Scale at which everything fits into a map of so many pixels, margins left."""
        return min((width - 2 * _MARGIN) / self._km_wide, (height - 2 * _MARGIN) / self._km_high)

    @property
    def _shrink(self) -> float:
        return math.cos(math.radians((self.north + self.south) / 2))

    @property
    def _km_wide(self) -> float:
        return (self.east - self.west) * self._shrink * _KM_PER_DEGREE

    @property
    def _km_high(self) -> float:
        return (self.north - self.south) * _KM_PER_DEGREE

    def to_pixel(
        self, place: tuple[float, float], width: float, height: float, x0: float, y0: float
    ) -> Pixel:
        """Where a place lies on a map of ``width`` x ``height`` pixels at ``(x0, y0)``."""
        scale = self.pixels_per_km(width, height)
        east_km = (place[1] - (self.east + self.west) / 2) * self._shrink * _KM_PER_DEGREE
        north_km = (place[0] - (self.north + self.south) / 2) * _KM_PER_DEGREE
        return x0 + width / 2 + scale * east_km, y0 + height / 2 - scale * north_km


@dataclass(frozen=True)
class Chart:
    """What a base map shows."""

    base: tuple[float, float]
    sites: tuple[Site, ...]
    projection: Projection
    to_scale: bool  # False: zones stand where there was room for them


def draw_base_map(
    canvas: Canvas, chart: Chart, x0: float, y0: float, width: float, height: float
) -> None:
    """Land, sites with as many names as fit without overlap, the base, and a scale bar."""
    canvas.rectangle(x0, y0, width, height, LAND)
    project = chart.projection
    at = {site.name: project.to_pixel((site.lat, site.lon), width, height, x0, y0)
          for site in chart.sites}  # fmt: skip
    base = project.to_pixel(chart.base, width, height, x0, y0)
    taken = [(x - 5.0, y - 5.0, x + 5.0, y + 5.0) for x, y in (*at.values(), base)]
    for site in chart.sites:
        _draw_site(canvas, at[site.name], site.kind)
    draw_base(canvas, base)
    for site in sorted(chart.sites, key=lambda s: (_LABELLED[s.kind], -s.weight)):
        if site.kind in ("hospital", "residential", "zone"):
            _place_name(canvas, at[site.name], site, taken, (x0, y0, x0 + width, y0 + height))
    if chart.to_scale:
        _draw_scale_bar(canvas, project.pixels_per_km(width, height), x0 + 14, y0 + height - 14)


def draw_base(canvas: Canvas, at: Pixel) -> None:
    """The depot: a house."""
    x, y = at
    roof = [(x - 7, y - 1), (x, y - 8), (x + 7, y - 1)]
    canvas.polygon(roof, INK, WHITE)
    canvas.rectangle(x - 5, y - 1, 10, 7, INK)


def _draw_site(canvas: Canvas, at: Pixel, kind: str) -> None:
    x, y = at
    if kind == "hospital":
        canvas.rectangle(x - 4, y - 1.5, 8, 3, GREY)
        canvas.rectangle(x - 1.5, y - 4, 3, 8, GREY)
    elif kind == "residential":
        canvas.disc(at, 1.5, PALE, PALE)
    else:
        canvas.rectangle(x - 2, y - 2, 4, 4, PALE)


_Box = tuple[float, float, float, float]


def _place_name(canvas: Canvas, at: Pixel, site: Site, taken: list[_Box], edge: _Box) -> None:
    """Write a site's name beside it if there is room, and note the room it takes."""
    size = 10
    width, (x, y) = canvas.width_of(site.name, size), at
    for left, baseline in (
        (x + 12, y + 4), (x - 12 - width, y + 4), (x - width / 2, y - 12), (x - width / 2, y + 20),
    ):  # fmt: skip
        box = (left - 2, baseline - 10, left + width + 2, baseline + 3)
        inside = box[0] > edge[0] and box[2] < edge[2] and box[1] > edge[1] and box[3] < edge[3]
        if inside and not any(_overlap(box, other) for other in taken):
            colour = GREY if site.kind == "hospital" else FAINT
            canvas.text((left, baseline), site.name, size, colour)
            taken.append(box)
            return


def _overlap(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _draw_scale_bar(canvas: Canvas, pixels_per_km: float, x: float, y: float) -> None:
    km = max(
        k for k in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if k * pixels_per_km <= 110 or k == 0.1
    )
    end = x + km * pixels_per_km
    canvas.line((x, y), (end, y), GREY, 2)
    for tick in (x, end):
        canvas.line((tick, y - 4), (tick, y + 1), GREY, 2)
    canvas.text(((x + end) / 2, y - 6), f"{km:g} km", 10, GREY, anchor="ms")


def as_frame(image: Image.Image) -> np.ndarray:
    """``(height, width, 3)`` uint8."""
    return np.asarray(image, dtype=np.uint8).copy()
