"""Dense CRF over files that are already there: label maps or probabilities of any other tool, one file or a folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from wsss_fast.data.images import IGNORE, read_image, read_labels, write_labels
from wsss_fast.errors import InputError, RunError
from wsss_fast.ops import dense_crf, unary_from_labels, unary_from_probabilities
from wsss_fast.progress import Bar, say
from wsss_fast.run import atomic_write
from wsss_fast.stages.seeds import Crf

_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_LABELS = (".png", ".npy")


@dataclasses.dataclass(frozen=True)
class CrfResult:
    """What was written where, and how many files were there from an earlier call or had no partner."""

    out: Path
    written: int
    skipped: int
    unmatched: int

    def __str__(self) -> str:
        rest = [f"{count} {what}" for count, what in ((self.skipped, "there already (--overwrite True repeats them)"),
                                                      (self.unmatched, "without a partner")) if count]
        return f"{self.out}: {self.written} refined" + "".join(f", {r}" for r in rest)


def refine(image: str | Path, labels: str | Path, out: str | Path, *, unsure: int | None = IGNORE, crf: Crf = Crf(),
           clip: float = 1e-5, probabilities: bool = False, overwrite: bool = False, device: str = "cpu") -> CrfResult:
    """Refine a label map or class probabilities with a dense CRF of the image; files or folders.

    Only labels that a map holds can appear in its refined map. In folders, images and maps belong together when they
    have the same name without its ending; what is there already is skipped, and a file that cannot be used is named at
    the end, after all others were done.

    Args:
        image: photo (8-bit; gray, alpha and EXIF rotation are handled), or a folder of photos.
        labels: palette or gray PNG, or probabilities as .npy [L, H, W] in 0..1; or a folder of either.
        out: PNG to write, or a folder.
        unsure: label of pixels that may be anything, None: there is none.
        crf: its parameters; gt_prob is for label maps.
        clip: smallest probability, for .npy.
        probabilities: also write Q beside the PNG, as .npy float16 [L, H, W]; L are the labels of the map in order.
        overwrite: refine again what is there already.
        device: where the CRF runs: cpu, cuda or cuda:N.

    Raises:
        InputError: a single file is missing, broken or of another size; folders without a common name.
        RunError: some files of a folder could not be used; the others are done.
    """
    image, labels, out = Path(image), Path(labels), Path(out)
    if image.is_dir() != labels.is_dir():
        raise InputError(f"{image} and {labels}: give two files or two folders")
    if not image.is_dir():
        if out.is_dir() or out.suffix.lower() != ".png":
            raise InputError(f"{out}: the refined map of one image must be named *.png")
        if out.exists() and not overwrite:
            return CrfResult(out, 0, 1, 0)
        _refine_file(image, labels, out, unsure, crf, clip, probabilities, device)
        return CrfResult(out, 1, 0, 0)
    pairs, unmatched = _pairs(image, labels)
    if out.is_file():
        raise InputError(f"{out}: is a file, but the maps of a folder need a folder")
    todo = [p for p in pairs if overwrite or not (out / f"{p[1].stem}.png").exists()]
    problems = []
    with Bar("crf", len(todo)) as bar:
        for photo, map_ in todo:
            try:
                _refine_file(photo, map_, out / f"{map_.stem}.png", unsure, crf, clip, probabilities, device)
            except InputError as error:
                problems.append(str(error))
                say(f"crf: {error}")
            bar.advance()
    if problems:
        raise RunError(f"{len(problems)} of {len(todo)} maps could not be refined (the others are in {out}); "
                       f"first: {problems[0]}")
    return CrfResult(out, len(todo), len(pairs) - len(todo), unmatched)


def _pairs(images: Path, labels: Path) -> tuple[list[tuple[Path, Path]], int]:
    """(image, map) of equal stems, sorted; and how many files have no partner."""
    found = []
    for folder, endings in ((images, _IMAGES), (labels, _LABELS)):
        by_stem: dict[str, Path] = {}
        for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in endings and not p.name.startswith(".")):
            if path.stem in by_stem:
                raise InputError(f"{path} and {by_stem[path.stem].name}: two files of one name in a folder")
            by_stem[path.stem] = path
        found.append(by_stem)
    common = sorted(found[0].keys() & found[1].keys())
    if not common:
        raise InputError(f"{images} ({len(found[0])} images) and {labels} ({len(found[1])} PNG or .npy maps) "
                         "have no name in common")
    return [(found[0][stem], found[1][stem]) for stem in common], len(found[0].keys() ^ found[1].keys())


def _refine_file(image: Path, labels: Path, out: Path, unsure: int | None, crf: Crf, clip: float, probabilities: bool,
                 device: str) -> None:
    photo = torch.from_numpy(read_image(image)).permute(2, 0, 1)  # [3, H, W]
    if labels.suffix.lower() == ".npy":
        unary, names, palette = *_from_probabilities(labels, clip), None
    else:
        unary, names, palette = _from_labels(labels, unsure, crf.gt_prob)
    if unary.shape[1:] != photo.shape[1:]:
        raise InputError(f"{labels}: is {unary.shape[1]}x{unary.shape[2]} pixels (HxW), "
                         f"its image {image} {photo.shape[1]}x{photo.shape[2]}")
    try:
        q = dense_crf(photo[None].to(device), unary[None].to(device), gaussian=crf.gaussian, bilateral=crf.bilateral,
                      iterations=crf.iterations)[0].cpu().numpy()  # [L, H, W]
    except ValueError as error:
        raise InputError(f"{labels}: {error}") from None
    if probabilities:
        with atomic_write(out.with_suffix(".npy")) as temporary:
            np.save(temporary, q.astype(np.float16))
    write_labels(out, names[q.argmax(0)], palette)  # last: where it is, everything of this image is


def _from_labels(path: Path, unsure: int | None, gt_prob: float) -> tuple[torch.Tensor, np.ndarray, bytes | None]:
    """Unary [L, H, W] of the L labels that the map holds, those labels, and the map's palette (b'': gray)."""
    values = read_labels(path)
    known = np.ones(values.shape, bool) if unsure is None else values != unsure
    names = np.unique(values[known])
    if not names.size:
        raise InputError(f"{path}: every pixel is {unsure} (unsure); nothing says what could be where")
    compact = np.where(known, np.searchsorted(names, values), len(names))
    try:
        unary = unary_from_labels(torch.from_numpy(compact), len(names), gt_prob=gt_prob, unsure_label=len(names))
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    with Image.open(path) as image:
        palette = bytes(image.getpalette()) if image.mode == "P" else b""
    return unary, names.astype(np.uint8), palette


def _from_probabilities(path: Path, clip: float) -> tuple[torch.Tensor, np.ndarray]:
    """Unary [L, H, W] of stored probabilities, and the labels 0..L-1."""
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as an array ({error})") from None
    if not isinstance(values, np.ndarray) or values.ndim != 3 or not np.issubdtype(values.dtype, np.floating):
        got = f"{values.dtype} {list(values.shape)}" if isinstance(values, np.ndarray) else "an archive"
        raise InputError(f"{path}: is {got}; must be floating probabilities [L, H, W]")
    if not 1 <= values.shape[0] <= 256:
        raise InputError(f"{path}: is {list(values.shape)}; must be [L, H, W] with 1 to 256 labels first")
    if values.size and not (values.min() >= 0 and values.max() <= 1 + 1e-3):
        raise InputError(f"{path}: spans {values.min():g}..{values.max():g}; probabilities are within 0..1")
    try:
        unary = unary_from_probabilities(torch.from_numpy(values.astype(np.float32)), clip=clip)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    return unary, np.arange(values.shape[0], dtype=np.uint8)
