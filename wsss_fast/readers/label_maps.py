"""Label maps: masks, seeds and predictions; 0 is background, 255 ignore.

The labels are the stored samples: palette indices or gray values, of 1 to 16 bits.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from wsss_fast.engine import remarks
from wsss_fast.engine.files import atomic_write
from wsss_fast.errors import InputError
from wsss_fast.readers._opening import num_frames, opened, raw_mode
from wsss_fast.readers.photos import is_turned, upright

IGNORE = 255
# Formats that store samples unchanged. GIF does, too, but its writers renumber the palette.
_FORMATS = ("PNG", "TIFF", "BMP", "DIB", "PPM", "TGA")
_LOSSLESS_TIFF = (
    "raw",
    "packbits",
    "tiff_lzw",
    "tiff_adobe_deflate",
    "tiff_deflate",
    "lzma",
    "zstd",
    "group3",  # these are of 1 bit
    "group4",
    "tiff_ccitt",
)
_CURE = "save it as an 8-bit gray or palette PNG"
_COCO_CLASSES = 80
_COLOURS_OF_HTML = 8  # VOC's colours of 0..7 are HTML's basic colours, found in many palettes


def voc_palette() -> np.ndarray:
    """The VOC colour of each label, uint8 [256, 3].

    Bits 0, 3 and 6 of a label are the highest three bits of its red, bits 1, 4 and 7 those of its
    green, bits 2 and 5 the highest two of its blue.
    """
    labels = np.arange(256, dtype=np.uint8)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(3):
        for channel in range(3):
            colours[:, channel] |= ((labels >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours


_COLOURS = voc_palette()
_PALETTE = _COLOURS.tobytes()


def read_labels(path: Path, num_classes: int | None = None) -> np.ndarray:
    """Read a label map as uint8 [H, W] from palette indices or gray values.

    EXIF rotation is applied, as for photos.

    Args:
        path: palette or gray PNG; 0 background, 1..num_classes, 255 ignore.
        num_classes: number of classes; None allows any label.

    Raises:
        InputError: the file cannot be read, is a colour image (which has no label indices), may
            have lost its labels (a lossy format, a reordered palette), or has a label that is
            neither background, a class nor 255.
    """
    return read_labels_and_palette(path, num_classes)[0]


def read_labels_and_palette(path: Path, num_classes: int | None = None) -> tuple[np.ndarray, bytes]:
    """`read_labels`, and the RGB bytes of the palette, b"" if the file has none."""
    with opened(path, "label map") as image:
        _check_container(path, image)
        stored = raw_mode(image)
        samples = np.array(upright(image))
        palette = bytes(image.getpalette() or b"") if image.mode == "P" else b""
    values = _one_channel(path, samples, image.mode, stored)
    labels = _as_labels(path, values, num_classes)
    present = np.flatnonzero(np.bincount(labels.reshape(-1), minlength=256))
    _check_allowed(path, present, num_classes)
    if palette and not _PALETTE.startswith(palette):
        _check_palette(path, palette, present, num_classes)
    return labels, palette


def _check_container(path: Path, image: Image.Image) -> None:
    """Reject formats and modes that lose or change labels."""
    kind, stored = image.format, raw_mode(image)
    if kind not in _FORMATS:
        why = "whose writers renumber palettes" if kind == "GIF" else "which may change labels"
        raise InputError(f"{path}: its format is {kind}, {why}; {_CURE} of the original labels")
    compression = image.info.get("compression")
    if kind == "TIFF" and compression not in _LOSSLESS_TIFF:
        raise InputError(
            f"{path}: is a TIFF with {compression} compression, which may change labels; "
            f"{_CURE} of the original labels"
        )
    if num_frames(image) > 1:
        raise InputError(
            f"{path}: has {num_frames(image)} pictures, but a label map is one; "
            "merge them into one PNG"
        )
    tiles = getattr(image, "tile", [])
    is_scaled = tiles and tiles[0][0].startswith("ppm") and tiles[0][3][-1] != 255
    if is_scaled or (image.mode == "L" and "I" in stored.partition(";")[2]):
        raise InputError(f"{path}: its gray values are not stored as 0..255 from black; {_CURE}")
    if ";16" in stored and not image.mode.startswith("I"):
        raise InputError(f"{path}: is a colour image of 16 bits per channel; {_CURE}")


def _one_channel(path: Path, samples: np.ndarray, mode: str, stored: str) -> np.ndarray:
    """Samples [H, W] as they are stored, from what Pillow decodes."""
    if mode == "L" and stored in ("L;2", "L;4"):  # Pillow stretches them to 0..255
        return samples // (255 // (2 ** int(stored[2]) - 1))
    if samples.ndim == 2 and (mode in ("1", "L", "P", "F") or mode.startswith("I")):
        return samples
    if mode in ("LA", "RGBA", "PA"):
        if (samples[..., -1] != samples[..., -1].flat[0]).any():
            raise InputError(
                f"{path}: has a varying alpha channel, so that its labels are unclear; {_CURE}"
            )
        samples = samples[..., :-1]
    if mode == "PA" or (samples != samples[..., :1]).any():
        raise InputError(
            f"{path}: is a colour image, but label maps are palette or 8-bit gray PNGs of one "
            "label per pixel; replace each colour by its label"
        )
    return samples[..., 0]


def _as_labels(path: Path, values: np.ndarray, num_classes: int | None) -> np.ndarray:
    """Values of any type -> uint8."""
    if values.dtype in (np.uint8, np.bool_):
        return values.astype(np.uint8)
    wrong = values[(values < 0) | (values > IGNORE) | (values != np.rint(values))]
    if wrong.size:
        hint = "; write the object as 1" if (wrong == 65535).all() else ""
        allowed = f"0..{IGNORE}" if num_classes is None else f"0..{num_classes} and {IGNORE}"
        raise InputError(
            f"{path}: label {wrong.flat[0]:g} is impossible; allowed are {allowed}{hint}"
        )
    return values.astype(np.uint8)


def _check_allowed(path: Path, present: np.ndarray, num_classes: int | None) -> None:
    if num_classes is None:
        return
    bad = present[(present > num_classes) & (present != IGNORE)]
    if bad.size:
        raise InputError(
            f"{path}: label {bad[0]} is impossible; allowed are 0..{num_classes} and {IGNORE}"
            f"{_of_coco(present) if num_classes == _COCO_CLASSES else ''}"
        )


def _of_coco(present: np.ndarray) -> str:
    """Which numbering of COCO's classes the labels may have, for a message."""
    labels = present[present != IGNORE]
    lowest, highest = int(labels[0]), int(labels[-1])
    if lowest == 91 and highest <= 171:
        return "; perhaps 91 was added to all labels, as MCTformer does: subtract it"
    if highest <= 90:
        return (
            "; perhaps these are COCO's category ids 1..90: wsss-fast import coco writes masks of "
            "labels"
        )
    if highest <= 181:
        return (
            "; perhaps these are COCO-Stuff's (category id - 1, so that 0 is person, not "
            "background): wsss-fast import coco writes masks of labels"
        )
    return ""


def _check_palette(
    path: Path, palette: bytes, present: np.ndarray, num_classes: int | None
) -> None:
    """Reject a palette whose colours are other labels than its indices.

    Programs that make PNGs smaller drop unused colours and renumber the others; the indices are no
    labels then.
    """
    colours = np.frombuffer(palette, np.uint8).reshape(-1, 3)
    used = present[present < len(colours)]
    shown = colours[used]  # [n, 3]
    is_gray = bool((shown == shown[:, :1]).all())
    meant = shown[:, 0].astype(int) if is_gray else np.array([_voc_label(c) for c in shown])
    limit = IGNORE if num_classes is None else num_classes
    are_labels = ((meant >= 0) & (meant <= limit)) | (meant == IGNORE)
    is_black_and_white = is_gray and np.array_equal(meant, IGNORE * used)  # palettes of 1 bit
    if not are_labels.all() or is_black_and_white or np.array_equal(meant, used):
        return
    label = meant[meant != used].max()
    index = used[meant == label][0]
    if is_gray or label >= _COLOURS_OF_HTML:
        colour = "the gray value" if is_gray else "VOC's colour of label"
        raise InputError(
            f"{path}: palette index {index} has {colour} {label}, so that a program may have "
            "renumbered the labels; save the labels as an 8-bit gray PNG"
        )
    remarks.add("label map with VOC's colours in another order: its indices are read", path)


def _voc_label(colour: np.ndarray) -> int:
    """The label of a VOC colour, -1 for another colour."""
    found = np.flatnonzero((colour == _COLOURS).all(axis=1))
    return int(found[0]) if found.size else -1


def check_size(path: Path, shape: tuple[int, ...], photo: Path, size: tuple[int, int]) -> None:
    """Reject a label map of another size than its photo.

    Args:
        path: file of the label map, for the message.
        shape: its (H, W).
        photo: file of the photo.
        size: (H, W) of the upright photo.

    Raises:
        InputError: they differ.
    """
    if tuple(shape) == tuple(size):
        return
    hint = ""
    if tuple(shape) == tuple(size)[::-1]:
        turned = is_turned(photo)
        hint = (
            "; the photo is turned by its EXIF orientation, so turn the map, too"
            if turned
            else "; height and width are exchanged"
        )
    raise InputError(
        f"{path}: is {shape[0]}x{shape[1]} pixels (HxW), but its image {photo} is "
        f"{size[0]}x{size[1]}{hint}"
    )


@remarks.collected()
def check_folder_values(
    present: Mapping[Path, Collection[int]], what: str, *, needed: bool = True
) -> None:
    """Reject label maps that together say nothing of any class; remark single ones.

    Args:
        present: the labels that each map has, such as `np.unique(labels)`.
        what: name of the maps, for the messages: "masks", "seeds".
        needed: whether at least one pixel of a class is needed, as for training; true masks of
            images without objects are background throughout.

    Raises:
        InputError: all maps hold 0 and 255 only, or all are background and `needed`.
    """
    if not present:
        return
    labels = {path: frozenset(map(int, values)) for path, values in present.items()}
    first, every = next(iter(labels)), frozenset().union(*labels.values())
    if not every - {0, IGNORE} and IGNORE in every:
        held = "255 only" if every == {IGNORE} else "0 and 255 only"
        raise InputError(
            f"{what}: {first.parent}: the maps hold {held}, and 255 means ignore, so that no pixel "
            "of a class is known; write the label of the class instead of 255 (1 for the first)"
        )
    if every == {0} and needed:
        raise InputError(
            f"{what}: {first.parent}: the maps hold 0 only (background); nothing can be learned "
            "from them"
        )
    for path, found in labels.items():
        if found == {IGNORE}:
            text = f"{what}: all pixels are 255 (ignore)"
        elif not found - {0, IGNORE} and (needed or IGNORE in found):
            text = f"{what}: no pixel of a class"
        else:
            continue
        remarks.add(text, path, unit="map", of=len(labels))


def write_labels(path: Path, labels: np.ndarray, palette: bytes | None = None) -> None:
    """Write labels as a PNG, atomically.

    Args:
        path: file to write.
        labels: uint8 [H, W].
        palette: RGB bytes; None for VOC's colours, b"" for a gray PNG.
    """
    with atomic_write(path) as temporary:
        _label_image(labels, palette).save(temporary)


def encode_labels(labels: np.ndarray) -> bytes:
    """The bytes of a PNG of labels, uint8 [H, W], with VOC's colours."""
    content = io.BytesIO()
    _label_image(labels, None).save(content, "PNG")
    return content.getvalue()


def _label_image(labels: np.ndarray, palette: bytes | None) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(labels, dtype=np.uint8), mode=None)
    if palette != b"":
        image.putpalette(_PALETTE if palette is None else palette)
    return image
