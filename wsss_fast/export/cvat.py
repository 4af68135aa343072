"""Masks as CVAT's format "Segmentation mask 1.1", with one mask per object."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wsss_fast.engine.files import atomic_write
from wsss_fast.errors import InputError
from wsss_fast.export.coco import check_min_area
from wsss_fast.export.masks import Masks, open_masks, output_file
from wsss_fast.export.objects import find_objects
from wsss_fast.readers.label_maps import encode_labels, voc_palette

_MOST = 255  # objects of an image: each has a colour of VOC's palette, and black is background


def to_cvat(
    masks: str | Path,
    out: str | Path,
    *,
    classes: Sequence[str] | str | Path | None = None,
    images: str | Path | None = None,
    min_area: int = 1,
) -> Path:
    """Write masks as an archive that CVAT imports as "Segmentation mask 1.1".

    Each connected region of a class is an object of its own, since CVAT cannot store an object of
    several pieces in all of its formats. Ignored pixels become background. The labels of CVAT's
    task need the same names as the classes. A mask that cannot be used is named and left out.

    Args:
        masks: folder of `<id>.png`; 0 is background, 255 ignored.
        out: archive to write, .zip.
        classes: names of the classes, or a file of them; see `open_masks`.
        images: folder of the photos; see `open_masks`.
        min_area: objects of fewer pixels become background.

    Returns:
        `out`.

    Raises:
        InputError: a folder or file is missing, a class has a name that the format cannot hold, or
            no mask can be used.
        RunError: some masks were left out: CVAT reads at most 255 objects per image.
    """
    path = output_file(out, ".zip")
    check_min_area(min_area)
    opened = open_masks(masks, classes=classes, images=images)
    label_map = _label_map(opened.classes)
    with (
        atomic_write(path) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,  # PNGs are compressed already
    ):
        _add(archive, "labelmap.txt", label_map.encode())
        ids = _add_masks(archive, opened, min_area)
        _add(
            archive, "ImageSets/Segmentation/default.txt", "".join(f"{id}\n" for id in ids).encode()
        )
    opened.check(path)
    return path


def _label_map(classes: Sequence[str]) -> str:
    """`name:r,g,b::` per label: name, colour, parts, actions."""
    lines = ["background:0,0,0::"]
    for name, colour in zip(classes, voc_palette()[1:], strict=False):
        if ":" in name or name.startswith("#"):
            raise InputError(
                f"classes: {name!r}: CVAT's list of labels cannot hold a name with ':' or a '#' at "
                "its beginning; rename the class"
            )
        lines.append(f"{name}:{','.join(map(str, colour.tolist()))}::")
    return "\n".join(lines) + "\n"


def _add_masks(archive: zipfile.ZipFile, masks: Masks, min_area: int) -> list[str]:
    """Write the two label maps of each image; returns the ids."""
    ids = []
    for id, labels in masks:
        if id != id.strip() or id.startswith("#"):
            masks.leave_out(
                f"{masks.files[id]}: CVAT's list of images cannot hold a name with a space at its "
                "beginning or end, or a '#' at its beginning; rename the mask and its photo"
            )
            continue
        found = find_objects(labels, min_area=min_area)
        if len(found.labels) > _MOST:
            least = np.sort(found.areas)[-_MOST - 1] + 1
            masks.leave_out(
                f"{masks.files[id]}: has {len(found.labels)} objects, but CVAT reads {_MOST} per "
                f"image; --min-area {least} leaves out those of fewer pixels"
            )
            continue
        of_class = np.append(0, found.labels)[found.region]
        _add(archive, f"SegmentationClass/{id}.png", encode_labels(of_class))
        _add(archive, f"SegmentationObject/{id}.png", encode_labels(found.region))
        ids.append(id)
    return ids


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    archive.writestr(zipfile.ZipInfo(name), content)  # without the time: equal masks, equal bytes
