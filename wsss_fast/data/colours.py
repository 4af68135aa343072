"""Random changes of an image's colours, computed only where they are needed."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from PIL import Image

_GRAY = np.array([0.299, 0.587, 0.114], np.float32)  # Rec. 601
_BLOCK = 1 << 15  # pixels whose hue is turned together, so that they stay in the cache

Part = tuple[slice, slice]  # rows, columns


class Jitter(NamedTuple):
    """Changes of an image's colours.

    Attributes:
        brightness: factor on all values.
        contrast: factor on the difference from the mean gray of the image.
        saturation: factor on the difference from a pixel's gray.
        hue: share of the colour circle, -0.5..0.5, by which the hue is turned; None leaves it.
    """

    brightness: np.float32
    contrast: np.float32
    saturation: np.float32
    hue: float | None


def draw_jitter(strength: float, hue: float, rng: np.random.Generator) -> Jitter:
    """Factors within `strength` of 1, and a turn of at most `hue`."""
    factors = rng.uniform(1 - strength, 1 + strength, 3).astype(np.float32)
    brightness, contrast, saturation = factors
    return Jitter(brightness, contrast, saturation, rng.uniform(-hue, hue) if hue else None)


def jittered(image: np.ndarray, jitter: Jitter, part: Part) -> np.ndarray:
    """A part of an image with changed colours.

    Args:
        image: RGB [H, W, 3] in 0..255, the whole of it, since its mean gray is used.
        jitter: the changes.
        part: rows and columns of the result.

    Returns:
        uint8 [h, w, 3], stored channel by channel.
    """
    bright = image.astype(np.float32) * jitter.brightness
    gray = bright @ _GRAY
    mean, own = gray.mean(), np.ascontiguousarray(gray[part])
    planes = np.empty((3, *own.shape), np.uint8)
    for channel, plane in enumerate(planes):
        x = bright[part[0], part[1], channel] - own
        x *= jitter.saturation
        x += own
        x -= mean
        x *= jitter.contrast
        x += mean
        x += 0.5
        plane[...] = np.clip(x, 0, 255, out=x)
    if jitter.hue is not None:
        turn_hue(planes, jitter.hue)
    return planes.transpose(1, 2, 0)


def turn_hue(planes: np.ndarray, share: float) -> None:
    """Move the hue of uint8 RGB [3, h, w] by a share of the colour circle, in place.

    The colours are Pillow's conversion to HSV and back, as its formulas give them.
    """
    tables, turn = _hsv_tables(), np.uint8(round(share * 255) % 256)
    flat = planes.reshape(3, -1)
    for start in range(0, flat.shape[1], _BLOCK):
        block = flat[:, start : start + _BLOCK]
        block[...] = _turned(block[0], block[1], block[2], turn, tables)


def shift_hsv(image: np.ndarray, hue: int, saturation: int, value: int) -> np.ndarray:
    """Add to hue, saturation and value, as RandomHSV in YudeWang/semantic-segmentation-codebase.

    Pillow's hue has 255 steps, OpenCV's there 180, so that colours differ by rounding.

    Args:
        image: uint8 RGB [H, W, 3].
        hue: in 1/180 of the colour circle.
        saturation, value: in levels; results beyond 0..255 are cut off.

    Returns:
        uint8 [H, W, 3].
    """
    hsv = np.asarray(Image.fromarray(image).convert("HSV")).astype(np.int16)
    hsv[..., 0] = (hsv[..., 0] + round(hue * 255 / 180)) % 255
    hsv[..., 1:] = np.clip(hsv[..., 1:] + (saturation, value), 0, 255)
    planes = np.ascontiguousarray(hsv.transpose(2, 0, 1), np.uint8)
    return np.asarray(Image.merge("HSV", [Image.fromarray(one) for one in planes]).convert("RGB"))


class _Tables(NamedTuple):
    """Parts of the conversions between RGB and HSV.

    Attributes:
        hue: uint8, by the order of the three values, highest - middle and highest - lowest value.
        saturation: uint8, by the highest and highest - lowest value.
        middle: float64 factor of the highest value that gives the middle one, by hue and
            saturation.
        lowest: uint8, by the highest value and saturation.
        places: places of red, green and blue among the highest, middle and lowest value, uint8
            shifts by hue, [3, 256].
    """

    hue: np.ndarray
    saturation: np.ndarray
    middle: np.ndarray
    lowest: np.ndarray
    places: np.ndarray


def _turned(
    red: np.ndarray, green: np.ndarray, blue: np.ndarray, turn: np.uint8, tables: _Tables
) -> list[np.ndarray]:
    highest = np.maximum(np.maximum(red, green), blue)
    lowest = np.minimum(np.minimum(red, green), blue)
    middle = red ^ green ^ blue ^ highest ^ lowest
    spread = highest - lowest
    order = _order(red, green, blue)
    hue = tables.hue.take(_index(order, highest - middle, spread), mode="clip") + turn
    saturation = tables.saturation.take(_index(highest, spread), mode="clip")
    lowest = tables.lowest.take(_index(highest, saturation), mode="clip")
    factor = tables.middle.take(_index(hue, saturation), mode="clip")
    factor *= highest
    factor += 0.5  # rounds up halves, as C's round does
    packed = factor.astype(np.uint32)
    packed <<= 8
    packed |= highest
    packed |= lowest.astype(np.uint32) << 16
    return [packed >> tables.places[c].take(hue, mode="clip") for c in range(3)]


def _order(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> np.ndarray:
    """Number of the order of three values, 0..7."""
    return (
        (red >= green).view(np.uint8)
        | ((green >= blue).view(np.uint8) << 1)
        | ((red >= blue).view(np.uint8) << 2)
    )


def _index(*bytes_: np.ndarray) -> np.ndarray:
    """Index into a table by several bytes, of which the last counts most finely."""
    index = bytes_[0].astype(np.intp)
    for byte in bytes_[1:]:
        index <<= 8
        index |= byte
    return index


@functools.cache
def _hsv_tables() -> _Tables:
    level = np.arange(256)
    hue, order = np.zeros((8, 256, 256), np.uint8), np.zeros((8, 3), np.intp)
    for first, second, third in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        # Colours whose highest value is 255, by the two differences from it.
        colours = np.zeros((256, 256, 3), np.uint8)
        colours[..., first] = 255
        colours[..., second] = 255 - level[:, None]
        colours[..., third] = 255 - level
        distinct = np.array([[3 - c for c in np.argsort([first, second, third])]], np.uint8)
        number = _order(*distinct.T)[0]
        hue[number] = _to_hsv(colours)[..., 0]
        order[number] = first, second, third
    gray = np.zeros((256, 256, 3), np.uint8)
    gray[..., 0] = level[:, None]
    gray[..., 1] = gray[..., 2] = np.maximum(level[:, None] - level, 0)
    saturation = _to_hsv(gray)[..., 1]
    # As in Pillow: the sixth of the circle, in single precision where it uses that.
    sixths = level * 6.0 / 255.0
    number = np.floor(sixths).astype(np.intp)
    part = (sixths - number).astype(np.float32)
    share = (level / 255.0).astype(np.float32)
    falling = 1.0 - (part[:, None] * share).astype(np.float64)
    rising = 1.0 - share.astype(np.float64) * (1.0 - part.astype(np.float64))[:, None]
    middle = np.where(number[:, None] % 2 == 1, falling, rising)
    lowest = np.floor(level[:, None] * (1.0 - share.astype(np.float64)) + 0.5).astype(np.uint8)
    # Shifts of the highest (0), middle (8) and lowest (16) value, for each sixth.
    shifts = np.array(
        [[0, 8, 16], [8, 0, 16], [16, 0, 8], [16, 8, 0], [8, 16, 0], [0, 16, 8]], np.uint32
    )
    places = np.ascontiguousarray(shifts[number % 6].T)
    return _Tables(hue.ravel(), saturation.ravel(), middle.ravel(), lowest.ravel(), places)


def _to_hsv(colours: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(colours).convert("HSV"))
