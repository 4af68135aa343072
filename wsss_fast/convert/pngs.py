"""Class maps from and to gray PNGs, one per image and class, as WSSS-BED has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from wsss_fast.convert.folders import Photos, convert_all, files_of, why_empty
from wsss_fast.engine.progress import say
from wsss_fast.errors import InputError
from wsss_fast.maps import ClassMaps, load_maps, resize_maps, save_maps, strided_size
from wsss_fast.readers.label_maps import write_labels
from wsss_fast.readers.saliency_maps import read_saliency, saliency_of

_NAME = re.compile(r"(?P<id>.+)_(?P<class>0|[1-9]\d{0,2})", re.DOTALL)
_LARGEST_CLASS = 253
_UPPERCASE = ".PNG"


def maps_from_pngs(
    source: str | Path,
    out: str | Path,
    *,
    images: str | Path | None = None,
    saliency: str | Path | None = None,
    saliency_threshold: float = 0.2,
    threshold: float = 0.0,
) -> Path:
    """Convert `<source>/<id>_<class>.png`, gray, class numbers from 0, to this package's maps.

    This is the format of WSSS-BED's maps of seven methods. With saliency maps the background gets a
    map, too: 1 where the saliency is at most `saliency_threshold`, 0 elsewhere, as there; the label
    of the highest score is then WSSS-BED's pseudo-mask. A file that cannot be converted is named,
    and its image is left out.

    Args:
        source: folder of the PNGs.
        out: folder to write `<id>.npz` to, in the format of `cam.infer` and `amn.infer`.
        images: folder of the photos, of which the maps must have the size; photos without a PNG get
            maps of no class.
        saliency: folder of `<id>.png` saliency maps, of the size of the maps.
        saliency_threshold: above which a pixel is salient, 0..1.
        threshold: scores below it become 0; WSSS-BED has .1 for CAM, .2 for EPS, .3 for L2G and OAA
            and .5 for DRS, EDAM and MCIS.

    Raises:
        InputError: no such folder, no PNG of that name in it, or no file can be converted.
        RunError: some images were left out.
    """
    _check_fractions(saliency_threshold=saliency_threshold, threshold=threshold)
    out = Path(out)
    groups = _by_id(Path(source))
    photos = Photos(images)
    salient = None if saliency is None else Path(saliency)
    if salient is not None and not salient.is_dir():
        raise InputError(f"convert: saliency: {salient} is not a directory")

    def convert(id: str) -> None:
        scores = _read(groups.get(id, {}), photos, id)
        labels = np.array([c + 1 for c in sorted(groups.get(id, {}))], np.int16)
        scores[scores < threshold] = 0
        if salient is not None:
            row = _background(salient / f"{id}.png", scores.shape[1:], saliency_threshold)
            labels, scores = np.insert(labels, 0, 0), np.concatenate([row, scores])
        small = np.zeros((0, *strided_size(*scores.shape[1:])), np.float32)
        if len(scores):
            small = resize_maps(torch.from_numpy(scores), *small.shape[1:]).numpy()
        save_maps(out, id, ClassMaps(labels, small, scores))

    convert_all(sorted({*groups, *photos.by_id}), convert, out)
    return out


def maps_to_pngs(source: str | Path, out: str | Path, *, images: str | Path | None = None) -> Path:
    """Convert this package's maps to `<out>/<id>_<class>.png`, gray, class numbers from 0.

    The background is left out. Scores are rounded to 256 levels. A file that cannot be converted
    is named and left out.

    Args:
        source: folder of `<id>.npz`.
        out: folder to write to.
        images: folder of the photos, for maps without scores at the photos' size.

    Raises:
        InputError: no such folder or no maps in it, or no file can be converted.
        RunError: some files were left out: they are damaged.
    """
    source, out = Path(source), Path(out)
    files = files_of(source, ".npz")
    if not files:
        raise InputError(f"convert: {source} has no maps (.npz){why_empty(source)}")
    photos = Photos(images)

    def convert(path: Path) -> None:
        maps = load_maps(source, path.stem).foreground()
        size = photos.size(path.stem)
        if size is None and maps.high_res is None and len(maps.keys):
            raise InputError(
                f"{path}: has no scores at the photo's size; name the folder of the photos with "
                "--images"
            )
        rows = maps.high_res if size is None else maps.at_size(*size)
        for key, row in zip(maps.keys, () if rows is None else rows, strict=True):
            levels = np.rint(np.clip(row, 0, 1).astype(np.float32) * 255).astype(np.uint8)
            write_labels(out / f"{path.stem}_{key - 1}.png", levels, b"")

    convert_all(files, convert, out)
    return out


def _check_fractions(**numbers: float) -> None:
    for name, value in numbers.items():
        if not 0 <= value <= 1:
            raise InputError(f"convert: {name} is {value:g}, must be within 0..1")


def _by_id(source: Path) -> dict[str, dict[int, Path]]:
    """PNGs by image and class; others are named.

    Raises:
        InputError: there is none, or two of one image and class.
    """
    groups: dict[str, dict[int, Path]] = {}
    files = sorted([*files_of(source, ".png"), *files_of(source, _UPPERCASE)])
    others = []
    for path in files:
        name = _NAME.fullmatch(path.stem)
        if name is None or int(name["class"]) > _LARGEST_CLASS:
            others.append(path)
            continue
        classes = groups.setdefault(name["id"], {})
        if int(name["class"]) in classes:
            raise InputError(f"{path}: {classes[int(name['class'])].name} is of the same class")
        classes[int(name["class"])] = path
    if not groups:
        hint = f"; such as {others[0].name} is not <id>_<class>.png" if others else ""
        raise InputError(
            f"convert: {source} has no maps <id>_<class>.png, class numbers from 0"
            f"{hint or why_empty(source)}"
        )
    if others:
        say(
            f"convert: {len(others)} PNGs are not <id>_<class>.png with a class in "
            f"0..{_LARGEST_CLASS}, and are not read; first {others[0]}"
        )
    return groups


def _read(classes: Mapping[int, Path], photos: Photos, id: str) -> np.ndarray:
    """Scores of an image's PNGs by class number, float32 [K, H, W]."""
    size = photos.size(id)
    rows: list[np.ndarray] = []
    for number in sorted(classes):
        path = classes[number]
        row = saliency_of(read_saliency(path))
        if size is not None and row.shape != size:
            raise InputError(f"{path}: is {row.shape}, but the photo is {size}")
        if rows and row.shape != rows[0].shape:
            raise InputError(f"{path}: is {row.shape}, but the other maps of {id} {rows[0].shape}")
        rows.append(row)
    return np.stack(rows) if rows else np.zeros((0, *(size or (1, 1))), np.float32)


def _background(path: Path, size: tuple[int, ...], threshold: float) -> np.ndarray:
    """1 where nothing is salient, float32 [1, H, W]."""
    levels = saliency_of(read_saliency(path))
    if levels.shape != size:
        raise InputError(f"{path}: is {levels.shape}, but the maps are {size}")
    return (levels <= threshold).astype(np.float32)[None]
