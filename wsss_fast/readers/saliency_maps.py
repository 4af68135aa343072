"""Saliency maps: gray or colour images whose brightness, or varying alpha, is the saliency."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from wsss_fast.engine import remarks
from wsss_fast.errors import InputError
from wsss_fast.readers._opening import num_frames, opened, raw_mode
from wsss_fast.readers.label_maps import voc_palette
from wsss_fast.readers.photos import upright

_DEEP = 65535
_GRAY = ("1", "L", "LA")
_COLOURED = 32  # levels between channels that no JPEG compression of a gray map causes


def read_saliency(path: Path) -> np.ndarray:
    """Read a saliency map as uint8 [H, W, 3].

    Where alpha varies (a cut-out), it is the saliency; otherwise it is ignored, and a wholly
    transparent map is black. 16-bit gray is reduced to 8 bits. EXIF rotation is applied.

    Raises:
        InputError: the file is missing, truncated, not an image, of several pictures, of a mode
            other than 8- or 16-bit gray or colour, or a label map in VOC's colours.
    """
    with opened(path, "saliency map") as image:
        if num_frames(image) > 1:
            raise InputError(
                f"{path}: has {num_frames(image)} pictures, but a saliency map is one; "
                "save it as one PNG"
            )
        is_deep = ";16" in raw_mode(image)
        map_ = upright(image)
        if image.mode.startswith("I"):  # Pillow's modes of gray with more than 8 bits
            return np.repeat(_from_deep(path, np.array(map_))[..., None], 3, axis=2)
        if image.mode in ("F", "LAB", "HSV", "CMYK"):
            what = "floating-point values" if image.mode == "F" else f"mode {image.mode}"
            raise InputError(
                f"{path}: has {what}; saliency maps are 8- or 16-bit gray, 0 to 255 or 65535"
            )
        # A transparent gray value or colour is no cut-out: it says less than the value itself.
        if "A" in map_.getbands() or (map_.mode == "P" and "transparency" in map_.info):
            alpha = np.array(map_.convert("RGBA").getchannel("A"))
            if alpha.size and (alpha != alpha.flat[0]).any():
                return np.repeat(alpha[..., None], 3, axis=2)
            if alpha.size and not alpha.any():
                return np.zeros((*alpha.shape, 3), np.uint8)
        if map_.mode == "P" and _has_voc_colours(map_):
            raise InputError(
                f"{path}: its palette has VOC's colours, so it is a label map; saliency maps are "
                "gray, 255 where something is salient, as 255 * (labels > 0)"
            )
        levels = np.array(map_.convert("RGB"))
    if is_deep and not levels.any():
        raise InputError(
            f"{path}: has 16 bits per channel, but no value above 255; save it with 8 bits"
        )
    if map_.mode not in _GRAY and _spread(levels) > _COLOURED:
        remarks.add("coloured saliency map: the mean of its channels is used", path)
    return levels


def _has_voc_colours(image: Image.Image) -> bool:
    """Whether the palette indices in use have VOC's colours of these labels, not only gray ones."""
    used = np.unique(np.array(image))
    colours = np.frombuffer(bytes(image.getpalette() or b""), np.uint8).reshape(-1, 3)
    used = used[used < len(colours)]
    is_gray = (colours[used] == colours[used][:, :1]).all()
    return bool(not is_gray and (colours[used] == voc_palette()[used]).all())


def _spread(levels: np.ndarray) -> int:
    """The largest difference between channels of a pixel, of uint8 [H, W, 3]."""
    red, green, blue = levels.transpose(2, 0, 1)
    highest = np.maximum(np.maximum(red, green), blue)
    return int((highest - np.minimum(np.minimum(red, green), blue)).max(initial=0))


def _from_deep(path: Path, values: np.ndarray) -> np.ndarray:
    """Gray of more than 8 bits -> uint8."""
    if values.size and not (values.min() >= 0 and values.max() <= _DEEP):
        raise InputError(
            f"{path}: spans {values.min()}..{values.max()}; 16-bit saliency is within 0..{_DEEP}"
        )
    if values.size and values.max() <= 255:
        if values.max() > 1:
            remarks.add("saliency map of 16 bits with values up to 255: read as 8 bits", path)
        return values.astype(np.uint8)
    return np.rint(values.astype(np.float64) / 257).astype(np.uint8)


def saliency_of(levels: np.ndarray) -> np.ndarray:
    """Saliency, float32 [H, W] in 0..1, from uint8 [H, W, 3]: the mean over channels."""
    return (levels / 255.0).mean(axis=2).astype(np.float32)
