"""The masks that are exported: a folder of label PNGs, read one after another."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsss_fast.data.class_names import check_classes, read_classes
from wsss_fast.data.label_folder import LABEL_NAMES
from wsss_fast.data.names import IMAGE_SUFFIXES, Folders, check_id
from wsss_fast.data.text import read_text
from wsss_fast.engine import remarks
from wsss_fast.engine.left_out import check_left_out
from wsss_fast.engine.progress import track
from wsss_fast.errors import InputError
from wsss_fast.readers.label_maps import IGNORE, check_folder_values, check_size, read_labels
from wsss_fast.readers.photos import image_size, remark_orientation
from wsss_fast.stages.paired_files import files_by_stem


@dataclasses.dataclass
class Masks:
    """Label PNGs of a folder; iterating gives (id, labels uint8 [H, W]), sorted by id.

    A mask that cannot be used is left out, and its reason is added to `problems`, which each
    iteration begins anew. An iteration in which none can be used ends with an InputError, so that
    a file written by `engine.files.atomic_write` around it does not appear.

    Attributes:
        folder: of the PNGs.
        classes: names of the classes 1..C, in the order of their labels.
        files: PNG of each id.
        photos: the photos by name, or None if they are not given.
        problems: why masks are left out, each with its file.
        with_ignored: PNGs that have ignored pixels, as the last iteration found.
    """

    folder: Path
    classes: tuple[str, ...]
    files: Mapping[str, Path]
    photos: Folders | None = None
    problems: list[str] = dataclasses.field(default_factory=list)
    with_ignored: list[Path] = dataclasses.field(default_factory=list)

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        self.problems.clear()
        present: dict[Path, tuple[int, ...]] = {}
        with remarks.collected():
            for id, path in track(self.files.items(), "export masks", total=len(self.files)):
                try:
                    labels = self._read(id, path)
                except InputError as error:
                    self.leave_out(str(error))
                    continue
                present[path] = tuple(np.flatnonzero(np.bincount(labels.reshape(-1))))
                yield id, labels
            if len(self.problems) == len(self.files):
                more = f"; none of {len(self.files)} masks can be used" if len(self) > 1 else ""
                raise InputError(self.problems[0] + more)
            check_folder_values(present, "masks", needed=False)
            self.with_ignored = [path for path, values in present.items() if IGNORE in values]

    def leave_out(self, problem: str) -> None:
        """Note why a mask is not exported; with its file."""
        self.problems.append(problem)

    def photo(self, id: str) -> Path | None:
        """The photo of a mask; None if the photos are not given.

        Raises:
            InputError: their folder has none of this name.
        """
        if self.photos is None:
            return None
        found = self.photos.find_image(id)
        if found is None:
            folder = self.photos.folders[0]
            raise InputError(
                f"{self.files[id]}: {folder} has no photo {id!r} (.jpg, .png, ...)"
                f"{self.photos.near(id + '.jpg')}"
            )
        return found

    def file_name(self, id: str) -> str:
        """Name of the photo's file, without its folder; `<id>.jpg` if the photos are not given."""
        photo = self.photo(id)
        return f"{id}.jpg" if photo is None else photo.name

    def check(self, out: Path) -> None:
        """Name the masks that the last iteration left out; called when the others are written.

        Pixels that are ignored are remarked as background, which they are in the formats that have
        no such label.

        Args:
            out: what was written.

        Raises:
            RunError: there are any.
        """
        with remarks.collected():
            for path in self.with_ignored:
                text = "ignored pixels (255) belong to no class, and are exported as background"
                remarks.add(text, path, unit="mask", of=len(self))
        check_left_out("export", self.problems, len(self), out, unit="masks")

    def _read(self, id: str, path: Path) -> np.ndarray:
        check_id(id, str(path))
        labels = read_labels(path, len(self.classes))
        photo = self.photo(id)
        if photo is not None:
            check_size(path, labels.shape, photo, image_size(photo))
            remark_orientation(photo)
        return labels


def open_masks(
    folder: str | Path,
    *,
    classes: Sequence[str] | str | Path | None = None,
    images: str | Path | None = None,
) -> Masks:
    """The label PNGs of a folder, such as `wsss-fast predict` writes; nothing is read yet.

    Args:
        folder: folder of `<id>.png`; 0 is background, 255 ignore.
        classes: names of the classes 1..C in the order of their labels, or a file of them: one per
            line, or a `classes.json`; None: `classes.json` in the folder; without one the classes
            are called by their labels, with a remark.
        images: folder of the photos, for the names of their files, and to compare sizes; None: each
            photo is `<id>.jpg`.

    Raises:
        InputError: a folder or file is missing, empty or not what it should be.
    """
    folder = Path(folder)
    _check_folder(folder, "masks")
    files = dict(sorted(files_by_stem(folder, (".png",)).items()))
    if not files:
        below = next((p for p in sorted(folder.glob("*/*.png")) if p.parent.is_dir()), None)
        hint = f"; {below.parent} has some" if below is not None else ""
        raise InputError(f"masks: {folder} has no label PNGs (<id>.png){hint}")
    photos = None
    if images is not None:
        _check_folder(Path(images), "images")
        photos = Folders(Path(images))
        if not photos.stems():
            inner = [p.name for p in sorted(Path(images).iterdir()) if Folders(p).stems()][:3]
            hint = f"; folders in it that have some: {', '.join(inner)}" if inner else ""
            raise InputError(
                f"images: {images} has no photos ({', '.join(IMAGE_SUFFIXES[:5])}, ...){hint}"
            )
    names = _class_names(folder, classes) or _labels_of(files.values())
    if not names:
        raise InputError(
            f"classes: {folder} has no {LABEL_NAMES}, and no label PNG in it that can be read "
            "shows a class; give a file of class names, one per line in the order of the labels"
        )
    return Masks(folder, names, files, photos)


def output_file(out: str | Path, *suffixes: str) -> Path:
    """The path of a file to write.

    Args:
        out: its path.
        suffixes: that its name may end with, the usual one first.

    Raises:
        InputError: it ends otherwise, or is a folder.
    """
    path = Path(out)
    if path.is_dir():
        raise InputError(
            f"out: {path}: is a folder; name a file in it: {path / 'masks'}{suffixes[0]}"
        )
    if not path.name.lower().endswith(suffixes):
        raise InputError(f"out: {path}: the name must end with {' or '.join(suffixes)}")
    if path.name == LABEL_NAMES:
        raise InputError(f"out: {path}: is the name of the file of class names; choose another one")
    return path


def _check_folder(folder: Path, what: str) -> None:
    if not folder.is_dir():
        found = "is a file; name its folder" if folder.exists() else "no such folder"
        raise InputError(f"{what}: {folder}: {found}")


def _labels_of(files: Iterable[Path]) -> tuple[str, ...]:
    """Names for classes without any: their labels, 1 to the highest in the files."""
    highest = 0
    for path in track(list(files), "read labels"):
        with contextlib.suppress(InputError):  # the export names the file
            labels = read_labels(path)
            highest = max(highest, int(labels.max(where=labels != IGNORE, initial=0)))
    return tuple(str(label) for label in range(1, highest + 1))


def _class_names(
    folder: Path, classes: Sequence[str] | str | Path | None
) -> tuple[str, ...] | None:
    if classes is None:
        path = folder / LABEL_NAMES
        if path.is_file():
            return _from_json(path)
        text = f"no {LABEL_NAMES} and no other class names: classes are called by their labels"
        remarks.add(text, folder, unit="folder")
        return None
    if isinstance(classes, str | Path):
        path = Path(classes)
        if not path.is_file():
            found = "is a folder" if path.is_dir() else "no such file"
            raise InputError(
                f"classes: {path}: {found}; give a file of class names, one per line in the order "
                "of the labels (without background)"
            )
        return _from_json(path) if path.suffix.lower() == ".json" else read_classes(path)
    names = list(classes)
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"classes: {names!r}: must be names")
    return check_classes(names, Path("classes"))


def _from_json(path: Path) -> tuple[str, ...]:
    """Class names of a `classes.json`: {"0": "background", "1": name, ..., "255": "ignore"}."""
    expected = f'{path}: must be {{"0": "background", "1": "NAME", ..., "255": "ignore"}}'
    try:
        content: Any = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{expected}, but is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{expected}, has a {type(content).__name__}")
    names = {key: name for key, name in content.items() if key not in ("0", str(IGNORE))}
    for number, (key, name) in enumerate(names.items(), 1):
        if key != str(number) or not isinstance(name, str):
            raise InputError(
                f"{expected}, has {json.dumps({key: name})[:60]} as its class {number}"
            )
    return check_classes(list(names.values()), path)
