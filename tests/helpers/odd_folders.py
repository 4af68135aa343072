"""Tiny folders with labels.csv, as strangers have them, for tests of odd inputs."""

import numpy as np
from PIL import Image

from wsss_fast import data
from wsss_fast.engine import remarks

SIZE = (12, 16)
BOX = np.zeros(SIZE, np.uint8)
BOX[3:9, 4:12] = 1


def photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*SIZE, 3), 60, np.uint8)
    pixels[BOX == 1] = (200, 80, 40)
    Image.fromarray(pixels).save(path, "PNG" if path.suffix.lower() == ".png" else "JPEG")


def mask(path, labels=BOX):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(path, "PNG")


def make(root, text, files=("t.jpg", "u.jpg"), classes=None):
    """A folder of photos with this labels.csv (text or bytes), and a classes.txt if given."""
    root.mkdir(parents=True, exist_ok=True)
    for file in files:
        photo(root / file)
    content = text if isinstance(text, bytes) else text.encode()
    (root / "labels.csv").write_bytes(content)
    if classes is not None:
        (root / "classes.txt").write_text(classes, encoding="utf-8")
    return root


def tags(loaded):
    """Class names of the tags of each image."""
    return {i: [loaded.classes[k] for k in np.flatnonzero(loaded.tags_of(i))] for i in loaded.ids}


def load(root, **options):
    """The data set, and the remarks on it."""
    with remarks.collected():
        loaded = data.load(root, **options)
        return loaded, remarks.lines()
