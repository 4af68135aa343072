"""One picture of the Shapes benchmark: what stands where, on which ground, and what a saliency detector would say."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from wsss_fast.data.shapes.draw import (
    CONTEXTS,
    FIGURES,
    SUPERSAMPLE,
    Figure,
    Pen,
    draw_distractor,
    noise,
)
from wsss_fast.errors import InputError

IGNORE = 255
SLIVER = 0.2  # an object of which less than this share is in sight is not tagged
GROUNDS = {"grass": (92, 122, 66), "road": (112, 110, 112), "sand": (178, 152, 108)}


@dataclass(frozen=True)
class SceneOptions:
    """How hard the pictures are. Lengths are fractions of the image side, the rest probabilities or levels 0..255."""

    radius_alone: tuple[float, float] = (0.23, 0.33)  # half the length of an object that is alone
    centre_alone: tuple[float, float] = (0.3, 0.7)  # from left to right
    radius_group: tuple[float, float] = (0.15, 0.23)
    radius_small: tuple[float, float] = (0.085, 0.11)  # of non-salient objects in the background
    counts: tuple[float, float, float] = (0.45, 0.37, 0.18)  # of 1, 2 and 3 objects
    pair_together: float = 0.32  # of the images with 2 or 3 objects: both look-alikes
    small_object: float = 0.08
    context_alone: float = 0.10
    truncated: float = 0.18
    part: tuple[float, float] = (
        0.7,
        0.95,
    )  # size of the discriminative part, relative to its drawing
    part_fade: float = 0.45  # the part's colours fade by up to this share towards gray
    light: float = 0.25  # brightness and contrast of a picture vary by up to this share
    grain: float = 7.0  # standard deviation of the pixel noise, levels
    texture: float = 9.0  # of the body texture
    distractor: float = 0.38
    saliency_found: float = 0.79  # a salient object is found by the saliency detector
    saliency_blur: float = 0.026

    def __post_init__(self) -> None:
        if len(self.counts) != 3 or min(self.counts) < 0 or abs(sum(self.counts) - 1) > 1e-6:
            raise InputError(
                f"SceneOptions: counts must be three shares that sum to 1, got {self.counts}"
            )


PRESETS = {
    "standard": SceneOptions(),
    "sparse": SceneOptions(
        radius_alone=(0.34, 0.46),
        centre_alone=(0.46, 0.54),
        radius_group=(0.22, 0.34),
        counts=(0.68, 0.26, 0.06),
        part=(0.5, 0.65),
        part_fade=0.15,
    ),
}
"""How hard the pictures are, by name.

"standard": look-alikes and contexts in many pictures with several objects, the failures that AMN and EPS repair.
"sparse": objects that are large beside the part that tells them apart, as many are in photos: 1.4 times as long, hence twice
the area, with a part of the same size in pixels, mostly alone in the picture and in sight. The part fades less, so that a
classifier learns to look for it and for little else; its activation maps then cover less of an object, which CCR repairs.
"""


@dataclass
class Placed:
    """An object in the picture; `box` is its visible extent (left, top, right, bottom) in pixels, ends included."""

    figure: Figure
    x: float
    baseline: float
    radius: float
    on_context: bool
    salient: bool = True
    flip: bool = False
    covered: int = 0  # pixels before other objects stood in front
    visible: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), bool), repr=False)

    @property
    def box(self) -> tuple[int, int, int, int]:
        ys, xs = np.nonzero(self.visible)
        return int(xs.min()), int(ys.min()), int(xs.max()), int(ys.max())


@dataclass
class Scene:
    """A finished picture: image [S,S,3], mask [S,S] (0, class id or 255), saliency [S,S], context [S,S], all uint8."""

    image: np.ndarray
    mask: np.ndarray
    saliency: np.ndarray
    context: np.ndarray
    objects: list[Placed]


# ---- layout --------------------------------------------------------------------------------------------------------


def _choose_figures(rng: np.random.Generator, options: SceneOptions) -> list[Figure]:
    count = 1 + int(rng.choice(3, p=options.counts))
    if count > 1 and rng.random() < options.pair_together:
        pair = int(rng.integers(len(FIGURES) // 2))
        figures = [f for f in FIGURES if f.pair == pair]
    else:
        figures = [FIGURES[int(rng.integers(len(FIGURES)))] for _ in range(min(count, 2))]
    if count == 3:
        figures.append(FIGURES[int(rng.integers(len(FIGURES)))])
    return [figures[i] for i in rng.permutation(len(figures))]


def _lay_out(
    rng: np.random.Generator, options: SceneOptions, size: int, horizon: float
) -> list[Placed]:
    """Places the objects in one or two rows; objects of a row share a baseline, and so a context band."""
    figures = _choose_figures(rng, options)
    low, high = options.radius_alone if len(figures) == 1 else options.radius_group
    first, last = max(horizon + 0.2, 0.52), 0.93
    if len(figures) == 1:
        rows, columns = [rng.uniform(first + 0.1, last)], [rng.uniform(*options.centre_alone)]
    else:
        same = len(figures) == 2 and figures[0].home == figures[1].home and rng.random() < 0.6
        near, far = rng.uniform(0.86, last), rng.uniform(first, first + 0.07)
        rows = [rng.uniform(first + 0.12, last)] * 2 if same else [far, near]
        columns = [rng.uniform(0.2, 0.3), rng.uniform(0.7, 0.8)]
        if not same and len(figures) == 2:
            columns = [rng.uniform(0.25, 0.75), rng.uniform(0.25, 0.75)]
        if len(figures) == 3:
            single = int(rng.integers(2))  # which row holds one object
            rows = [far, near, near] if single == 0 else [far, far, near]
            columns = (
                [rng.uniform(0.25, 0.75), *columns]
                if single == 0
                else [*columns, rng.uniform(0.25, 0.75)]
            )
    placed = []
    for figure, baseline, x in zip(figures, rows, columns, strict=True):
        radius = rng.uniform(low, high)
        on_context = bool(rng.random() < figure.at_home)
        flip = bool(rng.random() < 0.5)
        if (
            rng.random() < options.truncated
        ):  # moved partly over the nearer border, mostly with its front in sight
            flip = (x > 0.5) if rng.random() < 0.7 else flip
            x = radius * rng.uniform(0.3, 0.75) if x < 0.5 else 1 - radius * rng.uniform(0.3, 0.75)
        placed.append(
            Placed(figure, x * size, baseline * size, radius * size, on_context, flip=flip)
        )
    if rng.random() < options.small_object:
        figure = FIGURES[int(rng.integers(len(FIGURES)))]
        radius = rng.uniform(*options.radius_small) * size
        baseline = (horizon + rng.uniform(0.02, 0.06)) * size
        flip = bool(rng.random() < 0.5)
        placed.insert(
            0, Placed(figure, rng.uniform(0.15, 0.85) * size, baseline, radius, False, False, flip)
        )
    return placed


# ---- grounds -------------------------------------------------------------------------------------------------------


class _Ground:
    """The empty stage: sky, hills, ground and context bands, drawn fine and reduced like the figures."""

    def __init__(self, rng: np.random.Generator, size: int, horizon: float) -> None:
        self.rng, self.size, self.side = rng, size, size * SUPERSAMPLE
        self.colour = Image.new("RGB", (self.side, self.side))
        self.context = Image.new("L", (self.side, self.side))
        self._ink, self._label = ImageDraw.Draw(self.colour), ImageDraw.Draw(self.context)
        self.horizon = horizon * self.side

    def _ragged(self, y: float, wobble: float, points: int) -> list[tuple[float, float]]:
        """A ragged line from left to right about the height `y` (fine pixels)."""
        xs = np.linspace(-0.05, 1.05, points) * self.side
        ys = y + wobble * self.side * np.convolve(
            self.rng.standard_normal(points + 2), [0.3, 0.5, 0.3], "valid"
        )
        return [(float(a), float(b)) for a, b in zip(xs, ys, strict=True)]

    def _polygon(
        self, points: list[tuple[float, float]], colour: tuple[float, ...], context: int | None
    ) -> None:
        self._ink.polygon(points, fill=tuple(int(min(255, max(0, c))) for c in colour))
        if context is not None:
            self._label.polygon(points, fill=context)

    def backdrop(self, kind: str) -> None:
        rng, side = self.rng, self.side
        top = np.array((150, 178, 204)) + rng.uniform(-22, 22) + rng.uniform(-9, 9, 3)
        for i in range(8):  # sky, paler towards the horizon
            colour = top + 9.0 * i
            self._polygon(
                [(0, self.horizon * i / 8), (side, self.horizon * i / 8), (side, side), (0, side)],
                colour,
                0,
            )
        for _ in range(int(rng.integers(1, 3))):
            line = self._ragged(
                self.horizon - side * rng.uniform(0.03, 0.14), 0.05, int(rng.integers(5, 12))
            )
            hill = np.array((104, 122, 112)) * rng.uniform(0.75, 1.2) + rng.uniform(-14, 14, 3)
            self._polygon([*line, (side, side), (0, side)], hill, 0)
        for _ in range(int(rng.integers(0, 5))):
            self._house_or_tree()
        ground = np.array(GROUNDS[kind]) * rng.uniform(0.85, 1.15) + rng.uniform(-7, 7, 3)
        label = CONTEXTS.index(kind) + 1 if kind in CONTEXTS else 0
        line = self._ragged(self.horizon, 0.008, 14)
        self._polygon([*line, (side * 1.1, side * 1.1), (-side * 0.1, side * 1.1)], ground, label)
        for _ in range(int(rng.integers(3, 8))):  # patches: colour edges that are no object's
            x, y = rng.uniform(0, side), rng.uniform(self.horizon + 0.05 * side, side)
            spread = rng.uniform(0.03, 0.12) * side
            angles = np.linspace(0, 2 * np.pi, 9, endpoint=False)
            reach = spread * rng.uniform(0.6, 1.3, 9)
            blob = np.stack([x + 1.6 * reach * np.cos(angles), y + 0.5 * reach * np.sin(angles)], 1)
            self._polygon(
                [(float(a), float(b)) for a, b in blob], ground * rng.uniform(0.75, 1.25), None
            )

    def _house_or_tree(self) -> None:
        rng, side = self.rng, self.side
        x, foot = rng.uniform(0, side), self.horizon + 0.02 * side
        tall, wide = rng.uniform(0.08, 0.22) * side, rng.uniform(0.05, 0.11) * side
        if rng.random() < 0.5:
            wall = np.array((166, 146, 130)) * rng.uniform(0.7, 1.2) + rng.uniform(-16, 16, 3)
            top = foot - tall
            self._polygon(
                [(x - wide, foot), (x - wide, top), (x + wide, top), (x + wide, foot)], wall, 0
            )
            roof = [(x - 1.15 * wide, top), (x, foot - 1.35 * tall), (x + 1.15 * wide, top)]
            self._polygon(roof, wall * rng.uniform(0.55, 0.75), 0)
            return
        bark, leaf = np.array((88, 66, 48)), np.array((62, 96, 52)) * rng.uniform(0.75, 1.3)
        self._polygon(
            [
                (x - 0.1 * wide, foot),
                (x - 0.1 * wide, foot - tall),
                (x + 0.1 * wide, foot - tall),
                (x + 0.1 * wide, foot),
            ],
            bark,
            0,
        )
        for _ in range(6):
            cx, cy = x + rng.uniform(-0.6, 0.6) * wide, foot - tall + rng.uniform(-0.3, 0.3) * tall
            r = rng.uniform(0.35, 0.6) * wide
            green = tuple(int(c) for c in leaf * rng.uniform(0.85, 1.15))
            self._ink.ellipse((cx - r, cy - r, cx + r, cy + r), fill=green)

    def rails(self, baseline: float) -> None:
        """Ballast, sleepers and two rails, the nearer one under the wheels; `baseline` in pixels."""
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
            self._polygon(
                [
                    (0, y + dy),
                    (side, y + dy),
                    (side, y + dy + thick * side),
                    (0, y + dy + thick * side),
                ],
                (196, 198, 204),
                None,
            )

    def water(self, baseline: float) -> None:
        """A stretch of water about the keel, with waves; `baseline` in pixels."""
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
        """Colour [S,S,3] float32 with the ground's texture, context ids [S,S] uint8."""
        half = SUPERSAMPLE // 2
        context = np.asarray(self.context)[half::SUPERSAMPLE, half::SUPERSAMPLE].copy()
        image = np.asarray(self.colour.reduce(SUPERSAMPLE), dtype=np.float32)
        rng, size = self.rng, self.size
        rough = np.array([5.0, 9.0, 6.0, 10.0, 6.0], dtype=np.float32)[context]
        fine, middle = noise(rng, size, size), noise(rng, size, size // 4)
        image = image + (rough * (0.6 * fine + 0.8 * middle))[..., None]
        return image + 7.0 * noise(rng, size, 6)[..., None], context


# ---- composition ---------------------------------------------------------------------------------------------------


def _blend(image: np.ndarray, pen: Pen, texture: np.ndarray | float = 1.0) -> np.ndarray:
    """Put the pen's figure into `image` [S,S,3] in place; returns which pixels it covers, [S,S] bool."""
    colour, cover = pen.reduced()
    covered = np.zeros(image.shape[:2], bool)
    covered[pen.window] = cover >= 0.5
    image[pen.window] = image[pen.window] * (1 - cover[..., None]) + colour * texture
    return covered


def _contexts(
    rng: np.random.Generator, options: SceneOptions, placed: list[Placed], ground: _Ground
) -> None:
    """Bands under the objects that stand on rails or water; now and then one that nobody stands on."""
    for p in sorted(placed, key=lambda p: p.baseline):
        if p.on_context and p.figure.home == "rails":
            ground.rails(p.baseline)
        elif p.on_context and p.figure.home == "water":
            ground.water(p.baseline - 0.05 * p.radius)
    for home, draw in (("rails", ground.rails), ("water", ground.water)):
        if rng.random() < options.context_alone and not any(p.figure.home == home for p in placed):
            spots = rng.uniform(0.48, 0.94, 12) * ground.size
            free = [
                s
                for s in spots
                if all(abs(s - p.baseline) > 0.2 * ground.size for p in placed if p.salient)
            ]
            if free:
                draw(float(free[0]))


def _saliency(
    rng: np.random.Generator,
    options: SceneOptions,
    placed: list[Placed],
    eye_catcher: np.ndarray | None,
    size: int,
) -> np.ndarray:
    """What a detector would give: soft, blurred, some objects missed, an eye-catcher found."""
    found = np.zeros((size, size), dtype=np.float32)
    for p in placed:
        if p.salient and rng.random() < options.saliency_found:
            found = np.maximum(found, p.visible * rng.uniform(0.7, 1.0))
    if eye_catcher is not None and rng.random() < 0.85:
        found = np.maximum(found, eye_catcher * rng.uniform(0.65, 0.95))
    soft = Image.fromarray((255 * found).astype(np.uint8))
    grow = rng.random()
    if grow < 0.6:  # detectors are generous or mean about outlines
        soft = soft.filter(ImageFilter.MaxFilter(3) if grow < 0.4 else ImageFilter.MinFilter(3))
    soft = soft.filter(
        ImageFilter.GaussianBlur(options.saliency_blur * size * rng.uniform(0.6, 1.4))
    )
    values = np.asarray(soft, dtype=np.float32) * (1 + 0.08 * noise(rng, size, 8)) + 6 * np.abs(
        noise(rng, size, 5)
    )
    return np.clip(values, 0, 255).astype(np.uint8)


def make_scene(rng: np.random.Generator, size: int, options: SceneOptions) -> Scene:
    """Draws one picture of `size` x `size` pixels; everything comes from `rng`."""
    horizon = float(rng.uniform(0.2, 0.4))
    placed = _lay_out(rng, options, size, horizon)
    homes = [p.figure.home for p in placed if p.on_context and p.figure.home in GROUNDS]
    kinds = list(GROUNDS)
    kind = homes[int(rng.integers(len(homes)))] if homes else kinds[int(rng.integers(len(kinds)))]
    ground = _Ground(rng, size, horizon)
    ground.backdrop(kind)
    _contexts(rng, options, placed, ground)
    image, context = ground.finished()
    eye_catcher, mask = None, np.zeros((size, size), np.uint8)
    placed = sorted(placed, key=lambda p: p.baseline)
    if rng.random() < options.distractor:
        origin = rng.uniform(0.1, 0.9) * size, rng.uniform(horizon + 0.15, 0.95) * size
        pen = Pen(size, origin, rng.uniform(0.09, 0.14) * size, False, rng.uniform(-10, 10))
        draw_distractor(pen, rng)
        eye_catcher = _blend(image, pen)
        context[eye_catcher] = 0
    texture = 1 + options.texture / 128 * (
        0.5 * noise(rng, size, size // 2) + 0.8 * noise(rng, size, size // 6)
    )
    owner = np.full((size, size), -1, np.int16)
    for index, p in enumerate(placed):
        pen = Pen(size, (p.x, p.baseline), p.radius, p.flip, rng.uniform(-5, 5))
        p.figure.body(pen, rng)
        pen.focus(p.figure.anchor, rng.uniform(*options.part), rng.uniform(0, options.part_fade))
        p.figure.part(pen)
        inside = _blend(image, pen, texture[pen.window][..., None])
        owner[inside], mask[inside], context[inside] = index, FIGURES.index(p.figure) + 1, 0
        p.covered = int(inside.sum())
        if eye_catcher is not None:
            eye_catcher &= ~inside
    for index, p in enumerate(placed):
        p.visible = owner == index
        if p.visible.sum() < max(
            1, SLIVER * p.covered
        ):  # hidden behind others: nobody could name what is left
            mask[p.visible] = IGNORE
    placed = [p for p in placed if p.visible.sum() >= max(1, SLIVER * p.covered)]
    gain = 1 + options.light * rng.uniform(-1, 1)
    image = 118 + gain * (image - 118) + 100 * options.light * rng.uniform(-1, 1)
    image = image + rng.normal(0, options.grain, image.shape)
    image = np.clip(image + 0.5, 0, 255).astype(np.uint8)
    return Scene(image, mask, _saliency(rng, options, placed, eye_catcher, size), context, placed)
