"""Image tags from a file of their own: arrays of public code, lines of numbers, a csv.

All of them are matched with the images of a data set by name or number.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from wsss_fast.data.class_names import MAX_CLASSES
from wsss_fast.data.labels_csv import read_rows
from wsss_fast.data.listing import readings
from wsss_fast.data.names import KnownIds, near
from wsss_fast.data.text import lines_of, read_text
from wsss_fast.engine import remarks
from wsss_fast.errors import InputError
from wsss_fast.readers import first_bytes
from wsss_fast.readers.image_tags import Key, read_tag_arrays

_VOC_ID = re.compile(r"([0-9]{4})_([0-9]{6})")
_NUMBERED = re.compile(r"(?:COCO_([a-z]+[0-9]{4})_)?([0-9]{1,18})")
_CLASSES = re.compile(r"(?:[ \t]+-?[0-9]{1,9})*$")
_EXAMPLE = "an id and the numbers of its classes, counted from 0, as in '2007_000032 0 14'"


class TagFile:
    """The tags of images, opened; `by_id` matches them with the images of a data set.

    Attributes:
        path: the file.
        kind: "csv" with lines `file,class[;class...]`, "list" with lines of an id and class
            numbers, "dictionary" of arrays by image, or "array" of all images in their order.
    """

    def __init__(self, path: Path):
        """Open a file, whose content decides on its kind.

        Raises:
            InputError: there is no such file, or it holds something else.
        """
        self.path = path
        self._keys: tuple[Key, ...] | None = None
        self._tags = np.zeros((0, 0), np.uint8)
        self._lines: list[str] = []
        if not path.is_file():
            what = "is a directory, not a file of image tags" if path.is_dir() else "no such file"
            raise InputError(f"{path}: {what}")
        try:
            described = first_bytes.describe(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read as image tags ({error.strerror})") from None
        if described == first_bytes.NUMPY_ARRAY:
            self._keys, self._tags = read_tag_arrays(path)
            self.kind = "array" if self._keys is None else "dictionary"
        elif described is not None and not described.startswith("text "):
            raise InputError(f"{path}: cannot be read as image tags: it is {described}")
        else:
            self._lines = lines_of(read_text(path))
            first = next((line for line in self._lines if line.strip()), "")
            is_csv = path.suffix.lower() == ".csv" or "," in first
            self.kind = "csv" if is_csv else "list"

    def __len__(self) -> int:
        """Number of images, tagged or not."""
        return len(self._tags) or sum(bool(line.strip()) for line in self._lines)

    def by_id(
        self, ids: Collection[str], classes: Sequence[str], order: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Tags uint8 [C] of those images that the file has.

        Args:
            ids: the images of the data set.
            classes: its class names.
            order: the images of an array's rows; None if it is not known.

        Raises:
            InputError: the file has other classes than the data set, two entries for an image, rows
                for other images, or a line that cannot be read.
        """
        find = _Finder(ids)
        if self.kind == "csv":
            return self._of_csv(find, classes)
        if self.kind == "list":
            return self._of_list(find, classes)
        if self._tags.shape[1] != len(classes):
            raise InputError(self._other_classes(classes))
        keys = self._keys
        if keys is None:
            if order is None:
                raise InputError(
                    f"{self.path}: has rows of tags without names, and the images no order; give "
                    "tags by name, such as a csv; or, where there is --ids, a list in their order"
                )
            keys = tuple(order)
            if len(keys) != len(self._tags):
                raise InputError(
                    f"{self.path}: has {len(self._tags)} rows of tags, one per image, but there "
                    f"are {len(keys)} images"
                )
        found: dict[str, np.ndarray] = {}
        of: dict[str, Key] = {}
        for key, tags in zip(keys, self._tags, strict=True):
            id = find(key)
            if id in of:
                raise InputError(f"{self.path}: {of[id]!r} and {key!r} are both image {id!r}")
            if id is not None:
                found[id], of[id] = tags, key
        return found

    def of_all(
        self, ids: Sequence[str], classes: Sequence[str], order: Sequence[str]
    ) -> np.ndarray:
        """Tags uint8 [N, C] of all images, as `by_id`.

        Raises:
            InputError: the file lacks an image, or as `by_id`.
        """
        found = self.by_id(ids, classes, order)
        missing = [id for id in ids if id not in found]
        if missing:
            there = near(missing[0], self._names()) or f"; it has images such as {self.example()}"
            raise InputError(
                f"{self.path}: has no tags of image {missing[0]!r} ({len(missing)} of the "
                f"{len(ids)} images are missing){there}"
            )
        return np.stack([found[id] for id in ids])

    @property
    def num_classes(self) -> int | None:
        """Number of classes of arrays; None for text, which does not tell."""
        return None if self._lines else self._tags.shape[1]

    def _names(self) -> list[str]:
        """The names of its images, where they can be told without a data set."""
        lines = [_CLASSES.sub("", line.split(",")[0].strip()) for line in self._lines]
        return lines if self._keys is None else [key for key in self._keys if isinstance(key, str)]

    def example(self) -> str:
        """The first image of the file, for a message."""
        if self._keys is not None:
            return repr(self._keys[0])
        first = next((line for line in self._lines if line.strip()), "")
        return repr(first.split(",")[0].split()[0] if first.strip(", \t") else first)

    def _other_classes(self, classes: Sequence[str]) -> str:
        width = self._tags.shape[1]
        more = ""
        if width == len(classes) + 1:
            more = "; if its first column is the background, remove that column"
        elif self._keys is not None:
            more = f"; its images are such as {self.example()}: is it of another data set?"
        return (
            f"{self.path}: has tags of {width} classes, the data set has {len(classes)} "
            f"({', '.join(classes[:3])}, ...){more}"
        )

    def _of_csv(self, find: _Finder, classes: Sequence[str]) -> dict[str, np.ndarray]:
        def find_file(file: str) -> Path | None:
            id = find(file)
            return None if id is None else Path(f"{id}.jpg")

        found = {}
        for row in read_rows(self.path, find_file, classes, others=True).values():
            if row.path is not None:
                tags = found[row.path.stem] = np.zeros(len(classes), np.uint8)
                for name in row.classes:
                    if name not in classes:
                        listed = f"{', '.join(classes[:4])}{', ...' if len(classes) > 4 else ''}"
                        raise InputError(
                            f"{self.path}, line {row.line}: class {name!r} is none of the data "
                            f"set's ({listed})"
                        )
                    tags[classes.index(name)] = 1
        return found

    def _of_list(self, find: _Finder, classes: Sequence[str]) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        lines: dict[str, int] = {}
        numbers: set[int] = set()
        for n, line in enumerate(self._lines, 1):
            if not line.strip():
                continue
            place = f"{self.path}, line {n}"
            id, present = _read_line(line, find, place)
            if id is None:
                continue
            if id in lines:
                raise InputError(f"{place}: image {id!r} is already on line {lines[id]}")
            if present and max(present) >= len(classes):
                raise InputError(
                    f"{place}: class {max(present)}, but the data set's {len(classes)} classes are "
                    f"numbered 0..{len(classes) - 1}"
                )
            lines[id], found[id] = n, np.zeros(len(classes), np.uint8)
            found[id][present] = 1
            numbers.update(present)
        if len(numbers) > 1 and 0 not in numbers:
            text = f"class 0, {classes[0]!r}, is in no line; numbers of classes count from 0"
            remarks.add(text, self.path)
        return found


def _read_line(line: str, find: _Finder, place: str) -> tuple[str | None, list[int]]:
    """The image of a line, None if the data set does not have it, and its class numbers.

    A name may end with a space and a number ("IMG 1"): the name that the data set has is meant.

    Raises:
        InputError: a line of another form, or one that can be read in two ways.
    """
    splits = _splits(line.strip())
    name, numbers = next(splits)
    if len(numbers) > MAX_CLASSES:
        raise InputError(
            f"{place}: has {len(numbers)} numbers of classes, at most {MAX_CLASSES} are possible"
        )
    ends = [(name, numbers), *splits]
    if any(number < 0 for number in numbers):
        raise InputError(
            f"{place}: {line.strip()!r}: -1 means that a class is absent in VOC's ImageSets/Main; "
            f"expected {_EXAMPLE}"
        )
    known = [(id, numbers) for name, numbers in ends if (id := find(name)) is not None]
    if len(known) > 1:
        raise InputError(
            f"{place}: {line.strip()!r} may mean image {known[0][0]!r} or {known[1][0]!r}; use a "
            "csv of file,class"
        )
    if not known and not numbers and len(line.split()) > 1:
        raise InputError(
            f"{place}: got {line.strip()!r}, expected {_EXAMPLE}; class names need a csv of "
            "file,class"
        )
    return known[0] if known else (None, [])


def _splits(line: str) -> Iterator[tuple[str, list[int]]]:
    """A line as a name and the numbers after it, most numbers first."""
    match = _CLASSES.search(line)
    assert match is not None  # it may be empty
    name, numbers = line[: match.start()], match[0].split()
    yield name, [int(number) for number in numbers]
    for n, end in enumerate(re.finditer(r"\S+", match[0]), 1):
        yield line[: match.start() + end.end()], [int(number) for number in numbers[n:]]


class _Finder:
    """From a name or number in a file of tags to the id of the data set."""

    def __init__(self, ids: Collection[str]):
        self._known = KnownIds(ids)
        self._by_number: dict[int, list[str]] = {}
        for id in ids:
            number = _number(id)
            if number is not None:
                self._by_number.setdefault(number, []).append(id)

    def __call__(self, key: Key) -> str | None:
        number: int | None
        part = ""
        if isinstance(key, str):
            names = list(readings(key))
            id = next(filter(None, map(self._known.find, names)), None)
            if id is not None:
                return id
            number, part = _number(names[-1]), _part(names[-1])
        else:
            number = key
        ids = [] if number is None else self._by_number.get(number, [])
        # A number is the same image in train and val; a name with its split is not.
        same = len(ids) == 1 and (not part or _part(ids[0]) in ("", part))
        return ids[0] if same else None


def _number(name: str) -> int | None:
    """The number that public code makes of VOC's and COCO's ids; None for other names."""
    voc = _VOC_ID.fullmatch(name)
    if voc is not None:
        return int(voc[1] + voc[2])
    numbered = _NUMBERED.fullmatch(name)
    return None if numbered is None else int(numbered[2])


def _part(name: str) -> str:
    """The split in a COCO file name, "" if there is none."""
    numbered = _NUMBERED.fullmatch(name)
    return "" if numbered is None else numbered[1] or ""
