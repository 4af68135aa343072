"""The archive of predictions that PASCAL VOC's evaluation server takes, after a check."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from wsss_fast.data.listing import plain_ids
from wsss_fast.data.lists import VOC_CLASSES, VOC_COUNTS
from wsss_fast.engine.files import atomic_write
from wsss_fast.engine.left_out import list_problems
from wsss_fast.engine.progress import say
from wsss_fast.errors import InputError
from wsss_fast.export.masks import Masks, open_masks, output_file
from wsss_fast.readers.label_maps import IGNORE, encode_labels

_FOLDER = "results/VOC2012/Segmentation/{}_test_cls"
_LIST = "ImageSets/Segmentation/test.txt"
_ID = re.compile(r"20\d\d_\d{6}")


def to_voc_test(
    masks: str | Path,
    out: str | Path,
    *,
    classes: Sequence[str] | str | Path | None = None,
    images: str | Path | None = None,
    ids: str | Path | None = None,
    competition: Literal["comp5", "comp6"] = "comp6",
) -> Path:
    """Write predictions of VOC12's test images as the archive for its evaluation server.

    Nothing is written unless every image of the list has a mask, no pixel is ignored, all labels
    are VOC's, and, with `images`, each mask has the size of its photo.

    Args:
        masks: folder of `<id>.png`; 0 is background, 1..20 are VOC's classes.
        out: archive to write, .tgz or .tar.gz.
        classes: names of the classes, or a file of them; they must be VOC's, which are the default
            where the folder has no `classes.json`.
        images: folder of the photos, JPEGImages.
        ids: file of the ids of the test images; default: ImageSets/Segmentation/test.txt in the
            folder that holds `images`, if it is there.
        competition: comp6, or comp5 for networks trained on VOC's own data only.

    Returns:
        `out`.

    Raises:
        InputError: the masks are no complete submission; the first wrong ones are named.
    """
    path = output_file(out, ".tgz", ".tar.gz")
    folder = Path(masks)
    if classes is None and not (folder / "classes.json").is_file():
        classes = VOC_CLASSES
    opened = open_masks(folder, classes=classes, images=images)
    if opened.classes != VOC_CLASSES:
        odd = next(
            (n for n, c in enumerate(opened.classes, 1) if VOC_CLASSES[n - 1 : n] != (c,)), None
        )
        which = "" if odd is None else f"; label {odd} is {opened.classes[odd - 1]!r}"
        raise InputError(
            f"classes: must be the {len(VOC_CLASSES)} of VOC12 in their order, has "
            f"{len(opened.classes)}{which}"
        )
    opened = _of_test(opened, _test_ids(ids, images))
    if images is None:
        say("voc-test: without images, the masks' sizes are not compared with those of the photos")
    with atomic_write(path) as temporary:
        _write(opened, temporary, _FOLDER.format(competition))
    return path


def _test_ids(ids: str | Path | None, images: str | Path | None) -> Path | None:
    """The file of the test images' ids; None where none is known."""
    if ids is not None:
        return Path(ids)
    beside = None if images is None else Path(images).resolve().parent / _LIST
    return beside if beside is not None and beside.is_file() else None


def _of_test(masks: Masks, list_file: Path | None) -> Masks:
    """The masks of the test images, after a check that they are all there."""
    count = VOC_COUNTS["test"]
    if list_file is not None:
        ids = plain_ids(list_file)
        if len(ids) != count:
            raise InputError(f"{list_file}: has {len(ids)} ids, VOC12's test list {count}")
        if missing := sorted(ids - masks.files.keys()):
            raise InputError(
                f"masks: {masks.folder} has no PNG for {len(missing)} of {count} test images, "
                f"first {missing[0]!r}"
            )
        masks.files = {id: path for id, path in masks.files.items() if id in ids}
        return masks
    odd = next((path for id, path in masks.files.items() if not _ID.fullmatch(id)), None)
    if odd is not None:
        raise InputError(f"{odd}: is not named as VOC12's images are (2008_000006)")
    if len(masks) != count:
        raise InputError(
            f"masks: {masks.folder} has {len(masks)} PNGs, but VOC12's test list has {count} images"
        )
    return masks


def _write(masks: Masks, path: Path, folder: str) -> None:
    """Write the archive; its bytes depend on the masks only."""
    with (
        path.open("wb") as file,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed,
        tarfile.open(mode="w", fileobj=packed) as archive,
    ):
        for id, labels in masks:
            if (labels == IGNORE).any():
                masks.leave_out(
                    f"{masks.files[id]}: has ignored pixels (255), which the server rejects; "
                    "every pixel needs a class or background"
                )
                continue
            _add(archive, f"{folder}/{id}.png", labels)
        if masks.problems:
            more = list_problems(masks.problems, "voc-test")
            raise InputError(
                f"voc-test: {len(masks.problems)} of {len(masks)} masks cannot be submitted{more}, "
                f"so that nothing is written; first: {masks.problems[0]}"
            )


def _add(archive: tarfile.TarFile, name: str, labels: np.ndarray) -> None:
    content = encode_labels(labels)
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))
