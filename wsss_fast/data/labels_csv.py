"""`labels.csv`: the tags of a folder of images."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from wsss_fast.data.class_names import clean_name, is_background, is_ignored
from wsss_fast.data.listing import FILE_HEADINGS
from wsss_fast.data.names import check_id, is_image, without_suffix
from wsss_fast.data.text import lines_of, read_text, unprintable
from wsss_fast.engine import remarks
from wsss_fast.errors import InputError

_CLASS_HEADINGS = (
    *("class", "classes", "class_name", "classname", "category", "categories", "class name"),
    *("label", "labels", "tag", "tags", "target", "species"),
)
_MISSING = ("nan", "null", "n/a", "na", "<na>")  # how programs write an empty cell
_WANTED = "expected file,class[;class...]"

# A path as listed -> the file below the data's folder, or None.
FindImage = Callable[[str], Path | None]


@dataclasses.dataclass
class Row:
    """The tags of an image.

    Attributes:
        file: its path as listed.
        path: its file, or None if there is none.
        classes: class names.
        line: line of labels.csv.
    """

    file: str
    path: Path | None
    classes: list[str]
    line: int


def read_rows(
    path: Path, find: FindImage, classes: Collection[str] | None, *, others: bool = False
) -> dict[str, Row]:
    """Rows of labels.csv by image id, which is the file's name without extension.

    A file on several lines has the classes of all of them, with a remark. `background` as a class
    is left out, with a remark.

    Args:
        path: labels.csv.
        find: function from a path as listed to the file.
        classes: the names in classes.txt; None if there is none.
        others: whether lines of images that `find` does not know are expected.

    Raises:
        InputError: a line that is not a file and its classes, or two files with the same id; with
            the line and what to change.
    """
    text = read_text(path)
    lines = lines_of(text)
    separator = re.fullmatch(r"\"?sep=(.)\"?,*", lines[0].strip(), re.IGNORECASE)
    if separator is not None and separator[1] != ",":
        raise InputError(
            f"{path}, line 1: {separator[0]!r}, but {_WANTED}; remove this line, and write commas "
            "between the columns"
        )
    rows: dict[str, Row] = {}
    reader = csv.reader(io.StringIO(text), strict=True, skipinitialspace=True)
    try:
        is_first = True
        for raw in reader:
            cells = [cell.strip() for cell in raw]
            while len(cells) > 2 and not cells[-1]:  # spreadsheets write empty columns
                cells.pop()
            if not any(cells) or (separator is not None and reader.line_num == 1):
                continue
            place = f"{path}, line {reader.line_num}"
            header = is_first and _is_header(cells, find, path, place)
            is_first = False
            if not header:
                if not rows and not others and find(cells[0]) is None:
                    _check_first(cells, place)
                _add_row(rows, cells, raw, reader.line_num, path, find, classes)
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not readable as CSV ({error})") from None
    if not rows:
        raise InputError(f"{path}: lists no image")
    if classes is None:
        _check_lists(rows, path)
    return rows


def _is_header(cells: list[str], find: FindImage, path: Path, place: str) -> bool:
    """Whether the first row is a header.

    Raises:
        InputError: it is one of other columns.
    """
    words = [cell.casefold() for cell in cells]
    found = find(cells[0])
    if is_image(cells[0]) or (found is not None and not found.is_dir()):
        return False
    if len(words) == 2 and words[0] in FILE_HEADINGS and words[1] in _CLASS_HEADINGS:
        if words[0] != "file":
            remarks.add(f"{','.join(cells)!r} in line 1 is read as the header file,class", path)
        return True
    if words[0] in (*FILE_HEADINGS, *_CLASS_HEADINGS) or words[-1] in _CLASS_HEADINGS:
        raise InputError(
            f"{place}: the header {','.join(cells)!r} is not file,class; {_WANTED}, in this order"
        )
    return False


def _check_first(cells: list[str], place: str) -> None:
    """Refuse a first row that is neither a header nor of an image."""
    if len(cells) == 2 and cells[0] and not is_image(cells[0]):
        raise InputError(
            f"{place}: no such image {cells[0]!r}; a header must be file,class, an image needs its "
            "extension"
        )


def _add_row(
    rows: dict[str, Row],
    cells: list[str],
    raw: list[str],
    line: int,
    path: Path,
    find: FindImage,
    known: Collection[str] | None,
) -> None:
    """Add the row of a line.

    Raises:
        InputError: as `read_rows`.
    """
    place = f"{path}, line {line}"
    if len(cells) != 2 or not cells[0]:
        raise InputError(f"{place}: {_WANTED}, got {','.join(raw)!r}{_cure(cells)}")
    found = find(cells[0])
    file = found.name if found is not None else cells[0].replace("\\", "/").rpartition("/")[2]
    id = Path(file).stem if found is not None else without_suffix(file)
    check_id(id, place)
    row = Row(cells[0], found, _classes_of(cells[1], place, known), line)
    earlier = rows.get(id)
    if earlier is None:
        rows[id] = row
        return
    same = earlier.path == row.path if row.path is not None else earlier.file == row.file
    if not same:
        raise InputError(
            f"{place}: id {id!r} is listed more than once, first on line {earlier.line}; "
            f"{earlier.file!r} and {row.file!r} need different names"
        )
    remarks.add(
        f"{path.name}: images are on several lines; their classes are put together",
        id,
        unit="image",
    )
    earlier.classes += [name for name in row.classes if name not in earlier.classes]


def _cure(cells: list[str]) -> str:
    """What is wrong with the columns of a line, for the message."""
    if len(cells) > 2:
        return "; separate the classes of an image by ;"
    only = cells[0]
    if "\t" in only:
        return "; the columns are separated by tabs; write commas"
    if ";" in only:
        return "; the columns are separated by semicolons; write a comma between file and class"
    if "," in only:
        return "; the whole line is in quotes; remove them"
    return "; an image without tags has nothing after the comma" if is_image(only) else ""


def _classes_of(cell: str, place: str, known: Collection[str] | None) -> list[str]:
    """Class names of a cell `class[;class...]`.

    Raises:
        InputError: a name that is probably something else; a classes.txt that lists it allows it.
    """
    names = []
    for part in cell.split(";"):
        name = clean_name(part)
        if unprintable(part.strip()):
            raise InputError(
                f"{place}: class {part.strip()!r} has a character that cannot be printed"
            )
        if not name or name in names:
            continue
        if known is None or name not in known:
            if is_background(name) or is_ignored(name):
                remarks.add(
                    f"{name!r} is not a class, since label 0 is background and 255 ignored; left "
                    "out",
                    place,
                    unit="line",
                )
                continue
            if name.casefold() in _MISSING:
                raise InputError(
                    f"{place}: class {name!r} looks like a missing value; an image without tags "
                    "has nothing after the comma"
                )
            if re.search(r"[,|\t\[\]{}\"]", name) or name[0] == name[-1] == "'":
                raise InputError(
                    f"{place}: class {name!r} looks like a list; separate classes by ;, or list "
                    "this name in classes.txt"
                )
        names.append(name)
    return names


def _check_lists(rows: Mapping[str, Row], path: Path) -> None:
    """Refuse a class such as "cat dog" or "cat/dog" if all of its parts are classes themselves."""
    names = {name: row.line for row in rows.values() for name in row.classes}
    for name, line in names.items():
        parts = [part for part in re.split(r"[ /+&]+", name) if part]
        if len(parts) > 1 and all(part in names for part in parts):
            raise InputError(
                f"{path}, line {line}: class {name!r} looks like {' and '.join(parts)}; separate "
                "them by ;, or list all classes in classes.txt"
            )
