"""Converting the files of a folder one after another; one that cannot be used is named."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from wsss_fast.engine import remarks
from wsss_fast.engine.left_out import check_left_out
from wsss_fast.engine.progress import track
from wsss_fast.errors import InputError
from wsss_fast.readers.photos import image_size
from wsss_fast.stages.paired_files import files_by_stem

_COCO = re.compile(r"COCO_\w+_(\d{12})", re.ASCII)
_Item = TypeVar("_Item")


def files_of(folder: Path, suffix: str) -> list[Path]:
    """Files of a folder by their suffix, without hidden ones, such as those of macOS."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.glob(f"*{suffix}") if not p.name.startswith("."))


def why_empty(folder: Path) -> str:
    """The end of a message that a folder has no files of a kind."""
    if folder.is_dir():
        return ""
    return "; it is a file, name its folder" if folder.exists() else "; there is no such folder"


def coco_number(id: str) -> int | None:
    """The number in the name of a photo of COCO 2014, such as COCO_train2014_000000000009."""
    found = _COCO.fullmatch(id)
    return None if found is None else int(found[1])


class Photos:
    """Sizes of the photos in a folder, by name without extension.

    Args:
        folder: of the photos; None: no photo is known.

    Raises:
        InputError: it is not a directory, or two photos have one name.
    """

    def __init__(self, folder: str | Path | None):
        self.folder = None if folder is None else Path(folder)
        if self.folder is not None and not self.folder.is_dir():
            raise InputError(f"convert: images: {folder} is not a directory")
        self.by_id = {} if self.folder is None else files_by_stem(self.folder)
        self._by_number: dict[int, list[str]] = {}
        for id in self.by_id:
            if (number := coco_number(id)) is not None:
                self._by_number.setdefault(number, []).append(id)

    def id_of(self, name: str) -> str:
        """The id of the photo of a map: its name, but for COCO's photos also their number."""
        ids = self._by_number.get(int(name), []) if name.isascii() and name.isdigit() else []
        if name in self.by_id or len(ids) != 1:
            return name
        remarks.add("maps named by the number of COCO's photo: written under its name", name)
        return ids[0]

    def size(self, id: str) -> tuple[int, int] | None:
        """(H, W) of a photo; None without a folder.

        Raises:
            InputError: the folder has no such photo, or it cannot be read.
        """
        if self.folder is None:
            return None
        if id not in self.by_id:
            raise InputError(f"{self.folder}: has no photo of {id!r}")
        return image_size(self.by_id[id])


def convert_all(items: Sequence[_Item], convert: Callable[[_Item], None], out: Path) -> None:
    """Convert every item that can be; name the others.

    Raises:
        InputError: none can be converted, or `out` is a file.
        RunError: some cannot be converted.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"convert: {out} is not a directory; name another one to write to")
    failures = []
    with remarks.collected():
        for item in track(items, "convert maps", unit="img"):
            try:
                convert(item)
            except InputError as error:
                failures.append(str(error))
    check_left_out("convert", failures, len(items), out)
