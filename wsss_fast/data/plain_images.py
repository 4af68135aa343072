"""Images without a layout: a folder, one file, or a list of files; no tags, no masks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from wsss_fast.data.class_names import class_list, read_classes
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.listing import find_pngs, saliency_folder
from wsss_fast.data.names import check_id, is_image
from wsss_fast.data.text import composed
from wsss_fast.engine import remarks
from wsss_fast.engine.progress import say
from wsss_fast.errors import InputError

LAYOUT = "images"
# Other photo formats: Pillow reads some of them; those that it cannot read are named.
_OTHER_FORMATS = (
    *(".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".ppm", ".pgm", ".pnm", ".tga", ".psd"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".svg"),
)

_KNOWN_TEXTS = ("classes.txt", "labels.csv")

Images = str | Path | Sequence[str | Path]


def has_images(path: Path) -> bool:
    """Whether a folder, or its images/, has images; or whether a file is named like an image."""
    return bool(image_files(path)) if path.is_dir() else path.is_file() and is_image(path.name)


def image_files(folder: Path) -> list[Path]:
    """The photos of a folder in the order of their names; those of its images/ if it has none."""
    own = [p for p in sorted(folder.iterdir()) if _is_photo(p)]
    inner = folder / "images"
    return own or ([p for p in sorted(inner.iterdir()) if _is_photo(p)] if inner.is_dir() else [])


def load_images(
    images: Images, *, saliency: str | Path | None = None, strict: bool = True
) -> Dataset:
    """Open images that have neither tags nor masks, for what needs none, such as prediction.

    The id of an image is its file name without extension. Hidden files and sub-folders of a folder
    are not read; other files that are not named like images are counted in a remark. A
    `classes.txt` in the folder names the classes; without it there are none.

    Collective if `strict` is false: the processes share the decoding.

    Args:
        images: a folder (its images/ is read if it has no images itself), an image file, or files.
        saliency: folder of `<id>.png` saliency maps; default `<folder>/saliency`.
        strict: raise for an image that cannot be read, after reading its header and its end.
            Otherwise every image is decoded; those that cannot be are left out and listed in
            `Dataset.broken`.

    Returns:
        The images as a data set of layout "images" with `tagged` false.

    Raises:
        InputError: there is no image, two have the same name without extension, or one is broken;
            the message names it.

    Example:
        >>> load_images("photos")                                  # doctest: +SKIP
        Dataset('photos', 'images': 30 images, 0 classes, 0 masks, 0 saliency maps)
    """
    given = [images] if isinstance(images, str | Path) else list(images)
    is_folder = isinstance(images, str | Path) and Path(images).is_dir()
    if not given:
        raise InputError("images: the list is empty")
    with remarks.collected():
        files = _files_of(Path(given[0])) if is_folder else [Path(file) for file in given]
        by_id, broken = _by_id(files)
        if broken and (strict or not by_id):
            raise InputError(next(iter(broken.values())))
        if broken:
            say(f"{len(broken)} of {len(files)} files are left out; first: {[*broken.values()][0]}")
        root = Path(given[0]) if is_folder else _common_folder(files)
        fixed = class_list(root) if root.is_dir() else None
        classes = () if fixed is None else read_classes(fixed)
        maps = saliency_folder(root, None if saliency is None else Path(saliency))
        loaded = Dataset(
            name=root.name or str(root),
            root=root,
            split=LAYOUT,
            classes=classes,
            ids=tuple(by_id),
            tags=np.zeros((len(by_id), len(classes)), np.uint8),
            images=by_id,
            masks={},
            saliencies=find_pngs([maps], by_id) if is_folder or saliency is not None else {},
            strict=strict,
            layout=LAYOUT,
            tagged=False,
            untagged=f"{root} has no labels.csv, and --tags FILE was not given",
        )
    if strict:
        return loaded.check()
    readable = loaded.without_broken()
    return dataclasses.replace(readable, broken={**broken, **readable.broken})


def _files_of(folder: Path) -> list[Path]:
    """The photos of a folder, with a remark on its other files.

    Raises:
        InputError: it has no photo; the message names a sub-folder that has.
    """
    files = image_files(folder)
    if not files:
        there = [p for p in sorted(folder.iterdir()) if p.is_dir() and any(map(_is_photo, _in(p)))]
        near = f"; {there[0]} has some" if there else ""
        raise InputError(f"{folder}: has no images, by the names of its files{near}")
    parent = files[0].parent
    others = [p for p in sorted(parent.iterdir()) if p.is_file() and not _is_photo(p)]
    for path in others:
        if _is_visible(path) and path.name not in _KNOWN_TEXTS:
            remarks.add(f"{parent}: files not named like images are not used", path.name)
    return files


def _by_id(files: Iterable[Path]) -> tuple[dict[str, Path], dict[str, str]]:
    """The file of each id, and by file name the reason why a file cannot have one.

    A photo that has a twin in a format that may not be readable (IMG_1.JPG of IMG_1.HEIC) is used
    alone, with a remark.

    Raises:
        InputError: two images have the same id.
    """
    by_id: dict[str, Path] = {}
    names: dict[str, str] = {}
    broken = {}
    for path in sorted(files, key=lambda file: file.suffix.lower() in _OTHER_FORMATS):
        id = path.stem
        try:
            check_id(id, str(path))
        except InputError as error:
            broken[path.name] = str(error)
            continue
        earlier = names.setdefault(composed(id), id)
        if earlier == id and id not in by_id:
            by_id[id] = path
        elif path.suffix.lower() in _OTHER_FORMATS:
            text = "photos with a twin of the same name in a common format are not used"
            remarks.add(text, path)
        else:
            raise InputError(
                f"{path}: has the same name without extension as {by_id[earlier]}; both would be "
                f"image {id!r}; rename or remove one"
            )
    order = {path: n for n, path in enumerate(files)}
    return dict(sorted(by_id.items(), key=lambda item: order[item[1]])), broken


def _common_folder(files: Sequence[Path]) -> Path:
    """The innermost folder that holds all files."""
    parents = [os.path.abspath(file.parent) for file in files]
    return files[0].parent if len(set(parents)) == 1 else Path(os.path.commonpath(parents))


def _is_photo(path: Path) -> bool:
    suffix = path.suffix.lower()
    return (
        _is_visible(path)
        and (is_image(path.name) or suffix in _OTHER_FORMATS)
        and not path.is_dir()
    )


def _is_visible(path: Path) -> bool:
    return not path.name.startswith(".")


def _in(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
