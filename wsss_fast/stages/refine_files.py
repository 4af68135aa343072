"""PAR, PAMR or the dense CRF on the maps of any tool, one file after another."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from wsss_fast.engine import remarks, stream
from wsss_fast.errors import InputError
from wsss_fast.readers.label_maps import IGNORE, write_labels
from wsss_fast.readers.photos import image_size, read_image, remark_orientation
from wsss_fast.stages.crf import Crf
from wsss_fast.stages.map_files import Map, read_map, refined_suffix
from wsss_fast.stages.paired_files import Files
from wsss_fast.stages.par import Par


@dataclasses.dataclass(frozen=True)
class Reading:
    """How maps are read; see `map_files.read_map`.

    Attributes:
        background: constant score of the background, for scores without one; None: they have one.
        unsure: label of label maps that stands for an unknown label, or None.
    """

    background: float | None = None
    unsure: int | None = IGNORE

    def read(self, path: Path, photo: Path, size: tuple[int, int]) -> Map:
        """The map of a photo of `size`."""
        return read_map(path, photo, size, background=self.background, unsure=self.unsure)


class _Given(NamedTuple):
    """A map, its photo, uint8 RGB [H, W, 3], and what the method refines, float32 [L, H, W]."""

    map: Map
    photo: torch.Tensor
    values: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to refine maps.

    Attributes:
        name: in messages and in the report.
        input: a map -> what is refined, float32 [L, H, W].
        apply: (photo, that) -> the same, refined.
        result: (map, refined) -> the refined map.
    """

    name: str
    input: Callable[[Map], torch.Tensor]
    apply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    result: Callable[[Map, np.ndarray], Map]


def par_method(par: Par, kind: str) -> Method:
    """PAR or PAMR on the scores of a map."""
    return Method(
        kind,
        lambda map: torch.from_numpy(map.scores()),
        lambda photo, scores: par.apply(photo, scores, kind),
        lambda map, refined: map.with_scores(refined),
    )


def crf_method(crf: Crf) -> Method:
    """The dense CRF on the energies of a map."""
    return Method(
        "crf",
        lambda map: map.energies(crf.gt_prob),
        lambda photo, unary: crf.apply(photo[None], unary[None], check=False)[0],
        lambda map, marginals: map.with_marginals(marginals),
    )


@dataclasses.dataclass(frozen=True)
class FileRefiner:
    """Steps of the refinement of one map; see `paired_files.Refiner`.

    Attributes:
        method: that refines.
        reading: how maps are read.
        labels: sub-folder for label PNGs of refined scores, "" for the same folder; None for none.
        overwrite: whether to refine again what is already refined.
        device: that the method computes on.
    """

    method: Method
    reading: Reading
    labels: str | None
    overwrite: bool
    device: torch.device

    @property
    def name(self) -> str:
        return f"refine ({self.method.name})"

    def written(self, target: Path) -> list[Path]:
        """The files of a refined map."""
        if self.labels is None or target.suffix == ".png":
            return [target]
        return [target, target.parent / self.labels / f"{target.stem}.png"]

    def is_finished(self, target: Path) -> bool:
        return not self.overwrite and all(path.exists() for path in self.written(target))

    def load(self, files: Files) -> _Given:
        photo = read_image(files.photo)  # [H, W, 3]
        map = self.reading.read(files.map, files.photo, (photo.shape[0], photo.shape[1]))
        remark_orientation(files.photo)
        values = self.method.input(map).numpy()
        return _Given(
            map, stream.host_tensor(photo, self.device), stream.host_tensor(values, self.device)
        )

    def compute(self, files: Files, given: _Given) -> tuple[Map, torch.Tensor]:
        try:
            values = given.values.to(self.device, non_blocking=True)
            return given.map, self.method.apply(given.photo, values)
        except ValueError as error:
            raise InputError(f"{files.map}: {error}") from None

    def write(self, files: Files, results: tuple[Map, torch.Tensor]) -> None:
        given, values = results
        refined = self.method.result(given, values.numpy())
        before, labels = given.labels(), refined.labels()
        if (labels == labels.flat[0]).all() and (before != before.flat[0]).any():
            text = "refined map has a single label, although its input has several"
            remarks.add(text, files.map)
        for path in self.written(files.target)[1:]:
            write_labels(path, labels)
        refined.write(files.target)  # last: it marks the image as finished

    def size(self, files: Files) -> int:
        """Memory of a photo, and of its scores and the refined ones, which files hold as half."""
        try:
            scores = 6 * files.map.stat().st_size
            return math.prod(image_size(files.photo)) * 40 + scores
        except (InputError, OSError):
            return 0


def target_of(map: Path, out: Path) -> Path:
    """The file in `out` of a refined map."""
    return out / f"{map.stem}{refined_suffix(map)}"
