"""Maps of any tool as files: label PNGs, arrays of scores, class maps; read, refined, written."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from wsss_fast.convert.reading import is_logits, read_public_maps, softmax
from wsss_fast.engine import remarks
from wsss_fast.engine.files import atomic_write
from wsss_fast.errors import InputError
from wsss_fast.maps import ClassMaps, load_stored, resize_maps, save_maps, strided_size, to_labels
from wsss_fast.ops import unary_from_labels, unary_from_probabilities
from wsss_fast.readers.arrays import load_array
from wsss_fast.readers.label_maps import (
    IGNORE,
    check_size,
    read_labels_and_palette,
    write_labels,
)
from wsss_fast.readers.probabilities import check_proportions, read_scores
from wsss_fast.readers.unpickling import is_pickled
from wsss_fast.thresholds import label_index

MAP_SUFFIXES = (".png", ".npy", ".npz")
_MANY_LABELS = 64  # more than any photo of a public data set has


class Map(Protocol):
    """What is known of the labels of one image's pixels."""

    def labels(self) -> np.ndarray:
        """The most probable labels, uint8 [H, W]."""

    def scores(self) -> np.ndarray:
        """What PAR refines: a score per label and pixel, float32 [L, H, W]."""

    def energies(self, gt_prob: float) -> torch.Tensor:
        """What the dense CRF refines: unary energies, float32 [L, H, W]."""

    def with_scores(self, scores: np.ndarray) -> Map:
        """A map of the same kind with other scores, float32 [L, H, W]."""

    def with_marginals(self, marginals: np.ndarray) -> Map:
        """A map of the same kind from the CRF's marginals of `energies`, float32 [L, H, W]."""

    def write(self, path: Path) -> None:
        """Write the map, atomically."""


def read_map(
    path: Path,
    photo: Path,
    size: tuple[int, int],
    *,
    background: float | None = None,
    unsure: int | None = IGNORE,
) -> Map:
    """Read a map; its kind is found by the suffix, and for `.npy` by the header.

    Args:
        path: label PNG; `.npy` of scores or logits [L, h, w], or of a pickled dictionary of class
            maps in any form that `convert` reads; `.npz` of this package's class maps.
        photo: file of the photo, for the messages.
        size: (H, W) of the photo. Scores of another size are resized to it bilinearly.
        background: constant score of the background, for scores without one. None: row 0 of an
            array is the background, and so is the row of label 0 of class maps.
        unsure: label of label PNGs that stands for an unknown label, or None.

    Raises:
        InputError: the file cannot be used; the message names it.
    """
    suffix = path.suffix.lower()
    if suffix == ".png":
        labels = read_label_map(path, photo, size, unsure)
        if len(labels.names) == 1:
            remarks.add("label map of one label: nothing to refine, written as it is", path)
        return labels
    if suffix == ".npy" and not is_pickled(path):
        return _read_array(path, photo, size, background)
    if suffix not in MAP_SUFFIXES:
        raise InputError(f"{path}: maps are {', '.join(MAP_SUFFIXES)} files")
    maps = (
        read_public_maps(path, size=size).maps
        if suffix == ".npy"
        else load_stored(path.parent, path.stem)
    )
    if background is None and 0 not in maps.keys:
        raise InputError(
            f"{path}: has no scores of the background; give --background, such as 0.3, the "
            "constant score that the classes must exceed"
        )
    finest = maps.strided if maps.high_res is None else maps.high_res
    check_proportions(path, finest.shape, photo, size)
    return ScoreMap(maps.keys.astype(np.uint8), _resized(finest, size), background)


def _read_array(
    path: Path, photo: Path, size: tuple[int, int], background: float | None
) -> ScoreMap:
    """Scores of labels, or logits, of which the softmax is taken."""
    given = load_array(path, "scores")
    if given.ndim == 3 and is_logits(given):
        if background is not None:
            raise InputError(
                f"{path}: has logits, whose first row is the background; leave out --background"
            )
        check_proportions(path, given.shape, photo, size)
        rows = softmax(path, given, size)
        remarks.add("logits: their softmax over the labels is taken", path)
    else:
        given = read_scores(path, photo, size, has_background=background is None)
        rows = _resized(given, size)
    first = int(background is not None)
    names = np.arange(first, first + len(rows), dtype=np.uint8)
    return ScoreMap(names, rows, background, given.dtype)


def refined_suffix(path: Path) -> str:
    """Suffix of the refined map of a file: pickles become this package's class maps."""
    suffix = path.suffix.lower()
    return ".npz" if suffix == ".npy" and is_pickled(path) else suffix


def _resized(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    single = np.ascontiguousarray(scores, np.float32)
    if single.shape[1:] == size or not len(single):
        return single.reshape(len(single), *size)
    return resize_maps(torch.from_numpy(single), *size).numpy()


@dataclasses.dataclass(frozen=True)
class ScoreMap:
    """Scores of labels.

    Attributes:
        names: label of each row, uint8 [L].
        rows: scores, float32 [L, H, W].
        background: constant score of the background, or None if the row of label 0 has it.
        stored: dtype of an array of scores; None for class maps.
    """

    names: np.ndarray
    rows: np.ndarray
    background: float | None
    stored: np.dtype | None = None

    def labels(self) -> np.ndarray:
        if self.background is None:
            return self.names[self.rows.argmax(axis=0)]
        rows = torch.from_numpy(self.rows[self.names > 0])
        return to_labels(label_index(rows, (self.background,))[0].numpy(), self._classes())

    def scores(self) -> np.ndarray:
        """Without the rows of zeros, as those of absent labels, which a refinement would keep."""
        return self.rows[self._used()]

    def energies(self, gt_prob: float) -> torch.Tensor:
        """Those of the probabilities; of class maps and of scores without background: of labels."""
        if self.background is None and self.stored is not None:
            return unary_from_probabilities(torch.from_numpy(self.rows))
        table = np.zeros(256, np.int64)  # label -> index into [background, *classes]
        table[self._classes()] = np.arange(1, len(self._classes()) + 1)
        index = torch.from_numpy(table[self.labels()])
        count = len(self._classes()) + 1
        return unary_from_labels(index, count, gt_prob=gt_prob, check=False)

    def with_scores(self, scores: np.ndarray) -> ScoreMap:
        rows = np.zeros_like(self.rows)
        rows[self._used()] = self._rounded(scores)
        return dataclasses.replace(self, rows=rows)

    def with_marginals(self, marginals: np.ndarray) -> ScoreMap:
        """With a row of the background, the first."""
        names = np.concatenate([[0], self._classes()]).astype(np.uint8)
        return ScoreMap(names, self._rounded(marginals), None, self.stored)

    def write(self, path: Path) -> None:
        if self.stored is None:
            small = resize_maps(torch.from_numpy(self.rows), *strided_size(*self.rows.shape[1:]))
            maps = ClassMaps(self.names.astype(np.int16), small.numpy(), self.rows)
            save_maps(path.parent, path.stem, maps)
            return
        with atomic_write(path) as temporary:
            np.save(temporary, self.rows.astype(self.stored, copy=False))

    def _used(self) -> np.ndarray:
        return np.any(self.rows, axis=(1, 2))

    def _rounded(self, rows: np.ndarray) -> np.ndarray:
        """As a file will hold them, so that labels are those of the file."""
        return rows.astype(self.stored or np.float16).astype(np.float32)

    def _classes(self) -> np.ndarray:
        """Labels of the rows but for the background's."""
        return self.names[self.names > 0]


@dataclasses.dataclass(frozen=True)
class LabelMap:
    """Labels of a PNG.

    Attributes:
        values: labels, uint8 [H, W].
        names: labels that occur and are known, ascending, uint8 [L].
        unsure: label of unknown pixels, or None.
        palette: RGB bytes of the PNG's palette, b"" for a gray PNG.
    """

    values: np.ndarray
    names: np.ndarray
    unsure: int | None
    palette: bytes

    def labels(self) -> np.ndarray:
        return self.values

    def scores(self) -> np.ndarray:
        """1 for a pixel's own label, 0 for the others; 0 for all where it is unsure."""
        return (self.values == self.names[:, None, None]).astype(np.float32) * self._known()

    def energies(self, gt_prob: float) -> torch.Tensor:
        count = len(self.names)
        index = np.where(self._known(), np.searchsorted(self.names, self.values), count)
        return unary_from_labels(
            torch.from_numpy(index), count, gt_prob=gt_prob, unsure_label=count
        )

    def with_scores(self, scores: np.ndarray) -> LabelMap:
        """The label of the highest score; unsure where no label has one."""
        values = self.names[scores.argmax(axis=0)]
        if self.unsure is not None:
            values[scores.max(axis=0) <= 0] = self.unsure
        return dataclasses.replace(self, values=values)

    def with_marginals(self, marginals: np.ndarray) -> LabelMap:
        return dataclasses.replace(self, values=self.names[marginals.argmax(axis=0)])

    def write(self, path: Path) -> None:
        write_labels(path, self.values, self.palette)

    def _known(self) -> np.ndarray:
        if self.unsure is None:
            return np.ones(self.values.shape, bool)
        return self.values != self.unsure


def read_label_map(path: Path, photo: Path, size: tuple[int, int], unsure: int | None) -> LabelMap:
    """Read a label PNG.

    Raises:
        InputError: it cannot be read, is of another size than its photo, or has no known label, or
            a single one besides `unsure`.
    """
    values, palette = read_labels_and_palette(path)
    check_size(path, values.shape, photo, size)
    names = np.flatnonzero(np.bincount(values.reshape(-1), minlength=256)).astype(np.uint8)
    present = len(names)
    if unsure is not None:
        names = names[names != unsure]
    if not names.size:
        raise InputError(
            f"{path}: every pixel is {unsure} (unsure); at least one must have a label"
        )
    if len(names) == 1 and present > 1:
        raise InputError(
            f"{path}: has one known label, {names[0]}, since {unsure} means unsure; nothing to "
            f"refine: if {unsure} is an object, give unsure None (--unsure None)"
            + (", or divide the map by 255" if unsure == IGNORE else "")
        )
    if len(names) > _MANY_LABELS:
        text = f"label map of more than {_MANY_LABELS} labels: is it a picture in gray levels?"
        remarks.add(text, path)
    return LabelMap(values, names, unsure, palette)
