"""Figures of the Shapes benchmark.

A figure is drawn with polygons on a canvas `SUPERSAMPLE` times finer than the image and reduced
afterwards: outlines are antialiased, and the label mask is a majority vote of the same canvas.
Figure
coordinates: x to the right, y down, in units of the object's radius; the body spans about x -1..1
and stands on y = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLE = 4
CONTEXTS = ("rails", "water", "grass", "road")  # ids 1..4 in context/<id>.png; 0 is anything else

Colour = tuple[float, float, float]
Points = Sequence[tuple[float, float]]


def ellipse(
    cx: float, cy: float, rx: float, ry: float, start: float = 0.0, end: float = 360.0
) -> np.ndarray:
    """Outline of an ellipse (or of its arc `start`..`end`, in degrees) as [N, 2] points."""
    t = np.radians(np.linspace(start, end, 28))
    return np.stack([cx + rx * np.cos(t), cy + ry * np.sin(t)], axis=1)


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Corners of an axis-aligned box as [4, 2] points."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def shade(colour: Colour, factor: float) -> Colour:
    """A colour (levels 0..255) times `factor`, clipped."""
    return tuple(min(255.0, max(0.0, c * factor)) for c in colour)  # type: ignore[return-value]


class Pen:
    """Draws in figure coordinates, on a fine colour canvas and on a fine coverage canvas at once.

    Args:
        size: side of the image in pixels.
        origin: position of the figure's (0, 0), in pixels.
        radius: pixels per unit of the figure coordinates.
        flip: whether to mirror the figure left to right.
        tilt: rotation in degrees.
    """

    def __init__(
        self, size: int, origin: tuple[float, float], radius: float, flip: bool, tilt: float
    ) -> None:
        reach = int(1.7 * radius) + 2  # no figure is larger, and a small canvas is much faster
        left, right = (min(size, max(0, int(origin[0]) + r)) for r in (-reach, reach))
        top, bottom = (min(size, max(0, int(origin[1]) + r)) for r in (-reach, reach // 2))
        self.window = slice(top, max(top + 1, bottom)), slice(left, max(left + 1, right))
        fine = (self.window[1].stop - left) * SUPERSAMPLE, (self.window[0].stop - top) * SUPERSAMPLE
        self.colour, self.cover = Image.new("RGB", fine), Image.new("L", fine)
        self._inks = ImageDraw.Draw(self.colour), ImageDraw.Draw(self.cover)
        c, s = np.cos(np.radians(tilt)), np.sin(np.radians(tilt))
        mirror = np.array([[-1.0 if flip else 1.0, 0.0], [0.0, 1.0]])
        self._matrix = np.array([[c, -s], [s, c]]) @ mirror * radius * SUPERSAMPLE
        self._origin = (np.asarray(origin) - (left, top)) * SUPERSAMPLE
        self._radius = radius * SUPERSAMPLE
        self._anchor, self._scale, self._fade = np.zeros(2), 1.0, 0.0

    def focus(self, anchor: tuple[float, float], scale: float, fade: float) -> None:
        """Scale all that is drawn from now on about `anchor`, and fade it by 0..1 towards gray."""
        self._anchor, self._scale, self._fade = np.asarray(anchor), scale, fade

    def _place(self, points: Points | np.ndarray) -> list[tuple[float, float]]:
        own = self._anchor + (np.asarray(points, dtype=np.float64) - self._anchor) * self._scale
        xy = own @ self._matrix.T + self._origin
        return [(round(float(x), 2), round(float(y), 2)) for x, y in xy]

    def _mix(self, colour: Colour) -> tuple[int, ...]:
        return tuple(int(c + self._fade * (110.0 - c)) for c in colour)

    def fill(self, points: Points | np.ndarray, colour: Colour) -> None:
        """Fill a polygon."""
        xy, rgb = self._place(points), self._mix(colour)
        self._inks[0].polygon(xy, fill=rgb)
        self._inks[1].polygon(xy, fill=255)

    def stroke(self, points: Points | np.ndarray, colour: Colour, width: float) -> None:
        """Draw an open line; `width` is in figure coordinates.

        It is at least 1.3 pixels of the image wide, since a thinner line would not appear in the
        mask.
        """
        xy, rgb = self._place(points), self._mix(colour)
        pixels = max(round(width * self._scale * self._radius), round(1.3 * SUPERSAMPLE))
        self._inks[0].line(xy, fill=rgb, width=pixels, joint="curve")
        self._inks[1].line(xy, fill=255, width=pixels, joint="curve")

    def reduced(self) -> tuple[np.ndarray, np.ndarray]:
        """Colour [h, w, 3] in 0..255, premultiplied by coverage, and coverage [h, w] in 0..1.

        Both cover only `window`, the part of the image that the figure may reach.
        """
        colour = np.asarray(self.colour.reduce(SUPERSAMPLE), dtype=np.float32)
        return colour, np.asarray(self.cover.reduce(SUPERSAMPLE), dtype=np.float32) / 255.0


# ---- bodies: one for each pair of look-alikes, the same for both classes -----------------------


def _carriage(pen: Pen, rng: np.random.Generator) -> None:
    paint = _jitter(rng, (148, 52, 48), 20)
    length, roof = 1.0, -0.84 + rng.uniform(-0.04, 0.04)
    for x in (-0.62, -0.34, 0.34, 0.62):
        pen.fill(ellipse(x, -0.09, 0.1, 0.1), (70, 52, 50))
    pen.stroke([(-length - 0.1, -0.2), (length + 0.1, -0.2)], (70, 52, 50), 0.05)
    outline = [
        (-length, -0.15),
        (-length, roof + 0.12),
        (-length + 0.1, roof),
        (length - 0.16, roof),
    ]
    pen.fill([*outline, (length, roof + 0.3), (length, -0.15)], paint)
    pen.fill(box(-length + 0.06, roof - 0.05, length - 0.2, roof + 0.02), shade(paint, 0.72))
    pen.fill(box(-length, -0.38, length, -0.29), shade(paint, 1.32))
    for x in np.linspace(-0.84, 0.52, 5):
        pen.fill(box(x, roof + 0.14, x + 0.2, roof + 0.34), shade(paint, 0.7))
    for x in rng.uniform(-0.8, 0.6, 2):  # vents break the straight roof line
        pen.fill(box(x, roof - 0.11, x + 0.14, roof), shade(paint, 0.8))


def _hull(pen: Pen, rng: np.random.Generator) -> None:
    wood = _jitter(rng, (146, 98, 54), 18)
    sheer = rng.uniform(0.0, 0.08)
    keel = [
        (-0.98, -0.45 - sheer),
        (-0.5, -0.38),
        (0.5, -0.38),
        (1.06, -0.55 - sheer),
        (0.76, 0.06),
        (-0.8, 0.06),
    ]
    pen.fill(keel, wood)
    for y in (-0.26, -0.14, -0.02):
        pen.stroke([(-0.86, y), (0.88, y)], shade(wood, 0.82), 0.02)
    pen.fill([(-0.62, -0.38), (-0.56, -0.72), (0.34, -0.72), (0.46, -0.38)], shade(wood, 1.28))
    for x in (-0.44, -0.16, 0.12):
        pen.fill(box(x, -0.63, x + 0.16, -0.49), shade(wood, 0.86))
    pen.stroke([(-0.98, -0.46 - sheer), (-0.98, -0.68)], shade(wood, 0.7), 0.03)
    railing = [(0.94, -0.52), (0.94, -0.76), (0.5, -0.7)]
    pen.stroke(railing, shade(wood, 0.7), 0.03)


def _fleece(pen: Pen, rng: np.random.Generator) -> None:
    wool = _jitter(rng, (204, 190, 158), 14)
    for x in (-0.55, -0.36, 0.3, 0.48):
        step = rng.uniform(-0.08, 0.08)
        pen.stroke([(x, -0.35), (x + step, 0.0)], shade(wool, 0.55), 0.07)
    angles = np.linspace(0, 2 * np.pi, 13, endpoint=False) + rng.uniform(0, 0.5)
    for a in angles:  # tufts give an outline that no smooth blob fits
        tuft = rng.uniform(0.14, 0.23)
        x, y = -0.08 + 0.66 * np.cos(a), -0.56 + 0.3 * np.sin(a)
        pen.fill(ellipse(x, y, tuft, tuft), shade(wool, rng.uniform(0.9, 1)))
    pen.fill(ellipse(-0.08, -0.56, 0.72, 0.36), wool)
    for _ in range(9):
        x, y = rng.uniform(-0.6, 0.45), rng.uniform(-0.78, -0.36)
        pen.stroke(ellipse(x, y, 0.09, 0.07, 180, 360), shade(wool, 0.86), 0.03)
    pen.stroke([(-0.78, -0.62), (-0.98, -0.5)], shade(wool, 0.85), 0.09)


def _sedan(pen: Pen, rng: np.random.Generator) -> None:
    paint = _jitter(rng, (74, 104, 140), 18)
    belt = -0.5 + rng.uniform(-0.03, 0.03)
    pen.fill([(-0.6, belt), (-0.4, -0.88), (0.22, -0.88), (0.52, belt)], shade(paint, 0.8))
    pen.fill([(-0.44, belt), (-0.32, -0.79), (-0.1, -0.79), (-0.1, belt)], shade(paint, 1.3))
    pen.fill([(-0.02, belt), (-0.02, -0.79), (0.18, -0.79), (0.38, belt)], shade(paint, 1.3))
    low = [(1.0, -0.16), (0.98, -0.4), (0.56, belt), (-0.66, belt), (-0.98, -0.46), (-1.02, -0.16)]
    pen.fill(low, paint)
    pen.stroke([(-0.98, -0.3), (0.98, -0.3)], shade(paint, 0.82), 0.025)
    pen.stroke([(-0.06, belt), (-0.06, -0.18)], shade(paint, 0.75), 0.02)
    for x in (-0.56, 0.56):
        pen.fill(ellipse(x, -0.17, 0.21, 0.19), shade(paint, 0.42))
        pen.fill(ellipse(x, -0.17, 0.1, 0.09), shade(paint, 0.9))
    pen.stroke([(-0.5, -0.7), (-0.62, -1.02)], shade(paint, 0.6), 0.02)  # aerial
    pen.stroke([(0.4, belt - 0.02), (0.5, belt - 0.1)], shade(paint, 0.7), 0.06)


# ---- parts: all that distinguishes a class from its look-alike; about 0.3 of the radius --------


def _nose(pen: Pen) -> None:
    """Train: yellow warning panel with black chevrons and a lamp, at the front."""
    pen.fill(
        [(0.66, -0.15), (0.66, -0.7), (0.86, -0.7), (1.02, -0.52), (1.04, -0.15)], (240, 204, 30)
    )
    for y in (-0.6, -0.42, -0.24):
        pen.stroke([(0.68, y), (0.85, y + 0.1), (1.0, y)], (26, 24, 24), 0.07)
    pen.fill(ellipse(0.99, -0.22, 0.08, 0.08), (255, 250, 220))


def _pantograph(pen: Pen) -> None:
    """Tram: a green line-number board and the pantograph above it."""
    pen.fill(box(0.18, -1.02, 0.74, -0.72), (20, 60, 40))
    pen.fill(box(0.23, -0.97, 0.69, -0.78), (60, 220, 120))
    pen.stroke([(0.32, -1.0), (0.6, -1.18), (0.36, -1.36)], (40, 44, 48), 0.045)
    pen.stroke([(0.16, -1.36), (0.62, -1.36)], (40, 44, 48), 0.05)


def _pennant(pen: Pen) -> None:
    """Boat: mast with a red and white pennant."""
    pen.stroke([(-0.06, -0.72), (-0.06, -1.42)], (92, 66, 48), 0.05)
    pen.fill([(-0.04, -1.42), (0.54, -1.2), (-0.04, -0.92)], (224, 40, 40))
    pen.fill([(-0.04, -1.28), (0.3, -1.19), (-0.04, -1.08)], (250, 246, 240))


def _funnel(pen: Pen) -> None:
    """Ferry: a stout funnel, black top over blue and white bands."""
    lean = np.array([(-0.3, -0.7), (-0.34, -1.2), (0.06, -1.2), (0.12, -0.7)])
    pen.fill(lean, (36, 84, 190))
    pen.fill([(-0.32, -1.0), (-0.33, -0.88), (0.09, -0.88), (0.08, -1.0)], (248, 248, 248))
    pen.fill([(-0.34, -1.22), (-0.335, -1.08), (0.07, -1.08), (0.06, -1.22)], (22, 22, 26))


def _black_face(pen: Pen) -> None:
    """Sheep: black face with drooping ears and white eyes."""
    pen.fill(ellipse(0.76, -0.66, 0.19, 0.28), (34, 30, 32))
    pen.stroke([(0.62, -0.82), (0.44, -0.7)], (34, 30, 32), 0.1)
    pen.stroke([(0.9, -0.82), (1.05, -0.68)], (34, 30, 32), 0.1)
    for x in (0.7, 0.85):
        pen.fill(ellipse(x, -0.74, 0.05, 0.05), (250, 250, 245))


def _horned_face(pen: Pen) -> None:
    """Goat: rust-brown face with two curved horns and a beard."""
    pen.fill(
        [(0.58, -0.86), (0.92, -0.86), (0.98, -0.5), (0.84, -0.38), (0.7, -0.44)], (176, 84, 34)
    )
    pen.fill([(0.76, -0.42), (0.9, -0.42), (0.82, -0.2)], (96, 46, 24))
    for x, bend in ((0.66, -0.2), (0.84, 0.2)):
        pen.stroke([(x, -0.84), (x + bend * 0.4, -1.1), (x + bend, -1.2)], (66, 56, 52), 0.08)
    pen.fill(ellipse(0.8, -0.72, 0.045, 0.045), (20, 16, 16))


def _roof_sign(pen: Pen) -> None:
    """Taxi: a yellow and black chequered sign on the roof."""
    pen.fill(box(-0.36, -1.14, 0.2, -0.86), (248, 206, 24))
    for i in range(4):
        x, y = -0.36 + 0.14 * i, -1.14 + 0.14 * (i % 2)
        pen.fill(box(x, y, x + 0.14, y + 0.14), (24, 22, 20))


def _light_bar(pen: Pen) -> None:
    """Police: a light bar, half blue, half red, with a white lamp between."""
    pen.fill(box(-0.4, -1.1, -0.1, -0.86), (40, 70, 250))
    pen.fill(box(-0.1, -1.1, 0.24, -0.86), (240, 30, 50))
    pen.fill(box(-0.14, -1.12, -0.02, -0.86), (252, 252, 252))


@dataclass(frozen=True)
class Figure:
    """A class of the benchmark: a body shared with its look-alike, and a part of its own.

    Attributes:
        name: name of the class.
        pair: number of the pair of look-alikes.
        body: function that draws the body.
        part: function that draws the discriminative part.
        anchor: position of the part on the body.
        home: the context that the class usually stands on.
        at_home: probability that the object is drawn in that context, 0..1.
    """

    name: str
    pair: int
    body: Callable[[Pen, np.random.Generator], None]
    part: Callable[[Pen], None]
    anchor: tuple[float, float]
    home: str
    at_home: float


FIGURES = (
    Figure("train", 0, _carriage, _nose, (1.0, -0.4), "rails", 0.92),
    Figure("tram", 0, _carriage, _pantograph, (0.4, -0.84), "rails", 0.45),
    Figure("boat", 1, _hull, _pennant, (-0.06, -0.72), "water", 0.92),
    Figure("ferry", 1, _hull, _funnel, (-0.1, -0.7), "water", 0.45),
    Figure("sheep", 2, _fleece, _black_face, (0.66, -0.62), "grass", 0.6),
    Figure("goat", 2, _fleece, _horned_face, (0.66, -0.62), "grass", 0.6),
    Figure("taxi", 3, _sedan, _roof_sign, (-0.08, -0.87), "road", 0.6),
    Figure("police", 3, _sedan, _light_bar, (-0.08, -0.87), "road", 0.6),
)


def draw_distractor(pen: Pen, rng: np.random.Generator) -> None:
    """A conspicuous object that is not of any class: a beach ball, a parasol or a tent."""
    hues = [
        (236, 196, 44),
        (222, 66, 58),
        (60, 132, 206),
        (238, 238, 232),
        (84, 170, 92),
        (160, 84, 176),
    ]
    first, second = (hues[i] for i in rng.choice(len(hues), 2, replace=False))
    kind = rng.integers(3)
    if kind == 0:
        pen.fill(ellipse(0, -0.6, 0.6, 0.6), first)
        for a in (0, 120, 240):
            pen.fill([(0, -0.6), *ellipse(0, -0.6, 0.6, 0.6, a, a + 60)], second)
    elif kind == 1:
        pen.stroke([(0, 0), (0, -1.2)], (92, 80, 70), 0.06)
        for i in range(6):
            arc = ellipse(0, -0.9, 0.8, 0.5, 180 + 30 * i, 210 + 30 * i)
            pen.fill([(0, -0.9), *arc], first if i % 2 else second)
    else:
        pen.fill([(-0.8, 0), (-0.1, -1.0), (0.75, 0)], first)
        pen.fill([(-0.16, 0), (-0.1, -1.0), (0.24, 0)], second)


# ---- textures and colours ----------------------------------------------------------------------


def noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth noise [size, size] of unit standard deviation and a grain of `size / cells` pixels."""
    coarse = Image.fromarray(rng.standard_normal((cells, cells)).astype(np.float32))
    field = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    return field / (field.std() + 1e-6)


def _jitter(rng: np.random.Generator, colour: Colour, spread: float) -> Colour:
    """A similar colour: brightness and each channel vary, the hue roughly stays."""
    moved = np.asarray(colour) * rng.uniform(0.88, 1.12) + rng.uniform(-spread, spread, 3)
    return tuple(float(c) for c in np.clip(moved, 0, 255))  # type: ignore[return-value]
