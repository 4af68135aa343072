"""The folder layout, for your own data: any images, and a labels.csv that tags them."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsss_fast.data.dataset import Dataset
from wsss_fast.data.listing import (
    check_classes,
    check_id,
    find_pngs,
    read_classes,
    read_ids,
    read_text,
    saliency_folder,
)
from wsss_fast.errors import InputError

_HEADINGS = ("class", "classes", "label", "labels", "tag", "tags")


def is_folder(root: Path) -> bool:
    """Whether `root` has the folder layout."""
    return (root / "labels.csv").is_file()


def load_folder(
    root: Path, split: str, ids: Sequence[str] | Path | None, saliency: Path | None
) -> Dataset:
    """Read a folder with `labels.csv`: lines `file,class[;class...]`, optionally after a header.

    `file` is a path below the folder (or below its images/); the id is its name without extension.
    An image without tags has nothing after the comma. Class names come from `classes.txt` (one per
    line, in the order of the labels 1..C of the masks) where it exists, else from labels.csv, in
    alphabetical order. Masks are in `root/masks`, if there are any.

    Args:
        root: the folder.
        split: name of `<split>.txt` in the folder, with one id per line; without any such list,
            "train" means every line of labels.csv.
        ids: instead of a split, ids or a text file with one per line.
        saliency: folder of `<id>.png`; default `root/saliency`.

    Raises:
        InputError: a line of labels.csv that cannot be read, an image that is missing or listed
            twice, a class that is not in classes.txt, or an id without a line; with the file and
            line.
    """
    path = root / "labels.csv"
    rows = _read_rows(path)
    named = sorted({name for _, names, _ in rows.values() for name in names})
    fixed = root / "classes.txt"
    classes = read_classes(fixed) if fixed.exists() else check_classes(named, path)
    listing = _split_file(root, split) if ids is None else ids
    if listing is not None:
        listed = read_ids(listing)
        for id, place in zip(listed.ids, listed.places, strict=True):
            if id not in rows:
                raise InputError(f"{place}: id {id!r} has no line in {path}")
        chosen, source = listed.ids, split if ids is None else listed.source
    else:
        chosen, source = tuple(rows), split
    images, tags = {}, np.zeros((len(chosen), len(classes)), np.uint8)
    for n, id in enumerate(chosen):
        file, names, line = rows[id]
        images[id] = _image(root, file, f"{path}, line {line}")
        for name in names:
            if name not in classes:
                raise InputError(f"{path}, line {line}: class {name!r} is not in {fixed}")
            tags[n, classes.index(name)] = 1
    return Dataset(
        name=root.name,
        root=root,
        split=source,
        classes=classes,
        ids=chosen,
        tags=tags,
        images=images,
        masks=find_pngs(root / "masks", chosen),
        saliencies=find_pngs(saliency_folder(root, saliency), chosen),
    )


def _read_rows(path: Path) -> dict[str, tuple[str, list[str], int]]:
    """id -> (file, class names, line)."""
    rows: dict[str, tuple[str, list[str], int]] = {}
    reader = csv.reader(io.StringIO(read_text(path)), strict=True)
    try:
        for row in reader:
            cells, line = [cell.strip() for cell in row], reader.line_num
            if not any(cells) or (
                not rows and cells[0].lower() == "file" and cells[-1].lower() in _HEADINGS
            ):
                continue
            if len(cells) != 2 or not cells[0]:
                raise InputError(
                    f"{path}, line {line}: expected file,class[;class...], got {','.join(row)!r}"
                )
            id = Path(cells[0]).stem
            check_id(id, f"{path}, line {line}")
            if id in rows:
                raise InputError(
                    f"{path}, line {line}: id {id!r} is listed more than once, "
                    f"first on line {rows[id][2]}"
                )
            names = [name for name in map(str.strip, cells[1].split(";")) if name]
            rows[id] = (cells[0], names, line)
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not readable as CSV ({error})") from None
    if not rows:
        raise InputError(f"{path}: lists no image")
    return rows


def _split_file(root: Path, split: str) -> Path | None:
    """The split's id list; None for "train" in a folder without lists: then it means all images."""
    path = root / f"{split}.txt"
    known = sorted(p.stem for p in root.glob("*.txt") if p.name != "classes.txt")
    if path.is_file() and path.name != "classes.txt":
        return path
    if known or split != "train":
        raise InputError(
            f"{path}: no such id list; {root} has the splits: {', '.join(known) or 'train'}"
        )
    return None


def _image(root: Path, file: str, place: str) -> Path:
    if Path(file).is_absolute() or ".." in Path(file).parts:
        raise InputError(f"{place}: {file!r} must be a path below {root}")
    for candidate in (root / file, root / "images" / file):
        if os.path.lexists(candidate):  # whether it can be read is checked later
            return candidate
    raise InputError(f"{place}: no such image {str(root / file)!r}")
