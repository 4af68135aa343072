"""What the layouts share: id lists, and label and saliency PNGs of listed ids.

Every error names the file and the line.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from wsss_fast.data.names import (
    IMAGE_SUFFIXES,
    Folders,
    KnownIds,
    check_id,
    is_image,
    without_suffix,
)
from wsss_fast.data.text import lines_of, read_text, unprintable
from wsss_fast.engine import remarks
from wsss_fast.errors import InputError

# First words of a column of files in the header of a CSV file.
FILE_HEADINGS = (
    *("file", "filename", "file_name", "file name", "filepath", "file_path", "path", "photo"),
    *("image", "imagename", "image_name", "image name", "image_path", "imagepath", "image_id"),
    *("img", "img_name", "img_path", "picture", "id", "ids", "name"),
)
_SUFFIX = "|".join(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)
_PAIR = re.compile(rf"(.+?\.(?:{_SUFFIX}))[ \t]+\S.*\.(?:{_SUFFIX})", re.IGNORECASE)
_OF_MAIN = re.compile(r"(.*\S)[ \t]+(-1|0|1)")


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


def read_ids(
    source: Sequence[str] | Path,
    known: KnownIds,
    missing: Callable[[str], str] = "id {!r} is not in the data set".format,
    find: Callable[[str], str | None] | None = None,
    files: Mapping[str, Path] | None = None,
) -> IdList:
    """Ids from a text file with one per line, or from a sequence.

    Blank lines are skipped. A line is an id as a whole, spaces included. If the data set has no
    such id, it may be quoted, the name or the path of an image file, or VOC's pair of image and
    mask paths, whose first name counts. Nothing else on a line is skipped.

    Args:
        source: the file or the ids.
        known: ids of the data set.
        missing: text of the error for an id that it does not have.
        find: entry -> id of the data set or None; default: `known.find`. The text of a ValueError
            that it raises becomes the message, together with the entry's place.
        files: image of each id; a remark says which paths of the list are in another folder.

    Raises:
        InputError: no such file, not text, no id in it, an id twice, or one that the data set does
            not have; the message says what it has instead.
    """
    if isinstance(source, Path):
        lines = lines_of(read_text(source))
        entries = [(f"{source}, line {n}", line) for n, line in enumerate(lines, 1) if line.strip()]
        name = str(source)
    else:
        entries, name = [(f"ids[{n}]", str(id)) for n, id in enumerate(source)], "ids"
    if not entries:
        raise InputError(f"{name}: the id list is empty")
    find = find or known.find
    seen: dict[str, str] = {}
    for n, (place, entry) in enumerate(entries):
        meant = list(readings(entry))
        try:
            id = next(filter(None, map(find, meant)), None)
            if id is None:
                raise ValueError(_explain(meant, n == 0, known, missing, find))
        except ValueError as error:
            rest = [entry for _, entry in entries[n + 1 :]]
            text = _count_unknown(rest, find, len(entries))
            raise InputError(f"{place}: {error}{text}") from None
        check_id(id, place)
        if files is not None and _is_elsewhere(entry, files.get(id)):
            text = "paths of an id list are in another folder than the image that is read"
            remarks.add(text, f"{place}, {entry.strip()!r}", unit="line", of=len(entries))
        if id in seen:
            raise InputError(f"{place}: id {id!r} is listed more than once, first at {seen[id]}")
        seen[id] = place
    return IdList(tuple(seen), name, tuple(seen.values()))


def plain_ids(path: Path) -> frozenset[str]:
    """The ids of a text file as `read_ids` reads them, without a check that their images exist."""
    lines = filter(str.strip, lines_of(read_text(path)))
    return frozenset([*readings(line)][-1] for line in lines)


def truth_folders(root: Path, truth: str | Path | None, usual: Sequence[str]) -> list[Path]:
    """The folders in which true masks are looked for: the chosen one, else the usual ones.

    Args:
        root: folder of the data set.
        truth: name of a folder in it, or a path; None for the usual ones.
        usual: their names.

    Raises:
        InputError: no such folder; the message lists those that exist.
    """
    if truth is None:
        return [root / name for name in usual]
    for folder in (root / truth, Path(truth)):
        if folder.is_dir():
            return [folder]
    there = [name for name in usual if (root / name).is_dir()]
    has = f"{root} has {' and '.join(there)}" if there else f"{root} has no {' or '.join(usual)}"
    raise InputError(f"truth: no folder {truth}, neither in {root} nor as a path; {has}")


def _count_unknown(rest: Sequence[str], find: Callable[[str], str | None], of: int) -> str:
    """How many ids of a list are missing, as text; "" if none of `rest` is."""

    def is_known(entry: str) -> bool:
        try:
            return any(map(find, readings(entry)))
        except ValueError:
            return False

    count = sum(not is_known(entry) for entry in rest)
    return f"; {count + 1} of the {of} listed are missing" if count else ""


def readings(entry: str) -> Iterator[str]:
    """What a line of an id list may mean, the most literal first."""
    yield entry
    yield entry.strip()
    path = _unquoted(entry)
    yield path
    pair = _PAIR.fullmatch(path)
    if pair is not None:
        if "/" not in path:  # a file name with two suffixes
            yield without_suffix(path)
        path = pair[1]
    if is_image(path):
        file = path.replace("\\", "/").rpartition("/")[2]
        yield file
        yield without_suffix(file)


def _unquoted(entry: str) -> str:
    bare = entry.strip()
    is_quoted = len(bare) > 2 and bare[0] == bare[-1] and bare[0] in "\"'"
    return bare[1:-1].strip() if is_quoted else bare


def _is_elsewhere(entry: str, file: Path | None) -> bool:
    """Whether an entry is a path whose last folder is not that of the image."""
    pair = _PAIR.fullmatch(_unquoted(entry))
    path = pair[1] if pair is not None else _unquoted(entry)
    folder = path.replace("\\", "/").split("/")[-2:-1]
    return file is not None and folder not in ([], ["."], [""], [file.parent.name])


def _explain(
    meant: Sequence[str],
    is_first: bool,
    known: KnownIds,
    missing: Callable[[str], str],
    find: Callable[[str], str | None],
) -> str:
    """Why a line of an id list is no id of the data set, and what may be meant."""
    entry, last = meant[1], meant[-1]
    if not last:
        return "the id is empty"
    if unprintable(last.replace("\t", "")):
        return f"{last!r} has a character that an id cannot have"
    of_main = _OF_MAIN.fullmatch(entry)
    if of_main is not None and find(of_main[1]) is not None:
        return (
            f"{entry!r} is an id and {of_main[2]}, as in VOC's ImageSets/Main, where -1 means that "
            "a class is absent; list only the ids that are wanted, one per line"
        )
    if is_first and entry.strip("\"'").split(",")[0].casefold() in FILE_HEADINGS:
        return f"{missing(last)}; if {entry!r} is a header, remove this line"
    if near := known.near(last):
        return missing(last) + near
    if "/" in last or "\\" in last or last.startswith("."):
        return f"{last!r} cannot be an id; ids are plain file names without extension"
    if entry.startswith("#"):
        return f"{missing(last)}; an id list has no comments, only one id per line"
    if re.search(r"[,;\t]", entry):
        return f"{missing(last)}; an id list has one id per line and no other columns"
    return missing(last)


def saliency_folder(root: Path, saliency: Path | None) -> Path:
    """The folder of saliency maps: `saliency`, which must exist, or `root/saliency`."""
    if saliency is None:
        return root / "saliency"
    if not saliency.is_dir():
        raise InputError(f"saliency: {saliency} is not a directory")
    return saliency


# Names of the PNG of an id in a folder, the best first.
PngNames = Callable[[str, Path], Sequence[str]]


def _named_like_images(id: str, folder: Path) -> Sequence[str]:
    return (f"{id}.png",)


def find_pngs(
    folders: Sequence[Path], ids: Iterable[str], names: PngNames = _named_like_images
) -> dict[str, Path]:
    """The PNG of each id that has one, from the first of the folders that has it.

    A remark says which come from another folder than the first one that exists.
    """
    found: dict[str, Path] = {}
    ids = list(ids)
    present = [Folders(folder) for folder in folders if folder.is_dir()]
    for id in ids:
        for files in present:
            paths = (files.find(name) for name in names(id, files.folders[0]))
            path = next(filter(None, paths), None)
            if path is not None:
                found[id] = path
                break
    used = {path.parent for path in found.values()}
    for id, path in found.items():
        if len(used) > 1 and path.parent != present[0].folders[0]:
            text = f"PNGs are read from {path.parent}, since {present[0].folders[0]} has none"
            remarks.add(text, id, unit="image", of=len(ids))
    return found


def unused_pngs(
    folders: Sequence[Path], known: Iterable[str], names: PngNames = _named_like_images
) -> str:
    """The text of a remark if a folder has files, but none for any image of the data set; else "".

    Args:
        folders: folders to look into, those that exist.
        known: all ids of the data set.
        names: file names of an id in a folder.
    """
    known = list(known)
    for folder in filter(Path.is_dir, folders):
        files = Folders(folder)
        example = files.example(".png")
        if example is None or (folder / example).is_dir():
            continue
        if not any(files.find(name) for id in known for name in names(id, folder)):
            return (
                f"no file of {folder} is used, since none is named <id>.png after an image "
                f"(first {example})"
            )
    return ""
