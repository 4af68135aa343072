"""The folder layout, for your own data: any images, and a labels.csv that tags them."""

from __future__ import annotations

import dataclasses
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
    csv: Path | None = None,
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
        csv: a file with such lines instead of labels.csv; a classes.txt beside it is used, too.

    Raises:
        InputError: a line that cannot be read, an image that is missing or listed twice, a class
            that is not in classes.txt, or an id without a line; with the file and line.
    """
    path = root / "labels.csv" if csv is None else csv
    fixed = class_list(root) or class_list(path.parent)
    given = None if fixed is None else read_classes(fixed)
    images_of = _Images(root)
    rows = read_rows(path, images_of.find, given)
    classes = given or _classes_of(rows, path)
    files = {id: row.path for id, row in rows.items() if row.path is not None}
    chosen = Chosen.of(root, split, ids, list(rows), f"no line in {path}", files)
    if csv is not None and not chosen.is_listed:
        _remark_on_others(root, rows, csv)
    images, tags = {}, np.zeros((len(chosen.ids), len(classes)), np.uint8)
    for n, id in enumerate(chosen.ids):
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
    return chosen.data_set(classes, tags, images, saliency, truth, score_on, "labels.csv")


def _remark_on_others(root: Path, rows: Mapping[str, Row], csv: Path) -> None:
    """Remark photos of a folder that no line of a csv has."""
    stems = {id for id in Folders(root, root / "images").stems() if not id.startswith(".")}
    for id in sorted(stems - set(rows)):
        text = f"images have no tags in {csv.name} and are left out"
        remarks.add(text, id, unit="image", of=len(stems))


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The images of a folder that are used.

    Attributes:
        root: the folder.
        split: name of their list.
        ids: their ids.
        all: ids of all images of the folder.
        is_listed: whether a list has these ids.
    """

    root: Path
    split: str
    ids: tuple[str, ...]
    all: KnownIds
    is_listed: bool

    @classmethod
    def of(
        cls,
        root: Path,
        split: str | None,
        ids: Sequence[str] | Path | None,
        all: Sequence[str],
        lacks: str,
        files: Mapping[str, Path],
    ) -> Chosen:
        """Those of a list; all of them, if there is no list.

        Args:
            root: the folder.
            split: name of `<split>.txt`; None for all images.
            ids: instead of a split, ids or a text file.
            all: ids of all images.
            lacks: what an id has that is not among them, for the message: "no line in labels.csv".
            files: the images' files.

        Raises:
            InputError: there is no such list, or it has an id that is not among the images.
        """
        known, name = KnownIds(all), split if ids is None else None
        if ids is None and split is not None:
            ids = _split_file(root, split, known)
        if ids is None:
            return cls(root, split or "images", tuple(all), known, False)
        listed = read_ids(ids, known, lambda id: f"id {id!r} has {lacks}", files=files)
        return cls(root, name or listed.source, listed.ids, known, True)

    def data_set(
        self,
        classes: tuple[str, ...],
        tags: np.ndarray,
        images: dict[str, Path],
        saliency: Path | None,
        truth: str | Path | None,
        score_on: str | None,
        layout: str,
        untagged: str = "",
    ) -> Dataset:
        """The data set with the masks and saliency maps of the folder; `tags` is uint8 [N, C]."""
        masks = truth_folders(self.root, truth, ["masks"])
        loaded = Dataset(
            name=self.root.name or str(self.root),
            root=self.root,
            split=self.split,
            classes=classes,
            ids=self.ids,
            tags=tags,
            images=images,
            masks=find_pngs(masks, self.ids),
            saliencies=find_saliencies(self.root, saliency, self.ids),
            unused_masks=unused_pngs(masks, self.all.ids()),
            layout=layout,
            tagged=not untagged,
            untagged=untagged,
        )
        if score_on in (None, "all"):
            return loaded
        scoring = _split_file(self.root, score_on, self.all)
        scored = self.all.ids() if scoring is None else read_ids(scoring, self.all).ids
        return loaded.score_only(score_on, scored)


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
