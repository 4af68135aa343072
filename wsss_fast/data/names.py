"""Names of files and ids: found also where their Unicode form or their suffix's case differs."""

from __future__ import annotations

import os
import unicodedata
import urllib.parse
from collections.abc import Callable, Iterable
from pathlib import Path

from wsss_fast.data.text import composed, unprintable
from wsss_fast.errors import InputError

IMAGE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".webp",
    ".bmp",
    ".tif",
    ".tiff",
    ".gif",
)


class Folders:
    """The files of some folders; of two folders that have a file, the first is taken.

    A name is found as it is, else in another Unicode form or with another case of its suffix, if
    only one file of a folder is meant. Every folder is listed once, which is faster than to ask for
    each file.
    """

    def __init__(self, *folders: Path):
        self.folders = [folder for folder in folders if folder.is_dir()]
        self._names = [set(os.listdir(folder)) for folder in self.folders]
        self._by_key: list[dict[str, list[str]] | None] = [None] * len(self.folders)
        self._by_stem: list[dict[str, list[str]] | None] = [None] * len(self.folders)

    def find(self, name: str) -> Path | None:
        """The file of this name; None if there is none, or several are meant."""
        for n, folder in enumerate(self.folders):
            if name in self._names[n]:
                return folder / name
            similar = self._group(self._by_key, n, _key).get(_key(name), [])
            if len(similar) == 1:
                return folder / similar[0]
        return None

    def find_image(self, stem: str, suffix: str = ".jpg") -> Path | None:
        """The image of this name without suffix: the only one, or the one with `suffix`."""
        for n, folder in enumerate(self.folders):
            if stem + suffix in self._names[n]:
                return folder / (stem + suffix)
            similar = self._group(self._by_stem, n, _stem).get(composed(stem), [])
            images = [name for name in similar if is_image(name)]
            if len(images) == 1:
                return folder / images[0]
        return None

    def stems(self) -> set[str]:
        """Names without suffix of all images."""
        return {Path(name).stem for names in self._names for name in names if is_image(name)}

    def near(self, name: str) -> str:
        """What there is instead of a file, for a message: "; there is 'a.JPG'", or nothing."""
        return near(name, (other for names in self._names for other in names))

    def example(self, suffix: str) -> str | None:
        """The alphabetically first file, one with `suffix` if there is any."""
        names = [n for names in self._names for n in names if not n.startswith(".")]
        return min(names, key=lambda n: (not n.lower().endswith(suffix), n), default=None)

    def _group(
        self, groups: list[dict[str, list[str]] | None], n: int, key: Callable[[str], str]
    ) -> dict[str, list[str]]:
        """Names of a folder by `key`; made when they are first needed."""
        found = groups[n]
        if found is None:
            found = groups[n] = {}
            for name in sorted(self._names[n]):
                found.setdefault(key(name), []).append(name)
        return found


def _key(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return composed(stem) + suffix.lower()


def _stem(name: str) -> str:
    return composed(os.path.splitext(name)[0])


def is_image(name: str) -> bool:
    """Whether a name ends like an image's."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def without_suffix(name: str) -> str:
    """A file name without the suffix of an image; other names as they are."""
    return os.path.splitext(name)[0] if is_image(name) else name


def near(name: str, others: Iterable[str]) -> str:
    """The names that differ from `name` only in what is easily lost, for a message, or nothing.

    That is case, the suffix of an image, spaces, leading zeros, "%20", and characters that look the
    same.
    """
    wanted = _loose(name)
    similar = sorted(other for other in others if _loose(other) == wanted)[:3]
    return f"; there is {' and '.join(map(repr, similar))}" if similar else ""


def _loose(name: str) -> str:
    bare = without_suffix(urllib.parse.unquote(name.strip("\"' \t")))
    visible = "".join(c for c in bare if unicodedata.category(c) != "Cf")
    return "".join(unicodedata.normalize("NFKC", visible).casefold().split()).lstrip("0")


def check_id(id: str, place: str) -> None:
    """Check that `id` can be an id: a file name that stays inside the run folder, and printable.

    Raises:
        InputError: it cannot; with its place.
    """
    if not id or id != Path(id).name or id.startswith(".") or "\\" in id or unprintable(id):
        shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in place)
        raise InputError(
            f"{shown}: {id!r} cannot be an id; ids are plain file names without extension"
        )


class KnownIds:
    """The ids of a data set, found also in another Unicode form."""

    def __init__(self, ids: Iterable[str]):
        self._ids = dict.fromkeys(ids)
        self._composed: dict[str, list[str]] = {}
        for id in self._ids:
            self._composed.setdefault(composed(id), []).append(id)

    def ids(self) -> tuple[str, ...]:
        """All ids."""
        return tuple(self._ids)

    def find(self, name: str) -> str | None:
        """The id that is meant by `name`, or None."""
        if name in self._ids:
            return name
        similar = self._composed.get(composed(name), [])
        return similar[0] if len(similar) == 1 else None

    def near(self, name: str) -> str:
        """What there is instead of an id, for a message."""
        return near(name, self._ids)
