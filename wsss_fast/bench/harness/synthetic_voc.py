"""A folder in VOC2012 layout with synthetic photos: textured objects on textured ground.

It serves to time stages and pipelines where no real photos are available. Each class has its own
colour and stripes, so that a network can learn it, but accuracies on these images mean nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from wsss_fast.data import VOC_CLASSES, write_labels

_BORDER = 255  # VOC's label for the border of objects, which is not scored


def texture(
    rng: np.random.Generator, height: int, width: int, cell: int, contrast: float
) -> np.ndarray:
    """Smooth noise [H, W, 3], float, around 0, with features of about `cell` pixels."""
    low = rng.normal(0.0, contrast, (height // cell + 2, width // cell + 2, 3))
    planes = [
        Image.fromarray(low[..., c].astype(np.float32)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        for c in range(3)
    ]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def picture(
    labels: list[int], height: int, width: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, int, int, int]]]:
    """One image: its photo, its mask and its objects, one for each label.

    Returns:
        Photo uint8 [H, W, 3], mask uint8 [H, W], boxes (x0, y0, x1, y1) in pixels.
    """
    photo = (
        rng.uniform(70, 180, 3)
        + texture(rng, height, width, 40, 30.0)
        + texture(rng, height, width, 6, 12.0)
    )
    mask = np.zeros((height, width), np.uint8)
    rows, columns = np.mgrid[:height, :width]
    boxes, step = [], width // len(labels)
    for place, label in enumerate(labels):  # side by side, so that none hides another
        # Colour, direction and period of the stripes depend on the class only.
        own = np.random.default_rng(label)
        colour, angle, period = own.uniform(20, 235, 3), own.uniform(0, np.pi), own.uniform(5, 17)
        centre = (
            (place + 0.5) * step + rng.uniform(-0.05, 0.05) * step,
            height * rng.uniform(0.42, 0.58),
        )
        turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        radius = rng.uniform(0.7, 1.0, 24) * min(step, height) * rng.uniform(0.3, 0.46)
        outline = [
            (centre[0] + r * np.cos(t), centre[1] + r * np.sin(t))
            for r, t in zip(radius, turns, strict=True)
        ]
        canvas = Image.new("L", (width, height))
        ImageDraw.Draw(canvas).polygon(outline, fill=1, outline=2, width=3)
        area = np.asarray(canvas)
        stripes = 35 * np.sin(
            (columns * np.cos(angle) + rows * np.sin(angle)) * (2 * np.pi / period)
        )
        inside = area > 0
        surface = colour + stripes[..., None] + texture(rng, height, width, 12, 14.0)
        photo[inside] = surface[inside]
        mask[area == 1], mask[area == 2] = label, _BORDER
        ys, xs = np.nonzero(inside)
        boxes.append((int(xs.min()), int(ys.min()), int(xs.max()), int(ys.max())))
    photo += rng.normal(0, 5, photo.shape)
    return np.clip(photo, 0, 255).astype(np.uint8), mask, boxes


def objects_xml(labels: list[int], boxes: list[tuple[int, int, int, int]]) -> str:
    """The objects of an annotation; VOC counts pixels from 1."""
    return "".join(
        f"<object><name>{VOC_CLASSES[label - 1]}</name><difficult>0</difficult>"
        f"<bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin>"
        f"<xmax>{x1 + 1}</xmax><ymax>{y1 + 1}</ymax></bndbox></object>"
        for label, (x0, y0, x1, y1) in zip(labels, boxes, strict=True)
    )


def make(
    root: Path,
    train: int = 64,
    val: int = 16,
    size: tuple[int, int] = (375, 500),
    *,
    odd: int = 0,
) -> Path:
    """Write the folder: photos, tags, masks and saliency maps.

    The same arguments give the same files. Every fourth image is in portrait format; images have
    one, two or three classes.

    Args:
        root: folder to write.
        train: number of training images.
        val: number of validation images.
        size: height and width in pixels of the images in landscape format.
        odd: every n-th image has a shorter side of its own; 0: none.
    """
    for folder in ("JPEGImages", "Annotations", "ImageSets/Segmentation", "saliency"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    ids = [_write(root, number, size, odd) for number in range(train + val)]
    for split, chosen in (("train", ids[:train]), ("val", ids[train:])):
        (root / "ImageSets/Segmentation" / f"{split}.txt").write_text(
            "".join(f"{id}\n" for id in chosen)
        )
    return root


def _write(root: Path, number: int, size: tuple[int, int], odd: int) -> str:
    """Write all files of one image; returns its id."""
    rng = np.random.default_rng([2012, number])
    if odd and number % odd == odd - 1:
        size = max(1, size[0] - int(rng.integers(1, 1 + max(1, size[0] // 4)))), size[1]
    height, width = size if number % 4 else size[::-1]
    chosen = 1 + rng.choice(len(VOC_CLASSES), 1 + number % 3, replace=False)
    labels = sorted(map(int, chosen))
    photo, mask, boxes = picture(labels, height, width, rng)
    id = f"2012_{number:06d}"
    Image.fromarray(photo).save(root / "JPEGImages" / f"{id}.jpg", quality=92)
    write_labels(root / "SegmentationClass" / f"{id}.png", mask)
    saliency = np.where((mask > 0) & (mask < _BORDER), 235, 10).astype(np.uint8)
    Image.fromarray(saliency).save(root / "saliency" / f"{id}.png")
    annotation = f"<filename>{id}.jpg</filename>{objects_xml(labels, boxes)}"
    (root / "Annotations" / f"{id}.xml").write_text(f"<annotation>{annotation}</annotation>")
    return id
