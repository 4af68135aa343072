"""Class probabilities of other tools: .npy [L, H, W] in 0..1, background first."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wsss_fast.engine import remarks
from wsss_fast.errors import InputError
from wsss_fast.readers.arrays import load_array

_MAX_LABELS = 256  # labels of a PNG
_ABOVE_ONE = 1e-3  # what rounding may add to a probability
_SUM_ERROR = 0.05  # difference of a pixel's sum from 1 that float16 cannot explain
_NEEDED = "must be floating-point probabilities [L, H, W]"


def read_probabilities(path: Path, photo: Path, size: tuple[int, int]) -> np.ndarray:
    """Read probabilities as float32 [L, H, W], contiguous.

    Args:
        path: .npy file.
        photo: file of the photo, for the messages.
        size: (H, W) of the photo.

    Raises:
        InputError: the file is missing, damaged, of another size than the photo, or holds no
            probabilities of two or more labels that vary over the pixels.
    """
    values = load_array(path, "probabilities")
    _check_shape(path, values)
    _check_size(path, values.shape, photo, size)
    _check_range(path, values)
    _check_variation(path, values)
    _remark_sums(path, values)
    return np.ascontiguousarray(values, dtype=np.float32)


def read_scores(
    path: Path, photo: Path, size: tuple[int, int], *, has_background: bool = True
) -> np.ndarray:
    """Read scores of labels as they are stored, [L, h, w], contiguous, float16 or float32.

    Args:
        path: .npy file.
        photo: file of the photo, for the messages.
        size: (H, W) of the photo; the scores may be a smaller or larger picture of it.
        has_background: whether the first row is the background; a single row is possible
            otherwise.

    Raises:
        InputError: as `read_probabilities`, but for scores without variation; or the scores have
            other proportions than the photo.
    """
    values = load_array(path, "scores")
    _check_shape(path, values, least=1 + has_background)
    check_proportions(path, values.shape, photo, size)
    _check_range(path, values)
    if has_background:
        _remark_sums(path, values)
    return np.ascontiguousarray(values, None if values.dtype == np.float16 else np.float32)


def check_proportions(
    path: Path, shape: tuple[int, ...], photo: Path, size: tuple[int, int]
) -> None:
    """Raise InputError for scores that are no picture of the whole photo, whatever their stride.

    Args:
        path: of the scores, for the message.
        shape: their (L, h, w).
        photo: file of the photo.
        size: its (H, W).
    """
    # The strides that round to h rows, and those that round to w columns.
    rows, columns = (
        (full / (part + 1), full / max(part - 1, 1e-9))
        for full, part in zip(size, shape[1:], strict=True)
    )
    if max(rows[0], columns[0]) > min(rows[1], columns[1]):
        _check_size(path, shape, photo, size)


def _check_shape(path: Path, values: np.ndarray, least: int = 2) -> None:
    shape = list(values.shape)
    if values.ndim != 3 or not np.issubdtype(values.dtype, np.floating):
        cure = ""
        if values.ndim == 3 and values.dtype == np.uint8:
            cure = "; divide levels 0..255 by 255.0"
        elif values.ndim == 2 and values.dtype.kind in "iub":
            cure = "; save a label map as PNG"
        elif values.ndim == 2:
            cure = "; of one map p, np.stack([1 - p, p]) makes background and object"
        elif values.ndim == 4 and shape[0] == 1:
            cure = "; save array[0]"
        raise InputError(f"{path}: is {values.dtype} {shape}; {_NEEDED}{cure}")
    if not 1 <= shape[0] <= _MAX_LABELS + least - 2:
        last = "; if L is last, save array.transpose(2, 0, 1)" if 1 < shape[2] < shape[0] else ""
        raise InputError(
            f"{path}: is {shape}; must be [L, H, W] with 2 to {_MAX_LABELS} labels first{last}"
        )
    if shape[0] < least:
        raise InputError(
            f"{path}: is {shape}, which has one label, so that there is nothing to refine; "
            "np.concatenate([1 - p, p]) makes background and object of an object's map p"
        )
    if not values.size:
        raise InputError(f"{path}: is {shape}, which has no pixel; {_NEEDED}")


def _check_range(path: Path, values: np.ndarray) -> None:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1 + _ABOVE_ONE):
        if low >= 0 and high <= 255:
            cure = f"divide by the range, such as {'100' if high <= 100 else '255'}"
        else:
            cure = "apply the softmax over L to logits"
        raise InputError(f"{path}: spans {low:g}..{high:g}; probabilities are within 0..1: {cure}")


def _check_variation(path: Path, values: np.ndarray) -> None:
    pixels = values.reshape(len(values), -1)
    if pixels.shape[1] > 1 and (pixels == pixels[:, :1]).all():
        raise InputError(
            f"{path}: has the same probabilities at every pixel, so that there is nothing to refine"
        )


def _check_size(path: Path, shape: tuple[int, ...], photo: Path, size: tuple[int, int]) -> None:
    if shape[1:] == size:
        return
    hint = ""
    if shape[:2] == size:
        hint = "; it looks like [H, W, L], but must be [L, H, W]"
    elif shape[1:] == size[::-1]:
        hint = "; height and width are exchanged"
    raise InputError(
        f"{path}: is {shape[1]}x{shape[2]} pixels (HxW), "
        f"but its image {photo} is {size[0]}x{size[1]}{hint}"
    )


def _remark_sums(path: Path, values: np.ndarray) -> None:
    """A common factor of a pixel's values has no effect on the CRF; a missing background does."""
    sums = values.sum(axis=0, dtype=np.float64)
    if (np.abs(sums - 1) > _SUM_ERROR).any():
        remarks.add(
            "probabilities that do not sum to 1 over the labels: taken relative to their sum "
            "(is the background missing?)",
            path,
        )
