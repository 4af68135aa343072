"""What the layouts share: id lists, class lists, and PNGs of listed ids.

Every error names the file and the line.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

from wsss_fast.errors import InputError

MAX_CLASSES = 254  # labels are bytes: 0 is background, 255 ignore


@dataclasses.dataclass(frozen=True)
class IdList:
    """Ids in their order, and where each of them was listed.

    Attributes:
        ids: image ids, all different.
        source: file of the list, or "ids" for ids that were passed directly.
        places: place of each id, for messages: "train.txt, line 3".
    """

    ids: tuple[str, ...]
    source: str
    places: tuple[str, ...]


def read_ids(source: Sequence[str] | Path, normal: Callable[[str], str] = str) -> IdList:
    """Ids from a text file with one per line, or from a sequence.

    Blank lines are skipped. A line may be VOC's pair of image and mask paths: the id is the name of
    the image.

    Args:
        source: the file or the ids.
        normal: entry -> id. Entries with the same id are duplicates. The text of a ValueError that
            it raises becomes the message, together with the entry's place.

    Raises:
        InputError: no such file, not text, no id in it, an id twice, or one that is not a file
            name.
    """
    if isinstance(source, Path):
        entries = [
            (f"{source}, line {n}", line)
            for n, line in enumerate(read_text(source).splitlines(), 1)
            if line.strip()
        ]
        name = str(source)
    else:
        entries, name = [(f"ids[{n}]", str(id)) for n, id in enumerate(source)], "ids"
    if not entries:
        raise InputError(f"{name}: the id list is empty")
    seen: dict[str, str] = {}
    for place, entry in entries:
        try:
            id = normal(_id_of(entry))
        except ValueError as error:
            raise InputError(f"{place}: {error}") from None
        check_id(id, place)
        if id in seen:
            raise InputError(f"{place}: id {id!r} is listed more than once, first at {seen[id]}")
        seen[id] = place
    return IdList(tuple(seen), name, tuple(seen.values()))


def check_id(id: str, place: str) -> None:
    """Check that `id` can be an id: a file name that stays inside the run folder, and printable.

    Raises:
        InputError: it cannot; with its place.
    """
    if not id or id != Path(id).name or id.startswith(".") or "\\" in id or _unprintable(id):
        raise InputError(
            f"{place}: {id!r} cannot be an id; ids are plain file names without extension"
        )


def _unprintable(name: str) -> bool:
    """Whether it has a control character, or a lone surrogate, which cannot be encoded."""
    return any(unicodedata.category(c) in ("Cc", "Cs") for c in name)


def _id_of(line: str) -> str:
    """The id in a line of an id list: the line, or the stem of its first path (`/a/x.jpg`)."""
    first = (line.split() or [""])[0]
    return Path(first).stem if "/" in first and first.lower().endswith((".jpg", ".png")) else first


def read_text(path: Path) -> str:
    """A UTF-8 text file, with or without a byte order mark.

    Raises:
        InputError: no such file, or it is not text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable UTF-8 text ({error})") from None


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names, one per line; class c has label c + 1 in masks."""
    lines = map(str.strip, read_text(path).splitlines())
    return check_classes([line for line in lines if line], path)


def check_classes(names: Sequence[str], path: Path) -> tuple[str, ...]:
    """The class names read from `path`, after a check.

    Raises:
        InputError: there are none, too many for a byte, two equal ones, or one is not printable.
    """
    if not 1 <= len(names) <= MAX_CLASSES:
        raise InputError(f"{path}: needs 1 to {MAX_CLASSES} classes, has {len(names)}")
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise InputError(f"{path}: class {twice[0]!r} is listed more than once")
    if bad := next(filter(_unprintable, names), None):
        raise InputError(f"{path}: class {bad!r} has a character that cannot be printed")
    return tuple(names)


def saliency_folder(root: Path, saliency: Path | None) -> Path:
    """The folder of saliency maps: `saliency`, which must exist, or `root/saliency`."""
    if saliency is None:
        return root / "saliency"
    if not saliency.is_dir():
        raise InputError(f"saliency: {saliency} is not a directory")
    return saliency


def find_pngs(folder: Path, ids: Sequence[str]) -> dict[str, Path]:
    """`<folder>/<id>.png` of the ids that have one."""
    # One listing of the folder is faster than a stat per id.
    present = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    return {id: folder / f"{id}.png" for id in ids if f"{id}.png" in present}
