"""Masks as tasks of Label Studio, with a brush region for each class."""

from __future__ import annotations

import hashlib
import json
import urllib.parse
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsss_fast.engine.files import atomic_write
from wsss_fast.export.brush import encode_brush
from wsss_fast.export.masks import Masks, open_masks, output_file
from wsss_fast.readers.label_maps import IGNORE, voc_palette

# Where Label Studio serves files of its own machine: a path below its document root follows.
LOCAL_FILES = "/data/local-files/?d="
_TAG, _IMAGE = "tag", "image"  # names of the two controls in the labeling configuration


def to_labelstudio(
    masks: str | Path,
    out: str | Path,
    *,
    classes: Sequence[str] | str | Path | None = None,
    images: str | Path | None = None,
    url: str = LOCAL_FILES,
    model_version: str = "wsss-fast",
) -> Path:
    """Write masks as pre-annotated tasks of Label Studio, to be imported into a project.

    Each image is a task with one brush region per class. Next to `out`, a file of the same name
    ending with .xml is the labeling configuration that the project needs. A mask that cannot be
    used is named and left out.

    Args:
        masks: folder of `<id>.png`; 0 is background, 255 ignored.
        out: JSON file to write.
        classes: names of the classes, or a file of them; see `open_masks`.
        images: folder of the photos; see `open_masks`.
        url: address of the photos' folder, to which the name of each photo is added: a web address
            with its last slash, or, where Label Studio reads files of its own machine,
            `/data/local-files/?d=` and the folder's path below its document root.
        model_version: name under which Label Studio lists these predictions.

    Returns:
        `out`.

    Raises:
        InputError: a folder or file is missing, or no mask can be used.
        RunError: some masks were left out.
    """
    path = output_file(out, ".json")
    opened = open_masks(masks, classes=classes, images=images)
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for number, task in enumerate(_tasks(opened, url, model_version)):
            file.write("[\n" if number == 0 else ",\n")
            json.dump(task, file, separators=(",", ":"))
        file.write("\n]\n")
    with atomic_write(path.with_suffix(".xml")) as temporary:
        temporary.write_bytes(_configuration(opened.classes))
    opened.check(path)
    return path


def _tasks(masks: Masks, url: str, model_version: str) -> Iterator[dict[str, Any]]:
    for id, labels in masks:
        present = np.flatnonzero(np.bincount(labels.reshape(-1), minlength=IGNORE)[:IGNORE])
        result = [
            _region(id, masks.classes[label - 1], labels == label) for label in present if label
        ]
        yield {
            "data": {_IMAGE: url + urllib.parse.quote(masks.file_name(id))},
            "predictions": [{"model_version": model_version, "result": result}],
        }


def _region(id: str, name: str, mask: np.ndarray) -> dict[str, Any]:
    return {
        "id": hashlib.sha256(f"{id}/{name}".encode()).hexdigest()[:10],
        "type": "brushlabels",
        "from_name": _TAG,
        "to_name": _IMAGE,
        "original_width": mask.shape[1],
        "original_height": mask.shape[0],
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode_brush(mask), "brushlabels": [name]},
    }


def _configuration(classes: Sequence[str]) -> bytes:
    """The labeling configuration: an image, and a brush per class in VOC's colours."""
    view = ET.Element("View")
    ET.SubElement(view, "Image", name=_IMAGE, value=f"${_IMAGE}", zoom="true")
    labels = ET.SubElement(view, "BrushLabels", name=_TAG, toName=_IMAGE)
    for label, name in enumerate(classes, 1):
        red, green, blue = voc_palette()[label]
        ET.SubElement(labels, "Label", value=name, background=f"#{red:02x}{green:02x}{blue:02x}")
    ET.indent(view)
    return ET.tostring(view, encoding="utf-8") + b"\n"
