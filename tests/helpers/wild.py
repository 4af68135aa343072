"""The odd files of tests/data/wild: the reader of each kind, and the result as one line of text."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from wsss_fast import convert, data
from wsss_fast.data import read_image, read_labels
from wsss_fast.maps import load_maps
from wsss_fast.readers import state_dicts
from wsss_fast.readers.photos import check_image
from wsss_fast.readers.saliency_maps import read_saliency, saliency_of
from wsss_fast.stages.crf import Crf
from wsss_fast.stages.crf_files import refine_files

WILD = Path(__file__).resolve().parents[1] / "data/wild"
# One iteration with a weak kernel keeps the labels of these small maps.
_CRF = Crf(gaussian=(1.0, 0.1), bilateral=(1.0, 5.0, 0.1), iterations=1)


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of expected.csv.

    Attributes:
        file: path below tests/data/wild.
        reader: key of READERS.
        expected: text of the result, or "error: " and a part of the message.
        remark: part of what is printed; empty: nothing is printed.
    """

    file: str
    reader: str
    expected: str
    remark: str


def rows() -> list[Row]:
    """The table."""
    with (WILD / "expected.csv").open(newline="") as file:
        return [Row(**row) for row in csv.DictReader(file)]


def _grid(values: np.ndarray) -> str:
    return "/".join("".join(f"{v}" if v < 10 else f"[{v}]" for v in row) for row in values)


def photo(path: Path, work: Path) -> str:
    """Size and mean colour."""
    check_image(path)
    pixels = read_image(path)
    mean = pixels.reshape(-1, 3).mean(axis=0).round().astype(int)
    return f"{pixels.shape[0]}x{pixels.shape[1]} {' '.join(map(str, mean))}"


def labels(path: Path, work: Path) -> str:
    """The labels of a map with the classes 1..20, row by row."""
    return _grid(read_labels(path, 20))


def refined(path: Path, work: Path) -> str:
    """The labels of a map or of probabilities after `wsss-fast crf`."""
    with Image.open(WILD / "photos/alpha.png") as image:
        size = (image.width, image.height) if path.suffix == ".npy" else (6, 4)
        image.convert("RGB").resize(size).save(work / "photo.png")
    refine_files(work / "photo.png", path, work / "refined.png", crf=_CRF)
    return _grid(np.array(Image.open(work / "refined.png")))


def saliency(path: Path, work: Path) -> str:
    """The levels, from the lowest to the highest, and the share of the highest."""
    found = saliency_of(read_saliency(path))
    levels = " ".join(f"{level:.2f}" for level in np.unique(found.round(2)))
    return f"{levels}; {(found == found.max()).mean():.2f} highest"


def _folder(work: Path, *names: str) -> None:
    """Photos, and a labels.csv in which all of them are cats."""
    for name in names:
        shutil.copy(WILD / "photos/plain.jpg", work / name)
    (work / "labels.csv").write_text("".join(f"{name},cat\n" for name in names))


def ids(path: Path, work: Path) -> str:
    """The ids that a list takes from a folder."""
    _folder(work, "a.jpg", "b.jpg", "IMG.jpg", "IMG 1.jpg", "IMG 2.jpg")
    return "|".join(data.load(work, ids=path).ids)


def classes(path: Path, work: Path) -> str:
    """The classes of a folder with this classes.txt."""
    _folder(work, "a.jpg")
    shutil.copy(path, work / "classes.txt")
    return "|".join(data.load(work).classes)


def _tags(found: data.Dataset) -> str:
    tags = " ".join(f"{id}:{''.join(map(str, found.tags_of(id)))}" for id in found.ids)
    return f"{'|'.join(found.classes)} {tags}"


def tags(path: Path, work: Path) -> str:
    """Class names, and the tags of each id."""
    _folder(work, "a.jpg", "b.jpg")
    shutil.copy(path, work / "labels.csv")
    return _tags(data.load(work))


def coco(path: Path, work: Path) -> str:
    """As `tags`."""
    (work / "train2014").mkdir()
    (work / "annotations").mkdir()
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(WILD / "photos/plain.jpg", work / "train2014" / name)
    shutil.copy(path, work / "annotations/instances_train2014.json")
    return _tags(data.load(work))


def maps(path: Path, work: Path) -> str:
    """The sum of each label's map."""
    found = load_maps(path.parent, path.stem)
    sums = found.strided.sum(axis=(1, 2))
    return " ".join(f"{key}:{value:g}" for key, value in zip(found.keys, sums, strict=True))


def public_maps(path: Path, work: Path) -> str:
    """As `maps`, after `convert from-pickles`."""
    (work / "public").mkdir()
    shutil.copy(path, work / "public")
    convert.maps_from_pickles(work / "public", work / "maps")
    return maps(work / "maps" / f"{path.stem}.npz", work)


def weights(path: Path, work: Path) -> str:
    """Names and values."""
    state = state_dicts.read(path)
    return " ".join(f"{k}={','.join(f'{v:g}' for v in t.tolist())}" for k, t in state.items())


READERS: dict[str, Callable[[Path, Path], str]] = {
    reader.__name__: reader
    for reader in (
        photo,
        labels,
        refined,
        saliency,
        ids,
        classes,
        tags,
        coco,
        maps,
        public_maps,
        weights,
    )
}
# Folder of the files, and a reader for them.
KINDS = (
    ("photos", "photo"),
    ("label_maps", "labels"),
    ("label_maps", "refined"),
    ("probabilities", "refined"),
    ("saliency", "saliency"),
    ("ids", "ids"),
    ("classes", "classes"),
    ("tags", "tags"),
    ("coco", "coco"),
    ("maps", "maps"),
    ("public_maps", "public_maps"),
    ("weights", "weights"),
)
