"""The Shapes benchmark: generated pictures, in VOC12 layout.

They show each of the failures that the papers address.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image

from wsss_fast.data.shapes.draw import CONTEXTS, FIGURES
from wsss_fast.data.shapes.scene import PRESETS, Scene, SceneOptions, make_scene
from wsss_fast.errors import InputError
from wsss_fast.readers.label_maps import write_labels

VERSION = 2  # to be raised whenever the same arguments give other pictures
_SPLITS = ("train", "val")
_MIN_SIZE, _MAX_SIZE = 48, 512
_MOST_PICTURES, _LARGEST_SEED = 1_000_000, 2**63 - 1
OBJECTS = "SegmentationObject"
_FOLDERS = (
    "JPEGImages",
    "Annotations",
    "SegmentationClass",
    OBJECTS,
    "saliency",
    "context",
    "ImageSets/Segmentation",
)


def make_shapes(
    out: str | Path,
    *,
    seed: int = 0,
    train: int = 800,
    val: int = 200,
    size: int = 128,
    preset: str = "standard",
    options: SceneOptions | None = None,
) -> Path:
    """Generate the benchmark: 8 classes in 4 pairs of look-alikes, in VOC12 layout.

    Writes `JPEGImages/<id>.jpg`, `Annotations/<id>.xml` (tags and boxes),
    `SegmentationClass/<id>.png` (0 background, 1..8 classes, 255 the rest of an object too hidden
    to be recognised), `SegmentationObject/<id>.png` (likewise, but 1..N are the objects, in the
    order of the annotation), `saliency/<id>.png` (0..255), `context/<id>.png` (0 none, 1 rails, 2
    water, 3 grass, 4 road; objects cut out), `ImageSets/Segmentation/{train,val}.txt`,
    `classes.txt`, `shapes.json`. The same arguments give the same files. All are written to a
    temporary folder next to `out`, which is renamed at the end. Takes about 10 s on two cores.

    Args:
        out: folder to create; it must not exist, or be empty.
        seed: any whole number >= 0; each picture has its own random generator, seeded with (seed,
            split, index).
        train: number of pictures in the train split, >= 1.
        val: number of pictures in the val split, >= 0.
        size: side of the square pictures in pixels, 48..512; all in them scales with it.
        preset: difficulty of the pictures: "standard", "sparse", whose objects are large compared
            with the part that distinguishes them, or "uneven", whose parts differ strongly in
            size and contrast (`data/shapes/scene.py`).
        options: numbers used instead of the preset's.

    Returns:
        `out` as a path.

    Raises:
        InputError: an argument out of range, or `out` is not empty.

    Example:
        >>> make_shapes("/tmp/shapes", train=800, val=200)          # doctest: +SKIP
        PosixPath('/tmp/shapes')
    """
    target = Path(out)
    if preset not in PRESETS:
        raise InputError(f"make_shapes: preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    options = options or PRESETS[preset]
    _check(target, seed, {"train": (train, 1), "val": (val, 0)}, size)
    jobs = [
        (split, i) for split, count in zip(_SPLITS, (train, val), strict=True) for i in range(count)
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for folder in _FOLDERS:
            (work / folder).mkdir(parents=True)
        _make_scenes(jobs, seed, size, options, lambda name, scene: _write_scene(work, name, scene))
        for split in _SPLITS:
            lines = [f"{_id(s, i)}\n" for s, i in jobs if s == split]
            (work / "ImageSets/Segmentation" / f"{split}.txt").write_text("".join(lines))
        (work / "classes.txt").write_text("".join(f"{f.name}\n" for f in FIGURES))
        about = {
            "version": VERSION,
            "seed": seed,
            "train": train,
            "val": val,
            "size": size,
            "preset": preset,
            "options": dataclasses.asdict(options),
            "contexts": {name: i for i, name in enumerate(CONTEXTS, 1)},
        }
        (work / "shapes.json").write_text(json.dumps(about, indent=2) + "\n")
        work.chmod(0o755)  # mkdtemp creates private folders
        work.replace(target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return target


def add_objects(folder: Path) -> None:
    """Write `SegmentationObject` into a benchmark that an earlier release generated without it.

    Args:
        folder: the benchmark; its other files stay.
    """
    about = json.loads((folder / "shapes.json").read_text())
    jobs = [(split, i) for split in _SPLITS for i in range(about[split])]
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _make_scenes(
            jobs,
            about["seed"],
            about["size"],
            SceneOptions(**about["options"]),
            lambda name, scene: write_labels(work / f"{name}.png", scene.object_numbers()),
        )
        work.chmod(0o755)
        work.replace(folder / OBJECTS)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check(target: Path, seed: int, counts: dict[str, tuple[int, int]], size: int) -> None:
    for name, (value, least) in {"seed": (seed, 0), **counts}.items():
        most = _LARGEST_SEED if name == "seed" else _MOST_PICTURES
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not (whole and least <= value <= most):
            raise InputError(
                f"make_shapes: {name} must be a whole number in {least}..{most}, got {value!r}"
            )
    if (
        isinstance(size, bool)
        or not isinstance(size, (int, np.integer))
        or not _MIN_SIZE <= size <= _MAX_SIZE
    ):
        raise InputError(
            f"make_shapes: size must be a whole number of pixels in {_MIN_SIZE}..{_MAX_SIZE}, "
            f"got {size!r}"
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(
            f"make_shapes: out {target} exists already; choose a new folder, or remove it first"
        )


def _id(split: str, index: int) -> str:
    return f"{split}_{index:05d}"


def _make_scenes(
    jobs: Sequence[tuple[str, int]],
    seed: int,
    size: int,
    options: SceneOptions,
    write: Callable[[str, Scene], None],
) -> None:
    """Generate the pictures of `jobs`, each a split and an index, and `write` (id, picture)."""

    def make(job: tuple[str, int]) -> None:
        split, index = job
        rng = np.random.default_rng([seed, _SPLITS.index(split), index])
        write(_id(*job), make_scene(rng, size, options))

    # Threads suffice: Pillow and NumPy release the interpreter lock for most of the work.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as workers:
        try:
            list(workers.map(make, jobs))
        except BaseException:
            workers.shutdown(cancel_futures=True)
            raise


def _write_scene(root: Path, name: str, scene: Scene) -> None:
    Image.fromarray(scene.image).save(root / "JPEGImages" / f"{name}.jpg", quality=92)
    label_maps = {
        "SegmentationClass": scene.mask,
        OBJECTS: scene.object_numbers(),
        "context": scene.context,
    }
    for folder, labels in label_maps.items():
        write_labels(root / folder / f"{name}.png", labels)
    Image.fromarray(scene.saliency).save(root / "saliency" / f"{name}.png", compress_level=1)
    (root / "Annotations" / f"{name}.xml").write_text(_annotation(name, scene))


def _annotation(name: str, scene: Scene) -> str:
    """VOC's annotation of a scene; boxes are in pixels counted from 1, both ends included."""
    height, width = scene.mask.shape
    lines = [
        "<annotation>",
        f"  <filename>{escape(name)}.jpg</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
    ]
    for thing in scene.objects:
        x0, y0, x1, y1 = (v + 1 for v in thing.box)
        lines.append(
            f"  <object><name>{escape(thing.figure.name)}</name><difficult>0</difficult><bndbox>"
            f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
            "</bndbox></object>"
        )
    return "\n".join([*lines, "</annotation>", ""])
