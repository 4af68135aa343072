"""Targets of `fuzz.py`: readers of files, each given a valid file with random damage."""

from __future__ import annotations

import contextlib
import io
import json
import random
import struct
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from wsss_fast.data import coco, folder, listing, voc
from wsss_fast.data.names import KnownIds
from wsss_fast.engine import remarks
from wsss_fast.engine.files import write_json
from wsss_fast.engine.run_folder import read_records
from wsss_fast.maps import ClassMaps, load_maps, save_maps
from wsss_fast.nets import cam_resnet50, load_weights, save_weights
from wsss_fast.readers import mxnet
from wsss_fast.readers.label_maps import read_labels, write_labels
from wsss_fast.readers.photos import check_image, read_image
from wsss_fast.readers.probabilities import read_probabilities, read_scores
from wsss_fast.readers.saliency_maps import read_saliency

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/helpers"))
import wild  # noqa: E402

from tools.fuzz_damage import Case, damaged, file_target  # noqa: E402
from tools.fuzz_formats import FORMATS  # noqa: E402

_XML = """<annotation><folder>VOC2012</folder><filename>a.jpg</filename>
<size><width>8</width><height>8</height></size>
<object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object>
<object><name>dog</name></object></annotation>"""
_IDS = "2007_000032\n/JPEGImages/a.jpg /S/a.png\n\nx y\n"
_COCO: dict[str, list[dict]] = {
    "images": [
        {"id": 9, "file_name": "COCO_train2014_000000000009.jpg", "height": 8, "width": 8},
        {"id": 25, "file_name": "COCO_train2014_000000000025.jpg", "height": 8, "width": 8},
    ],
    "annotations": [
        {"id": 1, "image_id": 9, "category_id": 17, "bbox": [1, 1, 2, 2], "iscrowd": 0}
    ],
    "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
}


def _photo(kind: str) -> Callable[[Path], None]:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8)
    return lambda path: Image.fromarray(pixels).save(path, kind)


def _check_and_read(path: Path) -> None:
    check_image(path)
    read_image(path)


def _cut_out(path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 31, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def _two_bits(path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 4, (24, 31)).astype(np.uint8)
    Image.fromarray(labels).save(path, bits=2)


def _probabilities(path: Path) -> None:
    values = np.random.default_rng(0).random((24, 31)).astype(np.float32)
    np.save(path, np.stack([1 - values, values]))


def _labels(path: Path) -> None:
    write_labels(path, np.random.default_rng(0).integers(0, 9, (24, 31)).astype(np.uint8))


def _params(path: Path) -> None:
    """Two dense arrays in MXNet's format."""
    parts = [struct.pack("<QQQ", 0x112, 0, 2)]
    for shape in ((2, 3), (4,)):
        values = np.arange(np.prod(shape), dtype="<f4")
        parts += [
            struct.pack("<IiI", 0xF993FAC9, 0, len(shape)),
            struct.pack(f"<{len(shape)}q", *shape),
            struct.pack("<iii", 1, 0, 0),
            values.tobytes(),
        ]
    parts += [
        struct.pack("<Q", 2),
        *(struct.pack("<Q", len(n)) + n for n in (b"arg:conv1a_weight", b"aux:bn_moving_mean")),
    ]
    path.write_bytes(b"".join(parts))
    mxnet.read_params(path)


def _weights(path: Path) -> None:
    save_weights(cam_resnet50(2, backbone="small"), path)


def _maps(path: Path) -> None:
    rng = np.random.default_rng(0)
    save_maps(
        path.parent,
        path.stem,
        ClassMaps(
            np.array([1, 3], np.int16),
            rng.random((2, 6, 8), np.float32),
            rng.random((2, 24, 31), np.float32),
        ),
    )


def _text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


def _csv(rng: random.Random, work: Path) -> None:
    root = work / "photos"
    root.mkdir(exist_ok=True)
    for name in ("a.jpg", "b c.jpg"):
        (root / name).touch()
    (root / "labels.csv").write_bytes(damaged(rng, b'file,class\na.jpg,cat;dog\n"b c.jpg",dog\n'))
    found = folder.load_folder(root, "train", None, None)
    _check_inside(found.images.values(), root)


def _coco(rng: random.Random, work: Path) -> None:
    root = work / "coco"
    (root / "train2014").mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    for image in _COCO["images"]:
        (root / "train2014" / image["file_name"]).touch()
    (root / "annotations/instances_train2014.json").write_bytes(
        damaged(rng, json.dumps(_COCO).encode())
    )
    found = coco.load_coco(root, "train", None, None)
    _check_inside(found.images.values(), root)


def _check_inside(paths: Iterable[Path], root: Path) -> None:
    for path in paths:
        if not path.resolve().is_relative_to(root.resolve()):
            raise AssertionError(f"{path} is outside of the folder")


def _ids(path: Path) -> None:
    # Every entry is known, so that nothing but the names themselves can be refused.
    for id in listing.read_ids(path, KnownIds([]), find=str).ids:
        if Path("run").joinpath(f"{id}.png").parent != Path("run"):
            raise AssertionError(f"{id!r} is outside of the run folder")


def _metrics(path: Path) -> None:
    read_records(path.parent)


def _records(path: Path) -> None:
    write_json(
        path,
        {"stages": [{"stage": "cam", "miou": 0.5, "curve": {"thresholds": [0.1], "miou": [0.5]}}]},
    )


def _wild(kind: str, reader: str) -> Case:
    """A target: damage one of the odd files of tests/data/wild, and read it."""
    files = sorted(path for path in (wild.WILD / kind).iterdir())

    def case(rng: random.Random, work: Path) -> None:
        chosen = rng.choice(files)
        with tempfile.TemporaryDirectory(dir=work) as folder:
            path = Path(folder) / chosen.name
            path.write_bytes(damaged(rng, chosen.read_bytes()))
            (Path(folder) / "work").mkdir()
            with contextlib.redirect_stderr(io.StringIO()), remarks.collected():
                wild.READERS[reader](path, Path(folder) / "work")

    return case


READERS: dict[str, Case] = {
    **FORMATS,
    "voc annotation": file_target(
        _text(_XML), "a.xml", lambda path: voc._read_tags(path, ("cat", "dog"), None)
    ),
    "coco instances": _coco,
    "labels.csv": _csv,
    "id list": file_target(
        _text("2007_000032\n/JPEGImages/a.jpg /S/a.png\n\nx y\n"), "ids.txt", _ids
    ),
    "jpeg": file_target(
        _photo("JPEG"), "a.jpg", lambda path: (check_image(path), read_image(path))
    ),
    "png": file_target(_photo("PNG"), "a.png", lambda path: (check_image(path), read_image(path))),
    **{
        kind: file_target(_photo(kind), "a", lambda path: (check_image(path), read_image(path)))
        for kind in ("WEBP", "GIF", "TIFF", "BMP")
    },
    "2-bit labels": file_target(_two_bits, "a.png", lambda path: read_labels(path, 3)),
    "cut-out": file_target(_cut_out, "a.png", read_saliency),
    "probabilities": file_target(
        _probabilities, "a.npy", lambda path: read_probabilities(path, path, (24, 31))
    ),
    "scores": file_target(_probabilities, "a.npy", lambda path: read_scores(path, path, (48, 62))),
    "palette png": file_target(_labels, "a.png", lambda path: read_labels(path, 20)),
    "saliency": file_target(_photo("PNG"), "a.png", read_saliency),
    "params": file_target(_params, "a.params", mxnet.read_params),
    "weights": file_target(
        _weights, "a.pth", lambda path: load_weights(cam_resnet50(2, backbone="small"), path)
    ),
    "maps": file_target(_maps, "a.npz", lambda path: load_maps(path.parent, path.stem)),
    "metrics.json": file_target(_records, "metrics.json", _metrics),
    **{f"wild {kind} ({reader})": _wild(kind, reader) for kind, reader in wild.KINDS},
}
