"""Saliency maps: checked before training, compared with class maps, computed from colours alone."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter

from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.label_folder import label_files
from wsss_fast.data.transforms import resize_image
from wsss_fast.engine import distributed, remarks, stream
from wsss_fast.engine.progress import Bar, say, track
from wsss_fast.engine.run_folder import check_out, stage
from wsss_fast.errors import InputError
from wsss_fast.maps import check_maps, load_maps
from wsss_fast.readers.label_maps import write_labels
from wsss_fast.readers.saliency_maps import saliency_of
from wsss_fast.stages.labels import unfinished_shard

_HALF = 128  # of the levels 0..255
_DARK, _BRIGHT = 32, 223  # levels between them are neither salient nor not
_UNDECIDED = 0.5  # share of such pixels that a map with an object does not have
_INVERTED = 0.5  # see `Overlap.inverted`
_BORDER = 0.1  # width of the border as a share of the shorter side
_CONTRAST = 10.0  # steepness of the sigmoid that stretches the contrast
# Added to a colour's variance (squared Lab units): otherwise, with an even border, every other
# colour would be far from it.
_MIN_VARIANCE = 25.0
_BYTES = 200  # per pixel, while the contrast is computed


@dataclasses.dataclass(frozen=True)
class SaliencyResult:
    """Result of `make` and `degrade`.

    Attributes:
        folder: folder of the saliency maps, `<id>.png`.
    """

    folder: Path


@remarks.collected()
def check(data: Dataset) -> int:
    """Read every saliency map of `data`, so that a wrong one is found before any training.

    A map of another size than its photo is stretched to it when it is used. A map that is black
    throughout means that nothing in its photo is salient, which makes all its classes background.
    Such maps, other constant ones and maps that stay below half of the range are remarked. So are
    maps from 0 to 255 that are mostly of middle levels: programs that stretch each map to the whole
    range make them of photos in which nothing is salient.

    Collective: each process reads its shard of the maps.

    Returns:
        Number of maps that are black throughout.

    Raises:
        InputError: an id has no map, a map cannot be read, all maps are constant, or no level
            exceeds 1.
    """
    missing = [i for i in data.ids if i not in data.saliencies]
    if missing:
        raise InputError(
            f"saliency: no map for {len(missing)} of {len(data)} ids, first {missing[0]!r}; "
            f"needs <id>.png in {data.root / 'saliency'} or in the folder given as saliency"
            + _other_file(data, missing[0])
        )

    def levels_of(id: str) -> _Levels | str:
        try:
            levels = data.saliency_levels(id)
            size = data.size(id)
        except InputError as error:
            return str(error)
        between = float(((levels >= _DARK) & (levels <= _BRIGHT)).mean())
        turned = levels.shape[:2] == size[::-1] != size
        return _Levels(int(levels.min()), int(levels.max()), between, turned)

    own = {id: levels_of(id) for id in track(distributed.shard(data.ids), "check saliency")}
    read: dict[str, _Levels | str] = {}
    for part in distributed.all_gather_objects(own):
        read.update(part)
    found: dict[Path, _Levels] = {}
    for id in data.ids:
        one = read[id]
        if isinstance(one, str):
            raise InputError(one)
        found[data.saliencies[id]] = one
    _check_levels(found)
    return sum(levels.highest == 0 for levels in found.values())


@dataclasses.dataclass(frozen=True)
class _Levels:
    """What `check` looks at in a map.

    Attributes:
        lowest: level.
        highest: level.
        undecided: share of the middle levels.
        turned: whether height and width are those of the photo exchanged.
    """

    lowest: int
    highest: int
    undecided: float
    turned: bool


def _check_levels(found: dict[Path, _Levels]) -> None:
    """Reject maps that are useless together, and remark single ones."""
    folder = next(iter(found)).parent
    highest = max(levels.highest for levels in found.values())
    if highest == 0:
        raise InputError(f"saliency: {folder}: all maps are black")
    if all(levels.lowest == levels.highest for levels in found.values()):
        raise InputError(f"saliency: {folder}: each map has the same level at all its pixels")
    if highest == 1:
        raise InputError(
            f"saliency: {folder}: the maps hold 0 and 1 only; write binary maps as 0 and 255"
        )
    for path, levels in found.items():
        texts = []
        if levels.highest == 0:
            texts.append("black saliency map, so that nothing is salient in its photo")
        elif levels.lowest == levels.highest:
            texts.append("constant saliency map")
        elif levels.highest == 1:
            texts.append("saliency map of 0 and 1 only, which is nearly black; write 0 and 255")
        elif levels.highest < _HALF:
            texts.append("saliency map below half of the range 0 to 255 throughout")
        elif (levels.lowest, levels.highest) == (0, 255) and levels.undecided > _UNDECIDED:
            texts.append(
                "saliency map mostly of middle levels, though from 0 to 255: perhaps nothing is "
                "salient, and a program stretched the map to the whole range"
            )
        if levels.turned:
            texts.append("saliency map whose height and width are those of its photo exchanged")
        for text in texts:
            remarks.add(text, path, unit="map", of=len(found))


def _other_file(data: Dataset, id: str) -> str:
    """What to say of a file of another format that may be the map of `id`."""
    given = (data.source or {}).get("saliency")
    folder = Path(str(given)) if given else data.root / "saliency"
    files = [path for path in sorted(folder.iterdir()) if path.is_file()] if folder.is_dir() else []
    for path in files:
        if path.stem == id:
            return f"; {path.name} is there, but maps must be PNG, such as 255 * saliency"
    for path in files:
        if path.stem.startswith(id) and not path.stem[len(id)].isalnum():
            return f"; {path.name} is there; remove what follows the id in the names"
    return ""


@dataclasses.dataclass(frozen=True)
class Overlap:
    """Agreement of saliency maps with class maps.

    Attributes:
        inside: mean saliency, 0..1, weighted by the highest class score of each pixel.
        outside: mean saliency, 0..1, weighted by 1 - that score; much lower than `inside` if the
            maps are useful.
        inverted: ids of maps that look inverted: the mean saliency is higher where class maps are
            low than where they are high, by more than 0.5. Neither a missed object nor a salient
            distractor causes that much.
    """

    inside: float
    outside: float
    inverted: tuple[str, ...]


def overlap(data: Dataset, maps: Path) -> Overlap:
    """Compare the saliency maps of `data` with class maps; report those that look inverted.

    Args:
        data: data set with a saliency map for every id.
        maps: folder of class maps of a method that does not use saliency, such as the classifier
            baseline: maps trained with the saliency agree with it anyway.

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
            f"saliency: mean {inside:.2f} where class maps are high, {outside:.2f} where they are "
            "low: these maps look inverted; objects must be bright"
        )
    elif inverted:
        say(
            f"saliency: {len(inverted)} of {len(data)} maps look inverted, "
            f"first {data.saliencies[inverted[0]]}"
        )
    return Overlap(float(inside), float(outside), tuple(inverted))


def make(data: Source, out: str | Path, *, name: str = "saliency") -> SaliencyResult:
    """Compute saliency maps from colours alone: `<out>/<name>/<id>.png`, 8-bit gray.

    A substitute for users without saliency maps: it finds what differs in colour from the border of
    the photo, and knows nothing of objects. The published EPS uses maps of PFAN, a network trained
    on saliency masks; EPS is better with such maps.

    Collective: each process computes its shard of the maps.

    Args:
        data: images: a data set, or an argument of `data.load`.
        out: run folder.
        name: sub-folder of `out`.

    Raises:
        InputError: an argument or a file cannot be used.

    Source: the image boundary cue of Zhang et al., "Minimum Barrier Salient Object Detection at 80
    FPS", ICCV 2015.
    """
    data, out = opened(data, tags=False), check_out(out)
    folder = out / name

    def work() -> dict[str, float]:
        own, todo = unfinished_shard(data, folder)

        def write(id: str, contrast: np.ndarray) -> None:
            write_labels(folder / f"{id}.png", np.rint(255 * contrast), palette=b"")

        with Bar(name, len(own), done=len(own) - len(todo)) as bar:
            steps: stream.Steps[str, np.ndarray, np.ndarray, None] = stream.Steps(
                load=lambda id: border_contrast(data.image(id)),
                compute=lambda id, contrast: contrast,
                write=write,
                done=lambda *_: bar.advance(),
                size=lambda id: _BYTES * math.prod(data.size(id)),
            )
            stream.run(todo.ids, steps, stream.Times(torch.device("cpu")))
            speed = len(todo) / max(bar.seconds(), 1e-9)
        return {"images_per_second": sum(distributed.all_gather_objects(speed))}

    stage(out, name, {"data": data.fingerprint()}, work, files=label_files(data))
    return SaliencyResult(folder)


def degrade(
    data: Source,
    out: str | Path,
    *,
    blur: float = 0.04,
    missed: float = 0.25,
    name: str = "saliency-degraded",
) -> SaliencyResult:
    """Write worse saliency maps than those of `data`, to measure the effect of their quality.

    Collective.

    Args:
        data: images with a saliency map for every id: a data set, or an argument of `data.load`.
        out: run folder.
        blur: standard deviation of a Gaussian blur, as a share of the map's longer side, >= 0.
        missed: share of the maps, 0..1, that become black as if nothing had been found; they are
            chosen by their ids.
        name: sub-folder of `out`, for `<id>.png`.

    Raises:
        InputError: an argument or a file cannot be used.
    """
    if not (blur >= 0 and 0 <= missed <= 1):
        raise InputError(f"saliency: blur must be >= 0 and missed in 0..1, got {blur} and {missed}")
    data, out = opened(data, tags=False), check_out(out)
    folder = out / name

    def work() -> dict[str, int]:
        black = {
            id
            for id in data.ids
            if int.from_bytes(hashlib.sha256(id.encode()).digest()[:4], "big") < missed * 2**32
        }
        for id in track(unfinished_shard(data, folder)[1].ids, name):
            levels = np.rint(255 * data.saliency(id)).astype(np.uint8)
            gaussian = ImageFilter.GaussianBlur(blur * max(levels.shape))
            worse = np.asarray(Image.fromarray(levels).filter(gaussian))
            worse = np.zeros_like(levels) if id in black else worse
            write_labels(folder / f"{id}.png", worse, palette=b"")
        return {"black": len(black)}

    arguments = {"data": data.fingerprint(saliency=True), "blur": blur, "missed": missed}
    stage(out, name, arguments, work, files=label_files(data))
    return SaliencyResult(folder)


def border_contrast(image: np.ndarray) -> np.ndarray:
    """Contrast of each pixel's colour with the colours of the image border.

    Each side of the image gives the mean m and covariance S of its colours in CIELAB; the distance
    of a pixel's colour x is sqrt((x-m)' S^-1 (x-m)). Since an object may touch one side, the
    largest of the four distances is left out of their sum, which a sigmoid around the middle of its
    range then stretches.

    Args:
        image: uint8 RGB [H, W, 3].

    Returns:
        float64 [H, W] in 0..1.
    """
    height, width = image.shape[:2]
    smooth = Image.fromarray(image).filter(ImageFilter.GaussianBlur(0.01 * max(height, width)))
    lab = _lab(np.asarray(smooth))  # [H, W, 3]
    depth = max(1, round(_BORDER * min(height, width)))
    distances = []
    for side in (lab[:depth], lab[-depth:], lab[:, :depth], lab[:, -depth:]):
        colours = side.reshape(-1, 3)
        off = lab - colours.mean(axis=0)
        inverse = np.linalg.inv(np.cov(colours, rowvar=False, ddof=0) + _MIN_VARIANCE * np.eye(3))
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
