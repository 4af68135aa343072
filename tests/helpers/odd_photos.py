"""A folder of photos of many kinds, as people have them, with image tags in a csv file."""

import numpy as np
from PIL import Image

_COLOURS = {"cup": (200, 60, 40), "plate": (40, 90, 210), "spoon": (230, 200, 60)}
# How each photo is stored, in turn: suffix, mode of the file, options of its writer.
_KINDS = (
    (".jpg", "RGB", {}),
    (".JPG", "RGB", {"quality": 60, "progressive": True}),
    (".jpeg", "L", {}),
    (".jpg", "CMYK", {}),
    (".jpg", "RGB", {"exif": 6}),
    (".png", "RGB", {}),
    (".png", "RGBA", {}),
    (".png", "P", {}),
    (".webp", "RGB", {"lossless": True}),
    (".bmp", "RGB", {}),
)


def make_odd_photos(root, count=30, size=64):
    """Write `photos/` and `tags.csv` below `root`; returns the labels of the photos by file name.

    Each photo shows one or two filled shapes, one per tag, on noise; every tenth has neither.
    """
    folder = root / "photos"
    folder.mkdir(parents=True)
    rng, names = np.random.default_rng(0), list(_COLOURS)
    lines, truth = ["file,class"], {}
    for n in range(count):
        suffix, mode, options = _KINDS[n % len(_KINDS)]
        name = f"IMG {n:03d} é{suffix}" if n % 7 == 3 else f"IMG_{n:03d}{suffix}"
        tags = [] if n % 10 == 9 else [names[n % 3], names[(n + 1) % 3]][: 1 + n % 2]
        photo, labels = _draw(rng, tags, (size + 8 * (n % 3), size + 16 - 8 * (n % 2)))
        _save(folder / name, photo, mode, dict(options))
        lines.append(f"{name},{';'.join(tags)}")
        truth[name] = labels
    (root / "tags.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return truth


def _draw(rng, tags, size):
    """A photo, uint8 [H, W, 3], and its labels, uint8 [H, W]."""
    height, width = size
    photo = rng.normal(110, 12, (height, width, 3))
    labels = np.zeros(size, np.uint8)
    y, x = np.mgrid[:height, :width]
    for place, tag in enumerate(tags):
        cy, cx = height * (0.3 + 0.4 * place), width * rng.uniform(0.3, 0.7)
        radius = min(size) * 0.2
        inside = (y - cy) ** 2 + (x - cx) ** 2 < radius**2
        photo[inside] = rng.normal(_COLOURS[tag], 12, (int(inside.sum()), 3))
        labels[inside] = 1 + list(_COLOURS).index(tag)
    return photo.clip(0, 255).astype(np.uint8), labels


def _save(path, photo, mode, options):
    image = Image.fromarray(photo)
    if turned := options.pop("exif", None):
        exif = Image.Exif()
        exif[0x0112] = turned
        image, options["exif"] = image.transpose(Image.Transpose.ROTATE_90), exif
    if mode == "RGBA":
        image.putalpha(Image.new("L", image.size, 200))
    elif mode == "P":
        image = image.quantize(128)
    else:
        image = image.convert(mode)
    image.save(path, **options)
