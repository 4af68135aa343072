"""Saliency maps: looked at before training, held against class maps, and made from colours alone where there are none."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.images import saliency_of, write_labels
from wsss_fast.data.transforms import resize_image
from wsss_fast.engine import distributed
from wsss_fast.engine.progress import Bar, say, track
from wsss_fast.engine.run_folder import provenance, stage
from wsss_fast.errors import InputError
from wsss_fast.maps import check_maps, load_maps
from wsss_fast.stages.seeds import share_of_labels

_INVERTED = 0.5  # see `Overlap.inverted`
_BORDER = 0.1  # share of the shorter side that counts as border
_CONTRAST = 10.0  # steepness with which the contrast is stretched around its middle
_FLOOR = 25.0  # squared Lab units added to a colour's variance, so that an even border does not make everything else far


@dataclasses.dataclass(frozen=True)
class SaliencyResult:
    """Where the saliency maps are."""

    folder: Path


def check(data: Dataset) -> int:
    """Read every saliency map of `data`, so that what is wrong with them is said before any training starts.

    A map of another size than its photo's is stretched to it when it is used. A single map that is black throughout says
    that nothing in its photo is salient, which drives all its classes into the background; they are counted and reported.

    Returns:
        How many maps are black throughout.

    Raises:
        InputError: an id has no map, a map cannot be read, all are black, or all hold nothing but 0 and 1.
    """
    missing = [i for i in data.ids if i not in data.saliencies]
    if missing:
        raise InputError(
            f"saliency: no map for {len(missing)} of {len(data)} ids, first {missing[0]!r}; needs <id>.png in "
            f"{data.root / 'saliency'} or in the folder named by saliency"
        )
    own = distributed.shard(data.ids)
    own = {id: int(data.saliency_levels(id).max()) for id in track(own, "check saliency")}
    found = {
        id: level for part in distributed.all_gather_objects(own) for id, level in part.items()
    }
    highest = np.array([found[id] for id in data.ids])
    folder = data.saliencies[data.ids[0]].parent
    if highest.max() <= 1:
        what = (
            "all maps are black"
            if highest.max() == 0
            else "the maps hold 0 and 1 only; write binary ones as 0 and 255"
        )
        raise InputError(f"saliency: {folder}: {what}")
    black = int((highest == 0).sum())
    if black:
        first = data.saliencies[data.ids[int(highest.argmin())]]
        say(
            f"saliency: {black} of {len(data)} maps are black, first {first}; they say that nothing there is salient"
        )
    return black


@dataclasses.dataclass(frozen=True)
class Overlap:
    """How saliency maps agree with class maps.

    Attributes:
        inside: mean saliency, 0..1, weighted by the highest class score of each pixel.
        outside: the same, weighted by 1 - that score; of a useful folder it is far below `inside`.
        inverted: ids whose map looks inverted: where their class maps are low, the mean saliency is higher than where they
            are high by more than 0.5, which neither a missed object nor a salient distractor brings about.
    """

    inside: float
    outside: float
    inverted: tuple[str, ...]


def overlap(data: Dataset, maps: Path) -> Overlap:
    """Hold the saliency maps of `data` against class maps, and say so where they look inverted (dark objects).

    Args:
        data: data set with a saliency map for every id.
        maps: folder of class maps, of the classifier baseline say; what is trained with the saliency itself agrees anyway.

    Raises:
        InputError: no such folder, or maps or saliency maps are missing.
    """
    check_maps(maps, data)
    sums, inverted = np.zeros(4), []
    for id in track(data.ids, "saliency overlap"):
        scores = load_maps(maps, id).foreground().strided
        if not len(scores):
            continue
        high = scores.max(axis=0)
        salient = saliency_of(resize_image(data.saliency_levels(id), *high.shape))
        own = np.array(
            [(high * salient).sum(), high.sum(), ((1 - high) * salient).sum(), (1 - high).sum()]
        )
        inside, outside = own[[0, 2]] / np.maximum(own[[1, 3]], 1e-6)
        if outside - inside > _INVERTED:
            inverted.append(id)
        sums += own
    inside, outside = sums[[0, 2]] / np.maximum(sums[[1, 3]], 1e-6)
    if inside < outside:
        say(
            f"saliency: mean {inside:.2f} where class maps are high, {outside:.2f} where they are low: these maps look "
            "inverted; objects must be bright"
        )
    elif inverted:
        say(
            f"saliency: {len(inverted)} of {len(data)} maps look inverted, first {data.saliencies[inverted[0]]}"
        )
    return Overlap(float(inside), float(outside), tuple(inverted))


def make(data: Source, out: str | Path, *, name: str = "saliency") -> SaliencyResult:
    """Saliency maps from colours alone: `<out>/<name>/<id>.png`, 8-bit gray, for people who have none.

    A stand-in: it finds what differs in colour from the border of the photo, and knows nothing of objects. The published
    EPS uses maps of PFAN, a network trained on saliency masks; with such maps it does better.

    Args:
        data: images; a data set, or what `data.load` opens.
        out: run folder.
        name: sub-folder of `out`.

    Raises:
        InputError: an argument or file that cannot be used.

    Source: the image boundary cue of Zhang et al., "Minimum Barrier Salient Object Detection at 80 FPS", ICCV 2015.
    """
    data, folder = opened(data), Path(out) / name

    def work() -> dict[str, float]:
        own, todo = share_of_labels(data, folder)
        with Bar(name, len(own), done=len(own) - len(todo)) as bar:
            for id in todo.ids:
                write_labels(
                    folder / f"{id}.png",
                    np.rint(255 * border_contrast(data.image(id))),
                    palette=b"",
                )
                bar.advance(1)
            speed = len(todo) / max(bar.seconds(), 1e-9)
        return {"images_per_second": sum(distributed.all_gather_objects(speed))}

    stage(Path(out), name, {"data": data.fingerprint()}, work)
    return SaliencyResult(folder)


def degrade(
    data: Source,
    out: str | Path,
    *,
    blur: float = 0.04,
    missed: float = 0.25,
    name: str = "saliency-degraded",
) -> SaliencyResult:
    """Worse saliency maps than those of `data`, to see what they are worth: `<out>/<name>/<id>.png`.

    Args:
        data: images with a saliency map for every id; a data set, or what `data.load` opens.
        out: run folder.
        blur: standard deviation of a Gaussian blur, share of the map's longer side, >= 0.
        missed: share of the maps, chosen by their ids, that become black: nothing was found there; 0..1.
        name: sub-folder of `out`.

    Raises:
        InputError: an argument or file that cannot be used.
    """
    if not (blur >= 0 and 0 <= missed <= 1):
        raise InputError(f"saliency: blur must be >= 0 and missed in 0..1, got {blur} and {missed}")
    data, folder = opened(data), Path(out) / name

    def work() -> dict[str, int]:
        gone = {
            id
            for id in data.ids
            if int.from_bytes(hashlib.sha256(id.encode()).digest()[:4], "big") < missed * 2**32
        }
        for id in track(share_of_labels(data, folder)[1].ids, name):
            levels = np.rint(255 * data.saliency(id)).astype(np.uint8)
            blurred = Image.fromarray(levels).filter(
                ImageFilter.GaussianBlur(blur * max(levels.shape))
            )
            write_labels(
                folder / f"{id}.png",
                np.zeros_like(levels) if id in gone else np.asarray(blurred),
                palette=b"",
            )
        return {"black": len(gone)}

    source = provenance(data.saliencies[data.ids[0]].parent) if data.saliencies else None
    stage(
        Path(out),
        name,
        {"data": data.fingerprint(), "saliency": source, "blur": blur, "missed": missed},
        work,
    )
    return SaliencyResult(folder)


def border_contrast(image: np.ndarray) -> np.ndarray:
    """How little the colour of a pixel is like the border's, float64 [H, W] in 0..1.

    Each side of the image gives the mean m and covariance S of its colours x in CIELAB; a pixel is sqrt((x-m)' S^-1 (x-m))
    away from it. The sum over the sides without the largest one, since an object may touch a side, is stretched by a
    sigmoid around the middle of its range.

    Args:
        image: uint8 RGB [H, W, 3].
    """
    height, width = image.shape[:2]
    smooth = Image.fromarray(image).filter(ImageFilter.GaussianBlur(0.01 * max(height, width)))
    lab = _lab(np.asarray(smooth))  # [H, W, 3]
    depth = max(1, round(_BORDER * min(height, width)))
    distances = []
    for side in (lab[:depth], lab[-depth:], lab[:, :depth], lab[:, -depth:]):
        colours = side.reshape(-1, 3)
        off = lab - colours.mean(axis=0)
        inverse = np.linalg.inv(np.cov(colours, rowvar=False, ddof=0) + _FLOOR * np.eye(3))
        distance = np.sqrt(np.einsum("hwi,ij,hwj->hw", off, inverse, off))
        distances.append(distance / max(distance.max(), 1e-6))
    contrast = sum(distances) - np.maximum.reduce(distances)
    low, high = contrast.min(), contrast.max()
    if high - low < 1e-6:
        return np.zeros((height, width))
    return 1 / (1 + np.exp(-_CONTRAST * ((contrast - low) / (high - low) - 0.5)))


def _lab(image: np.ndarray) -> np.ndarray:
    """uint8 sRGB [..., 3] -> CIELAB (D65), float64."""
    s = image / 255.0
    linear = np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    x = linear @ to_xyz.T / np.array([0.95047, 1.0, 1.08883])
    f = np.where(x > (6 / 29) ** 3, np.cbrt(x), x / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack(
        [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])],
        axis=-1,
    )
