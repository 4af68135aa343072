"""Label Studio's run lengths of brush masks: its packed list of bytes.

Source: the decoder of label-studio-converter, and rle-pack, where the format comes from.
"""

from __future__ import annotations

import numpy as np

CHANNELS = 4  # RGBA, all alike; Label Studio reads the last one
_INSIDE = 255
_WORD = 8  # bits of a value
_SIZES = np.array([3, 4, 8, 16])  # bits of a run's length - 1: the first that fits is used


def encode_brush(mask: np.ndarray) -> list[int]:
    """A mask as Label Studio's brush.

    The bits of a header (number of values in 32 bits, bits per value - 1 in 5, the four sizes - 1
    in 4 each) and of a block per run of equal values, row by row: 1, the number of its size in 2
    bits, its length - 1 in as many bits as that size says, its value. The highest bit is first.

    Args:
        mask: bool or 0 and 1, [H, W].

    Returns:
        Bytes, as JSON.

    >>> encode_brush(np.ones((2, 2), bool))
    [0, 0, 0, 16, 57, 27, 253, 255, 240]
    """
    flat = np.asarray(mask).astype(bool).reshape(-1)
    bounds = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]))
    lengths, values = CHANNELS * np.diff(bounds), flat[bounds[:-1]]
    longest = 1 << int(_SIZES[-1])
    pieces = -(-lengths // longest)  # of each run
    values = np.repeat(values, pieces).astype(np.int64) * _INSIDE
    rest = lengths - longest * (pieces - 1)
    lengths = np.full(len(values), longest)
    lengths[np.cumsum(pieces) - 1] = rest

    size = np.searchsorted(1 << _SIZES, lengths)
    bits = _SIZES[size]
    blocks = (1 << 2 | size) << bits
    blocks = (blocks | lengths - 1) << _WORD | values
    numbers = np.concatenate(([CHANNELS * flat.size, _WORD - 1], _SIZES - 1, blocks))
    widths = np.concatenate(([32, 5], np.full(len(_SIZES), 4), 1 + 2 + bits + _WORD))
    return _packed(numbers, widths).tolist()


def _packed(numbers: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """The lowest `widths` bits of each number one after another, as bytes that zeros fill up."""
    ends = np.cumsum(widths)
    shift = np.repeat(ends, widths) - 1 - np.arange(ends[-1])
    return np.packbits(((np.repeat(numbers, widths) >> shift) & 1).astype(np.uint8))
