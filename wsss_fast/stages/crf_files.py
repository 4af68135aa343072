"""The dense CRF on existing files: label maps or probabilities of any tool, a file or a folder."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from wsss_fast.engine import remarks, stream
from wsss_fast.engine.files import atomic_write
from wsss_fast.engine.progress import say
from wsss_fast.engine.runtime import resolve_runtime
from wsss_fast.errors import InputError
from wsss_fast.ops import unary_from_labels, unary_from_probabilities
from wsss_fast.readers.label_maps import IGNORE, write_labels
from wsss_fast.readers.photos import image_size, read_image, remark_orientation
from wsss_fast.readers.probabilities import read_probabilities
from wsss_fast.stages.crf import Crf
from wsss_fast.stages.map_files import read_label_map
from wsss_fast.stages.paired_files import (
    Files,
    check_folder,
    check_targets,
    files_by_stem,
    match,
    refine_all,
    say_unmatched,
)

_LABELS = (".png", ".npy")


@dataclasses.dataclass(frozen=True)
class CrfResult:
    """Result of `refine_files`.

    Attributes:
        out: file or folder of the refined maps.
        written: number of maps that this call refined.
        skipped: number of maps that an earlier call had refined.
        unmatched: images without a map of the same name, and maps without an image.
    """

    out: Path
    written: int
    skipped: int
    unmatched: tuple[Path, ...] = ()

    def __str__(self) -> str:
        rest = [
            f"{count} {what}"
            for count, what in (
                (self.skipped, "already present (--overwrite repeats them)"),
                (len(self.unmatched), "without a matching file"),
            )
            if count
        ]
        return f"{self.out}: {self.written} refined" + "".join(f", {r}" for r in rest)


@remarks.collected()
def refine_files(
    image: str | Path,
    labels: str | Path,
    out: str | Path,
    *,
    unsure: int | None = IGNORE,
    crf: Crf = Crf(),
    clip: float = 1e-5,
    probabilities: bool = False,
    overwrite: bool = False,
    device: str = "cpu",
) -> CrfResult:
    """Refine a label map or class probabilities with a dense CRF of the image; files or folders.

    Only labels that a map has can appear in its refined map; other labels cost no time. In folders,
    images and maps with the same name without extension belong together; what is already refined is
    skipped, and files that cannot be used are reported after all others are done.

    Collective for folders: each process refines its shard of the maps.

    Args:
        image: 8-bit photo, or folder of photos. EXIF rotation is applied, alpha is dropped, gray
            becomes RGB with equal channels.
        labels: palette or gray PNG, whose palette is kept, or probabilities .npy [L, H, W] in 0..1;
            or folder of either.
        out: PNG to write, or folder to write to.
        unsure: label of pixels that may have any label; none of them remains. None: there is no
            such label.
        crf: parameters of the dense CRF; gt_prob applies to label maps.
        clip: smallest probability, for .npy.
        probabilities: whether to write Q too, next to the PNG, as .npy float16 [L, H, W]; its rows
            are the labels of the map in ascending order.
        overwrite: whether to refine again what is already refined.
        device: device of the CRF: auto, cpu, cuda or cuda:N.

    Returns:
        What was written and what was not.

    Raises:
        InputError: a parameter is out of range; a single file is missing, broken or of another size
            than its image; folders have no name in common; or a result would replace one of its
            inputs.
        RunError: some files of a folder could not be used; the others are refined.
    """
    image, labels, out = Path(image), Path(labels), Path(out)
    where = resolve_runtime(device, 0, 0, "fp32", prefer_bf16=False).device
    _check_parameters(crf, clip, unsure)
    if image.is_dir() != labels.is_dir():
        raise InputError(f"{image} and {labels}: give two files or two folders")

    refiner = _Refiner(unsure, crf, clip, where, probabilities, overwrite)
    if image.is_dir():
        return _refine_folders(image, labels, out, refiner)
    if out.is_dir() or out.suffix.lower() != ".png":
        raise InputError(f"{out}: the refined map of one image must be named *.png")
    check_targets(out, refiner.written(out), (image, labels))
    if refiner.is_finished(out):
        return CrfResult(out, 0, 1)
    files = Files(image, labels, out)
    kept, *results = refiner.compute(files, refiner.load(files))
    refiner.write(files, (kept, *(one.cpu() for one in results)))
    return CrfResult(out, 1, 0)


class _Given(NamedTuple):
    """What is read for a map.

    Attributes:
        names: labels of the map, uint8 [L].
        photo: uint8 RGB [1, H, W, 3].
        unary: energies, float32 [1, L, H, W].
        palette: of the map, to write.
    """

    names: np.ndarray
    photo: torch.Tensor
    unary: torch.Tensor
    palette: bytes | None


@dataclasses.dataclass(frozen=True)
class _Refiner:
    """Steps of the refinement of one map; the attributes are arguments of `refine_files`."""

    unsure: int | None
    crf: Crf
    clip: float
    device: torch.device
    probabilities: bool
    overwrite: bool
    name: str = "crf"

    def written(self, target: Path) -> list[Path]:
        """The files of a refined map."""
        return [target, *([target.with_suffix(".npy")] if self.probabilities else [])]

    def is_finished(self, target: Path) -> bool:
        return not self.overwrite and all(path.exists() for path in self.written(target))

    def load(self, files: Files) -> _Given:
        """Read photo and map; see `refine_files` for the errors."""
        photo = read_image(files.photo)  # [H, W, 3]
        size, labels = (photo.shape[0], photo.shape[1]), files.map
        if labels.suffix.lower() == ".npz":
            raise InputError(f"{labels}: archives are not read; save the probabilities as .npy")
        palette: bytes | None = None
        if labels.suffix.lower() == ".npy":
            probabilities = read_probabilities(labels, files.photo, size)
            unary = unary_from_probabilities(torch.from_numpy(probabilities), clip=self.clip)
            names = np.arange(len(unary), dtype=np.uint8)
        else:
            given = read_label_map(labels, files.photo, size, self.unsure)
            names, palette = given.names, given.palette
            if len(names) == 1:
                raise InputError(f"{labels}: has one known label, {names[0]}; nothing to refine")
            unary = given.energies(self.crf.gt_prob)
        remark_orientation(files.photo)
        pixels = stream.host_tensor(photo[None], self.device)
        energies = stream.host_tensor(unary[None].numpy(), self.device)
        return _Given(names, pixels, energies, palette)

    def compute(self, files: Files, given: _Given) -> tuple[Any, ...]:
        """What was read, label indices uint8 [H, W] and, if requested, Q float16 [L, H, W]."""
        try:
            unary = given.unary.to(self.device, non_blocking=True)
            # Probabilities are checked when they are read.
            q = self.crf.apply(given.photo, unary, check=False)[0]
        except ValueError as error:
            raise InputError(f"{files.map}: {error}") from None
        index = q.max(dim=0).indices.to(torch.uint8)  # ten times faster than argmax on a CPU
        kept = given._replace(photo=index[:0], unary=index[:0])
        return (kept, index, q.half()) if self.probabilities else (kept, index)

    def write(self, files: Files, results: tuple[Any, ...]) -> None:
        """Write the refined map and, if requested, Q."""
        given, index = results[:2]
        labels = given.names[index.numpy()]
        if (labels == labels.flat[0]).all():
            text = "refined map has a single label, although its input has several"
            remarks.add(text, files.map)
        if self.probabilities:
            with atomic_write(files.target.with_suffix(".npy")) as temporary:
                np.save(temporary, results[2].numpy())
        write_labels(files.target, labels, given.palette)  # last: it marks the image as finished

    def size(self, files: Files) -> int:
        """Memory of a photo, its energies of a few labels, and the results."""
        try:
            return math.prod(image_size(files.photo)) * 40
        except InputError:
            return 0


def _refine_folders(
    images: Path,
    labels: Path,
    out: Path,
    refiner: _Refiner,
) -> CrfResult:
    check_folder(out, (images, labels))
    photos, maps = files_by_stem(images), _maps_of(labels)
    where = f"{images} ({len(photos)} images) and {labels} ({len(maps)} PNG or .npy maps)"
    pairs, unmatched = match(photos, maps, where)
    say_unmatched(refiner.name, unmatched)
    files = [Files(*pair, out / f"{pair[1].stem}.png") for pair in pairs]
    done = refine_all(files, refiner)
    done.check(out)
    return CrfResult(out, done.count, len(pairs) - done.count, tuple(unmatched))


def _maps_of(folder: Path) -> dict[str, Path]:
    """The maps of a folder by name; of a PNG and probabilities for every image, the latter.

    `seg infer --probabilities` writes both, the PNG as the probabilities' labels.

    Raises:
        InputError: some images only have both.
    """
    labels, probabilities = (files_by_stem(folder, (suffix,)) for suffix in _LABELS)
    if not labels or labels.keys() != probabilities.keys():
        return files_by_stem(folder, _LABELS)
    say(f"crf: {folder} has labels and probabilities of each image; the probabilities are refined")
    return probabilities


def _check_parameters(crf: Crf, clip: float, unsure: int | None) -> None:
    """Check, before any file is read, the parameters that all files share."""
    if unsure is not None and not 0 <= unsure <= 255:
        raise InputError(f"crf: unsure is {unsure}; must be a label, 0..255, or None")
    try:
        unary = unary_from_labels(torch.zeros(1, 1, 1, dtype=torch.long), 2, gt_prob=crf.gt_prob)
        unary_from_probabilities(torch.ones(1, 1, 1), clip=clip)
        crf.apply(np.zeros((1, 1, 1, 3), np.uint8), unary)
    except ValueError as error:
        raise InputError(f"crf: {error}") from None
