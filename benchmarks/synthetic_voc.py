"""Write a folder in VOC2012 layout with synthetic photos: textured objects on textured ground.

    python benchmarks/synthetic_voc.py FOLDER [--train 64] [--val 16] [--size 375 500]

Tags are in XML files; there are masks and saliency maps. The same arguments give the same files.
It serves to time whole pipelines where no real photos are available. Each class has its own colour
and stripes, so that a network can learn it, but accuracies on these images mean nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from wsss_fast.data import VOC_CLASSES, write_labels  # noqa: E402

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


def make(root: Path, train: int = 64, val: int = 16, size: tuple[int, int] = (375, 500)) -> Path:
    """Write the folder; every fourth image is in portrait format.

    Args:
        root: folder to write.
        train: number of training images.
        val: number of validation images.
        size: height and width of the others in pixels.
    """
    for folder in ("JPEGImages", "Annotations", "ImageSets/Segmentation", "saliency"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    number = 0
    for split, count in (("train", train), ("val", val)):
        ids = []
        for _ in range(count):
            rng = np.random.default_rng([2012, number])
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
            (root / "Annotations" / f"{id}.xml").write_text(
                f"<annotation>{annotation}</annotation>"
            )
            ids.append(id)
            number += 1
        (root / "ImageSets/Segmentation" / f"{split}.txt").write_text(
            "".join(f"{id}\n" for id in ids)
        )
    return root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=64, help="number of training images")
    parser.add_argument("--val", type=int, default=16, help="number of validation images")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(375, 500),
        metavar=("HEIGHT", "WIDTH"),
        help="size in pixels",
    )
    options = parser.parse_args()
    make(options.folder, options.train, options.val, tuple(options.size))


if __name__ == "__main__":
    main()
