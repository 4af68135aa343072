"""Images without a layout: a folder, one file, or a list of files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from wsss_fast.data.class_names import class_list, read_classes
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.folder import Chosen
from wsss_fast.data.lists import published_classes
from wsss_fast.data.names import check_id, is_image
from wsss_fast.data.saliency_files import find_saliencies
from wsss_fast.data.tag_file import TagFile
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
    """Open images that have neither tags nor a layout, for what needs none, such as prediction.

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
    maps = None if saliency is None else Path(saliency)
    with remarks.collected():
        if isinstance(images, str | Path) and Path(images).is_dir():
            loaded, unusable = read_plain(Path(images), None, None, maps)
        else:
            loaded, unusable = _read_files(images, maps)
    return checked(loaded, unusable, strict)


def checked(loaded: Dataset, unusable: dict[str, str], strict: bool) -> Dataset:
    """The data set after a check of its images, as `load_images`.

    Args:
        loaded: the data set.
        unusable: by file name, why other files cannot be images of it.
        strict: whether these, and images that cannot be read, are errors.
    """
    if unusable and (strict or not loaded.ids):
        raise InputError(next(iter(unusable.values())))
    loaded.strict = strict
    if strict:
        return loaded.check()
    if unusable:
        of, first = len(unusable) + len(loaded), next(iter(unusable.values()))
        say(f"{len(unusable)} of {of} files are left out; first: {first}")
    readable = loaded.without_broken()
    return dataclasses.replace(readable, broken={**unusable, **readable.broken})


def read_plain(
    root: Path,
    split: str | None,
    ids: Sequence[str] | Path | None,
    saliency: Path | None,
    truth: str | Path | None = None,
    score_on: str | None = None,
    tags: TagFile | None = None,
) -> tuple[Dataset, dict[str, str]]:
    """Read a folder of images without a layout, with the tags of a file or none.

    Args:
        root: the folder.
        split: as in `load_folder`; None for all images.
        ids: as there.
        saliency: as there.
        truth: as there.
        score_on: as there.
        tags: file of tags. Without a list of ids, images that it does not have are left out, with
            a remark.

    Returns:
        The data set, and by file name why other files cannot be images of it.

    Raises:
        InputError: there is no image, two have the same id, or a list or the tags do not fit.
    """
    files, unusable = _by_id(_files_of(root))
    fixed = class_list(root) or (None if tags is None else class_list(tags.path.parent))
    classes = () if fixed is None else read_classes(fixed)
    if tags is not None and not classes:
        classes = _published(tags, files, root)
    chosen = Chosen.of(root, split, ids, list(files), f"no image in {root}", files)
    matrix = np.zeros((len(chosen.ids), len(classes)), np.uint8)
    untagged = f"{root} has no labels.csv, and --tags FILE was not given"
    if tags is not None and chosen.is_listed:
        matrix, untagged = tags.of_all(chosen.ids, classes, chosen.ids), ""
    elif tags is not None:
        found = _of_folder(tags, chosen.ids, classes, root)
        chosen, matrix = dataclasses.replace(chosen, ids=tuple(found)), np.stack([*found.values()])
        untagged = ""
    images = {id: files[id] for id in chosen.ids}
    data = chosen.data_set(classes, matrix, images, saliency, truth, score_on, LAYOUT, untagged)
    return data, unusable


def _read_files(images: Images, saliency: Path | None) -> tuple[Dataset, dict[str, str]]:
    """As `read_plain`, an image file or a list of files."""
    given = [images] if isinstance(images, str | Path) else list(images)
    if not given:
        raise InputError("images: the list is empty")
    paths = [Path(file) for file in given]
    if len(paths) == 1 and not paths[0].exists():
        raise InputError(f"images: {paths[0]}: no such file or folder")
    files, unusable = _by_id(paths)
    parents = {os.path.abspath(path.parent) for path in paths}
    root = paths[0].parent if len(parents) == 1 else Path(os.path.commonpath(parents))
    maps = {} if saliency is None else find_saliencies(root, saliency, files)
    data = Dataset(
        name=root.name or str(root),
        root=root,
        split=LAYOUT,
        classes=(),
        ids=tuple(files),
        tags=np.zeros((len(files), 0), np.uint8),
        images=files,
        masks={},
        saliencies=maps,
        layout=LAYOUT,
        tagged=False,
        untagged="they are images without a labels.csv",
    )
    return data, unusable


def _published(tags: TagFile, ids: Iterable[str], root: Path) -> tuple[str, ...]:
    """The classes of a published data set whose ids a folder has.

    Raises:
        InputError: the ids are not of VOC12 or COCO14, so nothing names the classes.
    """
    known = published_classes(ids)
    if known is None:
        count = f" ({tags.num_classes} names)" if tags.num_classes else ""
        raise InputError(
            f"{root / 'classes.txt'}: no such file; one class name per line{count} is needed, in "
            f"the order of the classes in {tags.path}"
        )
    title, classes = known
    remarks.add(f"there is no classes.txt; the classes are {title}'s, since the ids are", root)
    return classes


def _of_folder(
    tags: TagFile, ids: Sequence[str], classes: Sequence[str], root: Path
) -> dict[str, np.ndarray]:
    """Tags of those images of a folder that a file has, with remarks on what does not match.

    Raises:
        InputError: the file has none of them, or no names at all.
    """
    found = tags.by_id(ids, classes)
    if not found:
        raise InputError(
            f"{tags.path}: has tags of images such as {tags.example()}, but none of the "
            f"{len(ids)} images of {root}, such as {ids[0]!r}"
        )
    for id in ids:
        if id not in found:
            text = f"images have no tags in {tags.path.name} and are left out"
            remarks.add(text, id, unit="image", of=len(ids))
    if len(found) < len(tags):
        text = f"{len(tags) - len(found)} of {len(tags)} tagged images are not in {root}"
        remarks.add(text, tags.path)
    return {id: found[id] for id in ids if id in found}


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
