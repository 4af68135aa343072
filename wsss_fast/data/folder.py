"""The folder layout, for your own data: any images, and a labels.csv that tags them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from wsss_fast.data.class_names import (
    check_classes,
    class_list,
    ordered,
    read_classes,
    remark_on_order,
    unknown_class,
)
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.labels_csv import Row, read_rows
from wsss_fast.data.listing import (
    find_pngs,
    read_ids,
    truth_folders,
    unused_pngs,
)
from wsss_fast.data.names import Folders, KnownIds, is_image
from wsss_fast.data.saliency_files import find_saliencies
from wsss_fast.data.text import lines_of, read_text
from wsss_fast.engine import remarks
from wsss_fast.errors import InputError


def is_folder(root: Path) -> bool:
    """Whether `root` has the folder layout."""
    return (root / "labels.csv").is_file()


def load_folder(
    root: Path,
    split: str,
    ids: Sequence[str] | Path | None,
    saliency: Path | None,
    truth: str | Path | None = None,
    score_on: str | None = None,
) -> Dataset:
    """Read a folder with `labels.csv`: lines `file,class[;class...]`, optionally after a header.

    `file` is a path below the folder (or below its images/); the id is its name without extension.
    An image without tags has nothing after the comma. Class names come from `classes.txt` (one per
    line, in the order of the labels 1..C of the masks; see `read_classes`) where it exists, else
    from labels.csv, in the order of `class_names.ordered`. Masks are in `root/masks`, if there are
    any.

    Args:
        root: the folder.
        split: name of `<split>.txt` in the folder; without any such list, "train" means every line
            of labels.csv.
        ids: instead of a split, ids or a text file with one per line.
        saliency: folder of `<id>.png`; default `root/saliency`.
        truth: folder of true masks; default `root/masks`.
        score_on: name of another `<name>.txt`, whose images are scored; default "all".

    Raises:
        InputError: a line that cannot be read, an image that is missing or listed twice, a class
            that is not in classes.txt, or an id without a line; with the file and line.
    """
    path, fixed = root / "labels.csv", class_list(root)
    given = None if fixed is None else read_classes(fixed)
    images_of = _Images(root)
    rows = read_rows(path, images_of.find, given)
    known = KnownIds(rows)
    classes = given or _classes_of(rows, path)
    listing = _split_file(root, split, known) if ids is None else ids
    chosen, source = tuple(rows), split
    if listing is not None:
        files = {id: row.path for id, row in rows.items() if row.path is not None}
        listed = read_ids(
            listing, known, lambda id: f"id {id!r} has no line in {path}", files=files
        )
        chosen, source = listed.ids, split if ids is None else listed.source
    images, tags = {}, np.zeros((len(chosen), len(classes)), np.uint8)
    for n, id in enumerate(chosen):
        row = rows[id]
        if row.path is None:
            raise InputError(images_of.missing(row.file, f"{path}, line {row.line}"))
        images[id] = row.path
        for name in row.classes:
            if name not in classes:
                assert fixed is not None
                unknown = unknown_class(name, classes, fixed)
                raise InputError(f"{path}, line {row.line}: {unknown}")
            tags[n, classes.index(name)] = 1
    masks = truth_folders(root, truth, ["masks"])
    loaded = Dataset(
        name=root.name,
        root=root,
        split=source,
        classes=classes,
        ids=chosen,
        tags=tags,
        images=images,
        masks=find_pngs(masks, chosen),
        saliencies=find_saliencies(root, saliency, chosen),
        unused_masks=unused_pngs(masks, rows),
        layout="labels.csv",
    )
    if score_on in (None, "all"):
        return loaded
    scoring = _split_file(root, score_on, known)
    return loaded.score_only(score_on, rows if scoring is None else read_ids(scoring, known).ids)


def _classes_of(rows: Mapping[str, Row], path: Path) -> tuple[str, ...]:
    """The classes of labels.csv in the order of their labels."""
    lines = {name: row.line for row in [*rows.values()][::-1] for name in row.classes}
    names = ordered(lines)
    classes = check_classes(names, path, [f"{path}, line {lines[name]}" for name in names])
    remark_on_order(classes, path)
    return classes


class _Images:
    """The images of a folder and of its images/, by the paths in labels.csv."""

    def __init__(self, root: Path):
        self.root = root
        self._folders: dict[Path, Folders] = {}

    def find(self, file: str) -> Path | None:
        """The file of a path as listed; the one in images/ only if there is no other."""
        found = [path for parent in self._parents(file) if (path := self._look(parent, file))]
        if len(found) > 1:
            remarks.add(
                f"{self.root}: photos are read from here, though images/ has files of the "
                "same name",
                file,
            )
        return found[0] if found else None

    def missing(self, file: str, place: str) -> str:
        """The text of the error for a file that `find` does not find."""
        path = Path(file)
        if path.is_absolute() or ".." in path.parts:
            return f"{place}: {file!r} must be a path below {self.root}"
        name = _slashes(file).rpartition("/")[2]
        near = next(filter(None, (self._files(p).near(name) for p in self._parents(file))), "")
        return f"{place}: no such image {str(self.root / file)!r}{near}"

    def _parents(self, file: str) -> list[Path]:
        """The folders in which a listed file may be."""
        relative = Path(_slashes(file)).parent
        if relative.is_absolute() or ".." in relative.parts:
            return []
        return [self.root / relative, self.root / "images" / relative]

    def _files(self, parent: Path) -> Folders:
        if parent not in self._folders:
            self._folders[parent] = Folders(parent)
        return self._folders[parent]

    def _look(self, parent: Path, file: str) -> Path | None:
        files = self._files(parent)
        name = _slashes(file).rpartition("/")[2]
        found = files.find(name) if name else None
        if found is None and name and not is_image(name):
            found = files.find_image(name, suffix="")
        return found


def _slashes(file: str) -> str:
    return file.replace("\\", "/")


def _split_file(root: Path, split: str, known: KnownIds) -> Path | None:
    """The split's id list; None for "train" in a folder without lists: then it means all images."""
    path = root / f"{split}.txt"
    if path.is_file() and path.name != "classes.txt":
        return path
    texts = [p for p in sorted(root.iterdir()) if p.suffix.lower() == ".txt"]
    lists = [p for p in texts if p.name != "classes.txt" and _is_list(p, known)]
    if lists or split != "train":
        names = ", ".join(p.stem if p.suffix == ".txt" else p.name for p in lists) or "train"
        raise InputError(f"{path}: no such id list; {root} has the splits: {names}")
    return None


def _is_list(path: Path, known: KnownIds) -> bool:
    """Whether a text file begins with an id of the data set, so that it is no README."""
    try:
        first = next((line for line in lines_of(read_text(path)) if line.strip()), None)
        return first is not None and bool(read_ids([first], known).ids)
    except InputError:
        return False
