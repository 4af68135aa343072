"""Names of classes: their order, which is that of the labels, and what is not a class."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from wsss_fast.data.text import composed, lines_of, read_text, unprintable
from wsss_fast.engine import remarks
from wsss_fast.errors import InputError

MAX_CLASSES = 254  # labels are bytes: 0 is background, 255 ignore
_BACKGROUND = ("background", "bg")
_IGNORED = ("ignore", "ignored")
# Names that often mean label 0 or 255, but not always.
_UNSURE = ("void", "unlabeled", "unlabelled", "unknown", "none", "other", "ignore", "ignored")


def clean_name(name: str) -> str:
    """The name with accents in one Unicode form and each run of spaces as one plain space."""
    return " ".join(composed(name).split())


def alike(name: str) -> str:
    """What two names have in common that a reader takes for the same one."""
    visible = "".join(c for c in name if unicodedata.category(c) != "Cf")
    return clean_name(unicodedata.normalize("NFKC", visible)).casefold()


def is_background(name: str) -> bool:
    """Whether a name means the background, such as `_background_`; it has label 0 already."""
    return alike(name).strip("_-<>[]() ") in _BACKGROUND


def is_ignored(name: str) -> bool:
    """Whether a name means pixels that are ignored, such as labelme's `__ignore__`."""
    bare = alike(name).strip("_-<>[]() ")
    return bare in _IGNORED and bare != alike(name)


def class_list(root: Path) -> Path | None:
    """The folder's classes.txt, or None.

    Raises:
        InputError: its name is in another case, so that it would be overlooked.
    """
    for path in sorted(root.iterdir()):
        if path.name.lower() == "classes.txt" and path.name != "classes.txt":
            raise InputError(f"{path}: must be named classes.txt, in lower case")
    path = root / "classes.txt"
    return path if path.exists() else None


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names, one per line; the class in line c has label c in masks.

    A first line that means the background (`background`, `_background_`, in any case), or labelme's
    first two lines (`__ignore__`, `_background_`), are not counted, with a remark. Blank lines are
    skipped, with a remark unless they are at the end.

    Raises:
        InputError: as `check_classes`, or background is in another line.
    """
    lines = lines_of(read_text(path).rstrip())
    numbered = [(n, line) for n, line in enumerate(lines, 1) if line.strip()]
    if len(numbered) < len(lines) and numbered:
        remarks.add("blank lines in a list of classes are not counted in the labels", path)
    names = [name for _, name in numbered]
    places = [f"{path}, line {n}" for n, _ in numbered]
    if names and is_ignored(names[0]):
        if len(names) < 2 or not is_background(names[1]):
            raise InputError(
                f"{places[0]}: {names[0].strip()!r} must be followed by background, as in labelme; "
                "remove it if label 1 belongs to the next line"
            )
        names, places = names[1:], places[1:]
    if names and is_background(names[0]):
        remarks.add(
            f"{names[0].strip()!r} before the first class is not counted, since label 0 is "
            f"background; label 1 is {clean_name(names[1]) if names[1:] else 'missing'!r}",
            path,
        )
        names, places = names[1:], places[1:]
    return check_classes(names, path, places)


def check_classes(
    names: Sequence[str], path: Path, places: Sequence[str] | None = None
) -> tuple[str, ...]:
    """The class names read from `path`, cleaned, after a check.

    Args:
        names: class names; class c has label c + 1.
        path: file that they come from.
        places: place of each name, for messages.

    Raises:
        InputError: there are none, too many for a byte, two that are equal or differ only in case
            or in characters that look the same, one that means background, or one that is not
            printable.
    """
    if not 1 <= len(names) <= MAX_CLASSES:
        raise InputError(f"{path}: needs 1 to {MAX_CLASSES} classes, has {len(names)}")
    first: dict[str, int] = {}
    cleaned = [clean_name(name) for name in names]
    for n, (name, raw) in enumerate(zip(cleaned, names, strict=True)):
        place = places[n] if places is not None else str(path)
        if unprintable(raw.strip()):
            raise InputError(f"{place}: class {raw!r} has a character that cannot be printed")
        if not name:
            raise InputError(f"{place}: a class has an empty name")
        if is_background(name) or is_ignored(name):
            label = "0 is background" if is_background(name) else "255 is ignored"
            raise InputError(
                f"{place}: {name!r} is not a class, since label {label}; remove it, and number the "
                "labels of the masks 1..C in the order of the other names"
            )
        earlier = first.setdefault(alike(name), n)
        if earlier != n and cleaned[earlier] == name:
            raise InputError(f"{place}: class {name!r} is listed more than once")
        if earlier != n:
            where = "" if places is None else f" in {places[earlier]}"
            raise InputError(
                f"{place}: class {name!r} reads like {cleaned[earlier]!r}{where}; write both the "
                "same way"
            )
    _remark_on_labels(cleaned, path)
    return tuple(cleaned)


def _remark_on_labels(classes: Sequence[str], path: Path) -> None:
    """Remarks on names from which a reader may expect another label."""
    if all(map(_is_number, classes)):
        odd = next((n for n, name in enumerate(classes, 1) if int(name) != n), None)
        if odd is not None:
            remarks.add(
                f"class names are numbers, but not 1..{len(classes)}: class {classes[odd - 1]!r} "
                f"has label {odd} in masks; classes.txt lists the classes in the order of labels",
                path,
            )
    for n, name in enumerate(classes, 1):
        if alike(name).strip("_-<>[]() ") in _UNSURE:
            remarks.add(
                f"{name!r} is a class like any other, with label {n} in masks; 0 is background and "
                "255 ignored",
                path,
            )


def ordered(names: Iterable[str]) -> list[str]:
    """Names without a given order in the order of their labels.

    Whole numbers are in numerical order. Other names are in the order of their characters' codes,
    as `sorted` has it: upper case comes before lower case, accented letters after z, and "a10"
    before "a2"; see `remark_on_order`.
    """
    found = set(names)
    if all(map(_is_number, found)):
        return sorted(found, key=lambda name: (int(name), name))
    return sorted(found)


def remark_on_order(classes: Sequence[str], path: Path) -> None:
    """Say so where a reader would expect another order than that of `ordered`.

    Args:
        classes: names as ordered.
        path: file that they come from.
    """
    if list(classes) != sorted(classes, key=_reading_order):
        remarks.add(
            f"the labels 1..{len(classes)} follow the order {_short(classes)} (upper case first, "
            "digit by digit); a classes.txt sets another one",
            path,
        )


def _is_number(name: str) -> bool:
    return re.fullmatch(r"[0-9]{1,18}", name) is not None


def _reading_order(name: str) -> list[tuple[int, int, str]]:
    """Key of the order that a reader expects: case and accents aside, numbers by their value."""
    base = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    parts = re.split(r"([0-9]+)", base.casefold())
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts if p]


def _short(names: Sequence[str]) -> str:
    shown = ", ".join(names[:4])
    return f"{shown}, ..." if len(names) > 4 else shown


def unknown_class(name: str, classes: Sequence[str], path: Path) -> str:
    """The text of the error for a name that is not in `classes`, which `path` lists."""
    similar = [c for c in classes if alike(c) == alike(name)]
    known = f"which has {similar[0]!r}" if similar else f"which has {_short(classes)}"
    return f"class {name!r} is not in {path}, {known}"
