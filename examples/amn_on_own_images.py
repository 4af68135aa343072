"""AMN on a folder of your own images: from image tags to pixel masks.

    python examples/amn_on_own_images.py [FOLDER]

Your folder needs images and a `labels.csv` with one line per image, `file,class[;class...]`. This
script draws such a folder: 64 images of 64 x 64 pixels with discs and squares on a noisy ground. It
also draws the true masks, which are used for nothing but the printed scores. Then the whole
pipeline runs: classifier, class activation maps, seeds, AMN, AMN maps, and a dense CRF that makes
the masks.

The numbers of epochs are those of a toy, and the thresholds of the seeds lie around the best
threshold of its CAM, which report.html shows. For photos leave `pipeline` and `backbone` out and
pass `weights="resnet50.pth"` (torchvision's), which the published recipe starts from.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import wsss_fast as wf

COLOURS = {"disc": (200, 90, 60), "square": (70, 90, 190)}  # labels 1, 2: alphabetical order
TAGS = [("disc",), ("square",), ("disc", "square"), ()]  # of the images, in turn


def draw_folder(folder: Path, count: int = 64, side: int = 64) -> None:
    """Write images/, labels.csv and masks/."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    lines = ["file,class"]
    for n in range(count):
        tags = TAGS[n % len(TAGS)]
        image, mask = Image.new("RGB", (side, side), (100, 120, 90)), Image.new("L", (side, side))
        for place, name in zip(rng.permutation(2), tags, strict=False):
            x, y = int(place) * 30 + rng.integers(2, 8), rng.integers(4, 34)
            box = [int(v) for v in (x, y, x + 24, y + 24)]
            label = list(COLOURS).index(name) + 1
            for drawn, colour in ((image, COLOURS[name]), (mask, label)):
                draw = ImageDraw.Draw(drawn)
                (draw.ellipse if name == "disc" else draw.rectangle)(box, fill=colour)
        noisy = np.array(image) + rng.normal(0, 20, (side, side, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"images/{n:03}.png")
        mask.save(folder / f"masks/{n:03}.png")
        lines.append(f"{n:03}.png,{';'.join(tags)}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def main(folder: Path) -> None:
    draw_folder(folder / "data")
    data = wf.data.load(folder / "data")
    print(f"{len(data)} images, {int(data.tags.sum())} tags, classes {', '.join(data.classes)}")

    small = wf.amn.PIPELINES["small"]
    pipeline = dataclasses.replace(
        small,
        cam=dataclasses.replace(small.cam, epochs=12),
        fg_threshold=0.75,
        bg_threshold=0.50,
        amn=dataclasses.replace(small.amn, epochs=10),
        refine=dataclasses.replace(small.refine, kind="crf"),  # without IRN
    )
    run = wf.amn.run(data, folder / "run", backbone="small", pipeline=pipeline, until="masks")

    cam = wf.threshold_curve(folder / "run/cam/maps", data)
    print(f"CAM at its best threshold, {cam.best:.2f}: {100 * max(cam.miou):.1f} % mIoU")
    print(f"masks: {100 * run.metrics.miou:.1f} % mIoU")
    print(
        f"{len(list(run.masks.glob('*.png')))} masks are in {run.masks}, the report is {run.report}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "own-images"))
