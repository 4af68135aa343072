"""Backgrounds of the Shapes benchmark: sky, hills, ground, and bands of rails or water."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from wsss_fast.data.shapes.draw import CONTEXTS, SUPERSAMPLE, noise

GROUNDS = {"grass": (92, 122, 66), "road": (112, 110, 112), "sand": (178, 152, 108)}


class Ground:
    """The background of a picture, drawn on a finer canvas and reduced, as the figures are.

    Args:
        rng: source of the random numbers.
        size: side of the picture in pixels.
        horizon: height of the horizon from the top, as a fraction of the side.
    """

    def __init__(self, rng: np.random.Generator, size: int, horizon: float) -> None:
        self.rng, self.size, self.side = rng, size, size * SUPERSAMPLE
        self.colour = Image.new("RGB", (self.side, self.side))
        self.context = Image.new("L", (self.side, self.side))
        self._ink, self._label = ImageDraw.Draw(self.colour), ImageDraw.Draw(self.context)
        self.horizon = horizon * self.side

    def _ragged(self, y: float, wobble: float, points: int) -> list[tuple[float, float]]:
        """A ragged line from left to right at about the height `y` (pixels of the canvas)."""
        xs = np.linspace(-0.05, 1.05, points) * self.side
        ys = y + wobble * self.side * np.convolve(
            self.rng.standard_normal(points + 2), [0.3, 0.5, 0.3], "valid"
        )
        return [(float(a), float(b)) for a, b in zip(xs, ys, strict=True)]

    def _polygon(
        self,
        points: Sequence[tuple[float, float]],
        colour: np.ndarray | tuple[int, ...],
        context: int | None,
    ) -> None:
        """Fill a polygon with an RGB colour; `context` is its label, None keeps what is below."""
        self._ink.polygon(points, fill=tuple(int(min(255, max(0, c))) for c in colour))
        if context is not None:
            self._label.polygon(points, fill=context)

    def backdrop(self, kind: str) -> None:
        """Draw sky, hills, houses, trees and a ground of this kind (a key of `GROUNDS`)."""
        rng, side = self.rng, self.side
        top = np.array((150, 178, 204)) + rng.uniform(-22, 22) + rng.uniform(-9, 9, 3)
        for i in range(8):  # sky, paler towards the horizon
            y = self.horizon * i / 8
            self._polygon([(0, y), (side, y), (side, side), (0, side)], top + 9.0 * i, 0)
        for _ in range(int(rng.integers(1, 3))):
            height = self.horizon - side * rng.uniform(0.03, 0.14)
            line = self._ragged(height, 0.05, int(rng.integers(5, 12)))
            hill = np.array((104, 122, 112)) * rng.uniform(0.75, 1.2) + rng.uniform(-14, 14, 3)
            self._polygon([*line, (side, side), (0, side)], hill, 0)
        for _ in range(int(rng.integers(0, 5))):
            self._house_or_tree()
        ground = np.array(GROUNDS[kind]) * rng.uniform(0.85, 1.15) + rng.uniform(-7, 7, 3)
        label = CONTEXTS.index(kind) + 1 if kind in CONTEXTS else 0
        line = self._ragged(self.horizon, 0.008, 14)
        self._polygon([*line, (side * 1.1, side * 1.1), (-side * 0.1, side * 1.1)], ground, label)
        for _ in range(int(rng.integers(3, 8))):  # patches: colour edges that belong to no object
            x, y = rng.uniform(0, side), rng.uniform(self.horizon + 0.05 * side, side)
            spread = rng.uniform(0.03, 0.12) * side
            angles = np.linspace(0, 2 * np.pi, 9, endpoint=False)
            reach = spread * rng.uniform(0.6, 1.3, 9)
            blob = np.stack([x + 1.6 * reach * np.cos(angles), y + 0.5 * reach * np.sin(angles)], 1)
            points = [(float(a), float(b)) for a, b in blob]
            self._polygon(points, ground * rng.uniform(0.75, 1.25), None)

    def _house_or_tree(self) -> None:
        rng, side = self.rng, self.side
        x, foot = rng.uniform(0, side), self.horizon + 0.02 * side
        tall, wide = rng.uniform(0.08, 0.22) * side, rng.uniform(0.05, 0.11) * side
        if rng.random() < 0.5:
            wall = np.array((166, 146, 130)) * rng.uniform(0.7, 1.2) + rng.uniform(-16, 16, 3)
            top = foot - tall
            front = [(x - wide, foot), (x - wide, top), (x + wide, top), (x + wide, foot)]
            self._polygon(front, wall, 0)
            roof = [(x - 1.15 * wide, top), (x, foot - 1.35 * tall), (x + 1.15 * wide, top)]
            self._polygon(roof, wall * rng.uniform(0.55, 0.75), 0)
            return
        bark, leaf = np.array((88, 66, 48)), np.array((62, 96, 52)) * rng.uniform(0.75, 1.3)
        left, right = x - 0.1 * wide, x + 0.1 * wide
        trunk = [(left, foot), (left, foot - tall), (right, foot - tall), (right, foot)]
        self._polygon(trunk, bark, 0)
        for _ in range(6):
            cx, cy = x + rng.uniform(-0.6, 0.6) * wide, foot - tall + rng.uniform(-0.3, 0.3) * tall
            r = rng.uniform(0.35, 0.6) * wide
            green = tuple(int(c) for c in leaf * rng.uniform(0.85, 1.15))
            self._ink.ellipse((cx - r, cy - r, cx + r, cy + r), fill=green)

    def rails(self, baseline: float) -> None:
        """Draw ballast, sleepers and two rails, the nearer one at `baseline` (pixels)."""
        rng, side, y = self.rng, self.side, baseline * SUPERSAMPLE
        up, down = rng.uniform(0.07, 0.1) * side, rng.uniform(0.05, 0.09) * side
        upper, lower = self._ragged(y - up, 0.006, 20), self._ragged(y + down, 0.006, 20)
        gravel = np.array((132, 122, 114)) * rng.uniform(0.85, 1.12)
        self._polygon([*upper, *lower[::-1]], gravel, CONTEXTS.index("rails") + 1)
        step, x = 0.055 * side, -0.1 * side
        while x < 1.1 * side:
            foot = [
                (x, y + 0.75 * down),
                (x + 0.4 * step, y + 0.75 * down),
                (x + 0.9 * step, y - 0.7 * up),
            ]
            wood = np.array((74, 56, 44)) * rng.uniform(0.85, 1.2)
            self._polygon([*foot, (x + 0.5 * step, y - 0.7 * up)], wood, None)
            x += step
        for dy, thick in ((-0.45 * up, 0.010), (0.35 * down, 0.014)):
            rail_top, rail_foot = y + dy, y + dy + thick * side
            rail = [(0, rail_top), (side, rail_top), (side, rail_foot), (0, rail_foot)]
            self._polygon(rail, (196, 198, 204), None)

    def water(self, baseline: float) -> None:
        """Draw a band of water with waves around `baseline` (pixels)."""
        rng, side, y = self.rng, self.side, baseline * SUPERSAMPLE
        up, down = rng.uniform(0.1, 0.16) * side, rng.uniform(0.05, 0.2) * side
        upper, lower = self._ragged(y - up, 0.01, 12), self._ragged(y + down, 0.012, 12)
        blue = np.array((72, 122, 146)) * rng.uniform(0.85, 1.15) + rng.uniform(-10, 10, 3)
        self._polygon([*upper, *lower[::-1]], blue, CONTEXTS.index("water") + 1)
        for _ in range(26):
            x, top = rng.uniform(0, side), rng.uniform(y - 0.8 * up, y + 0.9 * down)
            reach, bright = rng.uniform(0.02, 0.07) * side, rng.uniform(0.8, 1.3)
            crest = [
                (x - reach, top),
                (x - 0.4 * reach, top - 0.006 * side),
                (x + reach, top),
                (x, top + 0.006 * side),
            ]
            self._polygon(crest, blue * bright, None)

    def finished(self) -> tuple[np.ndarray, np.ndarray]:
        """Colour, float32 [S, S, 3] with the ground's texture, and context ids, uint8 [S, S]."""
        half = SUPERSAMPLE // 2
        context = np.asarray(self.context)[half::SUPERSAMPLE, half::SUPERSAMPLE].copy()
        image = np.asarray(self.colour.reduce(SUPERSAMPLE), dtype=np.float32)
        rng, size = self.rng, self.size
        rough = np.array([5.0, 9.0, 6.0, 10.0, 6.0], dtype=np.float32)[context]
        fine, middle = noise(rng, size, size), noise(rng, size, size // 4)
        image = image + (rough * (0.6 * fine + 0.8 * middle))[..., None]
        return image + 7.0 * noise(rng, size, 6)[..., None], context
