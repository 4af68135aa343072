"""One picture of the Shapes benchmark: layout of the objects, composition, saliency map."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageFilter

from wsss_fast.data.shapes.draw import FIGURES, Figure, Pen, draw_distractor, noise
from wsss_fast.data.shapes.ground import GROUNDS, Ground
from wsss_fast.errors import InputError

IGNORE = 255
MIN_VISIBLE = 0.2  # an object with a smaller visible share gets no tag


@dataclass(frozen=True)
class SceneOptions:
    """Difficulty of the pictures.

    Attributes:
        radius_alone: range of half the length of a single object, as a fraction of the image side.
        centre_alone: range of the horizontal position of a single object, as a fraction of the
        side.
        radius_group: range of half the length of one of several objects, as a fraction of the side.
        radius_small: range of half the length of a non-salient object in the background, likewise.
        counts: probabilities of 1, 2 and 3 objects; they sum to 1.
        pair_together: probability that several objects include both classes of a pair of
        look-alikes.
        small_object: probability of a non-salient object in the background.
        context_alone: probability of rails or water, each, in a picture without a class of theirs.
        truncated: probability that an object is cut off by the border.
        part: range of the size of the discriminative part, relative to its drawing.
        part_fade: largest share by which the part's colours fade towards gray.
        light: largest relative change of a picture's brightness and contrast.
        grain: standard deviation of the pixel noise in levels 0..255.
        texture: strength of the body's texture in levels 0..255.
        distractor: probability of a conspicuous object that is not of any class.
        saliency_found: probability that the saliency detector finds a salient object.
        saliency_blur: standard deviation of the saliency map's blur, as a fraction of the side.
    """

    radius_alone: tuple[float, float] = (0.23, 0.33)
    centre_alone: tuple[float, float] = (0.3, 0.7)
    radius_group: tuple[float, float] = (0.15, 0.23)
    radius_small: tuple[float, float] = (0.085, 0.11)
    counts: tuple[float, float, float] = (0.45, 0.37, 0.18)
    pair_together: float = 0.32
    small_object: float = 0.08
    context_alone: float = 0.10
    truncated: float = 0.18
    part: tuple[float, float] = (0.7, 0.95)
    part_fade: float = 0.45
    light: float = 0.25
    grain: float = 7.0
    texture: float = 9.0
    distractor: float = 0.38
    saliency_found: float = 0.79
    saliency_blur: float = 0.026

    def __post_init__(self) -> None:
        if len(self.counts) != 3 or min(self.counts) < 0 or abs(sum(self.counts) - 1) > 1e-6:
            raise InputError(
                f"SceneOptions: counts must be three probabilities that sum to 1, got {self.counts}"
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
    "uneven": SceneOptions(
        radius_alone=(0.18, 0.42),
        pair_together=0.8,
        part=(0.35, 1.1),
        part_fade=0.9,
    ),
}
"""Options by the name of the preset.

"standard": several objects in many pictures, with look-alikes and contexts: the failures that AMN
and EPS address. "sparse": objects that are large compared with the part that distinguishes them, as
in many photos: 1.4 times as long, hence of twice the area, with a part of the same size in pixels,
mostly alone in the picture and not hidden. The part fades less, so that a classifier learns to look
for little else. Its activation maps then cover less of an object, which is the failure that CCR
addresses. "uneven": the discriminative part differs strongly in size and contrast from object to
object, and look-alikes are mostly in one picture. The highest score of a class, which its map is
divided by, then says little of the scores in the rest of its objects, so that a threshold fits one
picture and not the next; this is what AMN addresses.
"""


@dataclass
class Placed:
    """An object in the picture.

    Attributes:
        figure: class of the object.
        x: horizontal position of its centre in pixels.
        baseline: vertical position of its foot in pixels.
        radius: half its length in pixels.
        on_context: whether it stands on the context that is its class's home.
        salient: whether a saliency detector may find it.
        flip: whether it is mirrored.
        covered: number of its pixels before other objects hide some.
        visible: its visible pixels, bool [S, S].
    """

    figure: Figure
    x: float
    baseline: float
    radius: float
    on_context: bool
    salient: bool = True
    flip: bool = False
    covered: int = 0
    visible: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), bool), repr=False)

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Visible extent (left, top, right, bottom) in pixels, ends included."""
        ys, xs = np.nonzero(self.visible)
        return int(xs.min()), int(ys.min()), int(xs.max()), int(ys.max())


@dataclass
class Scene:
    """A finished picture.

    Attributes:
        image: uint8 RGB [S, S, 3].
        mask: label map, uint8 [S, S]: 0 background, 1..8 classes, 255 ignore.
        saliency: saliency map, uint8 [S, S] in 0..255.
        context: context ids, uint8 [S, S].
        objects: the visible objects, from back to front.
    """

    image: np.ndarray
    mask: np.ndarray
    saliency: np.ndarray
    context: np.ndarray
    objects: list[Placed]

    def object_numbers(self) -> np.ndarray:
        """Number of the object of each pixel, uint8 [S, S]: 0 background, 1..N, 255 ignore."""
        numbers = np.where(self.mask == IGNORE, IGNORE, 0).astype(np.uint8)
        for number, thing in enumerate(self.objects, 1):
            numbers[thing.visible] = number
        return numbers


# ---- layout ------------------------------------------------------------------------------------


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
    """Place the objects in one or two rows; those of a row share a baseline and a context band."""
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
            single_is_far = int(rng.integers(2)) == 0
            rows = [far, near, near] if single_is_far else [far, far, near]
            single = rng.uniform(0.25, 0.75)
            columns = [single, *columns] if single_is_far else [*columns, single]
    placed = []
    for figure, baseline, x in zip(figures, rows, columns, strict=True):
        radius = rng.uniform(low, high)
        on_context = bool(rng.random() < figure.at_home)
        flip = bool(rng.random() < 0.5)
        # A truncated object is partly moved over the nearer border, mostly with its front visible.
        if rng.random() < options.truncated:
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


# ---- composition -------------------------------------------------------------------------------


def _blend(image: np.ndarray, pen: Pen, texture: np.ndarray | float = 1.0) -> np.ndarray:
    """Draw the pen's figure into `image` [S, S, 3] in place; return its pixels, bool [S, S]."""
    colour, cover = pen.reduced()
    covered = np.zeros(image.shape[:2], bool)
    covered[pen.window] = cover >= 0.5
    image[pen.window] = image[pen.window] * (1 - cover[..., None]) + colour * texture
    return covered


def _contexts(
    rng: np.random.Generator, options: SceneOptions, placed: list[Placed], ground: Ground
) -> None:
    """Draw bands under objects that stand on rails or water; sometimes one without an object."""
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
    distractor: np.ndarray | None,
    size: int,
) -> np.ndarray:
    """What a detector might give: soft and blurred, with objects missed and a distractor found."""
    found = np.zeros((size, size), dtype=np.float32)
    for p in placed:
        if p.salient and rng.random() < options.saliency_found:
            found = np.maximum(found, p.visible * rng.uniform(0.7, 1.0))
    if distractor is not None and rng.random() < 0.85:
        found = np.maximum(found, distractor * rng.uniform(0.65, 0.95))
    soft = Image.fromarray((255 * found).astype(np.uint8))
    grow = rng.random()
    if grow < 0.6:  # a detector's outlines lie outside or inside of the true ones
        soft = soft.filter(ImageFilter.MaxFilter(3) if grow < 0.4 else ImageFilter.MinFilter(3))
    blur = options.saliency_blur * size * rng.uniform(0.6, 1.4)
    soft = soft.filter(ImageFilter.GaussianBlur(blur))
    values = np.asarray(soft, dtype=np.float32) * (1 + 0.08 * noise(rng, size, 8))
    values = values + 6 * np.abs(noise(rng, size, 5))
    return np.clip(values, 0, 255).astype(np.uint8)


def make_scene(rng: np.random.Generator, size: int, options: SceneOptions) -> Scene:
    """Draw one picture of `size` x `size` pixels; `rng` is the only source of random numbers."""
    horizon = float(rng.uniform(0.2, 0.4))
    placed = _lay_out(rng, options, size, horizon)
    homes = [p.figure.home for p in placed if p.on_context and p.figure.home in GROUNDS]
    kinds = list(GROUNDS)
    kind = homes[int(rng.integers(len(homes)))] if homes else kinds[int(rng.integers(len(kinds)))]
    ground = Ground(rng, size, horizon)
    ground.backdrop(kind)
    _contexts(rng, options, placed, ground)
    image, context = ground.finished()
    distractor, mask = None, np.zeros((size, size), np.uint8)
    placed = sorted(placed, key=lambda p: p.baseline)
    if rng.random() < options.distractor:
        origin = rng.uniform(0.1, 0.9) * size, rng.uniform(horizon + 0.15, 0.95) * size
        pen = Pen(size, origin, rng.uniform(0.09, 0.14) * size, False, rng.uniform(-10, 10))
        draw_distractor(pen, rng)
        distractor = _blend(image, pen)
        context[distractor] = 0
    fine, coarse = noise(rng, size, size // 2), noise(rng, size, size // 6)
    texture = 1 + options.texture / 128 * (0.5 * fine + 0.8 * coarse)
    owner = np.full((size, size), -1, np.int16)
    for index, p in enumerate(placed):
        pen = Pen(size, (p.x, p.baseline), p.radius, p.flip, rng.uniform(-5, 5))
        p.figure.body(pen, rng)
        pen.focus(p.figure.anchor, rng.uniform(*options.part), rng.uniform(0, options.part_fade))
        p.figure.part(pen)
        inside = _blend(image, pen, texture[pen.window][..., None])
        owner[inside], mask[inside], context[inside] = index, FIGURES.index(p.figure) + 1, 0
        p.covered = int(inside.sum())
        if distractor is not None:
            distractor &= ~inside
    objects = []
    for index, p in enumerate(placed):
        p.visible = owner == index
        if p.visible.sum() >= max(1, MIN_VISIBLE * p.covered):
            objects.append(p)
        else:  # too little is left to be recognised
            mask[p.visible] = IGNORE
    gain = 1 + options.light * rng.uniform(-1, 1)
    image = 118 + gain * (image - 118) + 100 * options.light * rng.uniform(-1, 1)
    image = image + rng.normal(0, options.grain, image.shape)
    image = np.clip(image + 0.5, 0, 255).astype(np.uint8)
    saliency = _saliency(rng, options, objects, distractor, size)
    return Scene(image, mask, saliency, context, objects)
