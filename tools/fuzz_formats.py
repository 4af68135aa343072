"""Targets of `fuzz.py`: image tags, public maps, model files, COCO's outlines, exported masks."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from tools.fuzz_damage import Case, damaged, file_target
from wsss_fast import data, export
from wsss_fast.convert.reading import read_public_maps
from wsss_fast.engine import remarks
from wsss_fast.nets import deeplab, load_model
from wsss_fast.nets.model_file import model_info, save_model
from wsss_fast.readers import state_dicts
from wsss_fast.readers.label_maps import write_labels


def _text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


def _tags(name: str, write: Callable[[Path], object]) -> Case:
    """A target: a damaged file of image tags for a folder of two images."""

    def read(path: Path) -> None:
        photos = path.parent / "tagged"
        if not photos.exists():
            for image in ("a.png", "b.png"):
                write_labels(photos / image, np.zeros((4, 5), np.uint8))
            (photos / "classes.txt").write_text("cat\ndog\n")
        with _quiet():
            data.load(photos, tags=path, ids=["a", "b"])

    return file_target(write, name, read)


def _tag_dictionary(path: Path) -> None:
    content = {"a": np.array([1, 0], np.float32), np.str_("b"): np.array([0, 1], np.float32)}
    np.save(path, content, allow_pickle=True)


def _tag_array(path: Path) -> None:
    np.save(path, np.eye(2, dtype=np.float32))


def _public_maps(path: Path) -> None:
    rng = np.random.default_rng(0)
    content = {
        "keys": torch.tensor([0, 3]),
        "cam": torch.from_numpy(rng.random((2, 5, 6), np.float32)),
        "high_res": rng.random((2, 20, 24), np.float32),
    }
    np.save(path, content, allow_pickle=True)


def _model(path: Path) -> None:
    info = model_info("seg", ("cat",), backbone="small")
    save_model(deeplab(1, backbone="small"), path, info)


def _metadata(rng: random.Random, work: Path) -> None:
    """One field of a model file's metadata is damaged; its tensors are not."""
    path = work / "m.safetensors"
    if not _MODEL:
        _model(path)
        tensors = {name: value.clone() for name, value in state_dicts.read(path).items()}
        _MODEL.update(tensors=tensors, metadata=state_dicts.read_metadata(path))
    metadata = dict(_MODEL["metadata"])
    field = rng.choice(sorted(metadata))
    metadata[field] = damaged(rng, metadata[field].encode()).decode("utf-8", "replace")
    path.write_bytes(safetensors.torch.save(_MODEL["tensors"], metadata))
    load_model(path)


_MODEL: dict[str, Any] = {}


def _index(path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, path.parent / "a.pth")
    path.write_text(json.dumps({"metadata": {}, "weight_map": {"a": "a.pth"}}))


def _outlines(rng: random.Random, work: Path) -> None:
    path = work / "instances.json"
    path.write_bytes(damaged(rng, json.dumps(_OUTLINES).encode()))
    out = work / "painted"
    shutil.rmtree(out, ignore_errors=True)
    with _quiet():
        data.masks_from_coco(path, out, rule=rng.choice(("small-first", "annToMask", "coco2voc")))


_SQUARE = [1, 1, 5, 1, 5, 5, 1, 5]
_OUTLINES: dict[str, list[dict]] = {
    "images": [
        {"id": 9, "file_name": "a.jpg", "height": 8, "width": 8},
        {"id": 25, "file_name": "b.jpg", "height": 8, "width": 8},
    ],
    "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 9, "category_id": 17, "area": 16, "segmentation": [_SQUARE]},
        {
            "id": 2,
            "image_id": 25,
            "category_id": 18,
            "area": 8,
            "iscrowd": 1,
            "segmentation": {"size": [8, 8], "counts": [56, 8]},
        },
        {
            "id": 3,
            "image_id": 25,
            "category_id": 17,
            "area": 6,
            "segmentation": {"size": [8, 8], "counts": ":26000n0"},
        },
    ],
}


def _quiet() -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
    stack.enter_context(remarks.collected())
    return stack


def _export(rng: random.Random, work: Path) -> None:
    """Damaged masks, class names and ids, in a random format."""
    folder, out = work / "masks", work / "exported"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(out, ignore_errors=True)
    for name in ("a", damaged(rng, b"b").decode("utf-8", "replace").replace("/", "-")[:60]):
        with contextlib.suppress(OSError, ValueError):  # no name of a file
            write_labels(folder / f"{name}.png", np.random.default_rng(0).integers(0, 3, (9, 7)))
    if rng.random() < 0.5:
        content = damaged(rng, (folder / "a.png").read_bytes())
        (folder / "a.png").write_bytes(content)
    names = json.dumps({"0": "background", "1": "cat", "2": "no: 1e3", "255": "ignore"})
    (folder / "classes.json").write_bytes(damaged(rng, names.encode()))
    name, suffix = rng.choice(EXPORTS)
    with _quiet():
        getattr(export, f"to_{name}")(folder, out / f"a{suffix}")


EXPORTS = (
    ("coco", ".json"),
    ("coco_polygons", ".json"),
    ("labelstudio", ".json"),
    ("cvat", ".zip"),
    ("yolo", ""),
    ("voc_test", ".tgz"),
)

FORMATS: dict[str, Case] = {
    "tags: dictionary": _tags("t.npy", _tag_dictionary),
    "tags: array": _tags("t.npy", _tag_array),
    "tags: list": _tags("t.txt", _text("a 0\nb 0 1\n")),
    "tags: csv": _tags("t.csv", _text("file,class\na.png,cat;dog\nb.png,cat\n")),
    "public maps": file_target(_public_maps, "a.npy", read_public_maps),
    "model file": file_target(_model, "m.safetensors", load_model),
    "model metadata": _metadata,
    "weights index": file_target(_index, "m.safetensors.index.json", state_dicts.read),
    "coco outlines": _outlines,
    "export": _export,
}
