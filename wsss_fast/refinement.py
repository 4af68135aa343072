"""Refinement of maps of any tool by PAR, PAMR or the dense CRF, with a report on what changed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from wsss_fast import data
from wsss_fast.engine import distributed, ranges, remarks
from wsss_fast.engine.files import read_json, write_json
from wsss_fast.engine.marker import describe, differences
from wsss_fast.engine.runtime import resolve_runtime
from wsss_fast.engine.serialize import jsonable
from wsss_fast.errors import InputError, RunError
from wsss_fast.evaluation import refinement_report
from wsss_fast.evaluation.changes import Changes, compare
from wsss_fast.evaluation.report import Panel
from wsss_fast.readers.label_maps import IGNORE, read_labels
from wsss_fast.readers.photos import image_size, read_image
from wsss_fast.stages.crf import Crf
from wsss_fast.stages.map_files import MAP_SUFFIXES, refined_suffix
from wsss_fast.stages.paired_files import (
    Files,
    Refined,
    check_folder,
    check_targets,
    files_by_stem,
    match,
    refine_all,
    say_unmatched,
)
from wsss_fast.stages.par import Par
from wsss_fast.stages.refine_files import FileRefiner, Reading, crf_method, par_method, target_of

_TITLES = {"par": "PAR", "pamr": "PAMR", "crf": "the dense CRF"}
_RECORD, _PAGE = "refine.json", "refine.html"


@dataclasses.dataclass(frozen=True)
class RefineResult:
    """Result of `refine`.

    Attributes:
        out: file or folder of the refined maps.
        written: number of maps that this call refined.
        skipped: number of maps that an earlier call had refined.
        unmatched: maps without a photo.
        report: the page, or None for a single map.
        changes: what changed, or None for a single map.
    """

    out: Path
    written: int
    skipped: int
    unmatched: tuple[Path, ...] = ()
    report: Path | None = None
    changes: Changes | None = None

    def __str__(self) -> str:
        parts = [f"{self.out}: {self.written} refined"]
        if self.skipped:
            parts.append(f"{self.skipped} already present (--overwrite repeats them)")
        if self.unmatched:
            parts.append(f"{len(self.unmatched)} without a photo")
        lines = [", ".join(parts)]
        if self.changes is not None:
            lines.append(f"changed: {100 * self.changes.mean():.1f} % of the pixels of a map")
            before, after = self.changes.before, self.changes.after
            if before is not None and after is not None:
                lines.append(
                    f"mIoU: {100 * before.miou:.1f} % before, {100 * after.miou:.1f} % after"
                )
        if self.report is not None:
            lines.append(f"report: {self.report}")
        return "\n".join(lines)


@remarks.collected()
def refine(
    images: str | Path,
    maps: str | Path,
    out: str | Path,
    *,
    method: Literal["par", "pamr", "crf"] = "par",
    par: Par = Par(),
    crf: Crf = Crf(),
    background: float | None = None,
    unsure: int | None = IGNORE,
    labels: bool = False,
    truth: str | Path | None = None,
    split: str = "train",
    overwrite: bool = False,
    device: str = "cpu",
) -> RefineResult:
    """Refine label maps or scores of any tool with PAR, PAMR or a dense CRF, and show what changed.

    A refined map is of its input's kind: a label PNG keeps its palette, an array .npy its dtype,
    class maps are .npz (pickled ones, too: `convert to-pickles` makes pickles of them). It has the
    size of its photo. PAR and PAMR refine scores as they are, and label maps as a score of 1 for a
    pixel's own label; PAR's result is divided by what its weights sum to, so that scores keep their
    range. The CRF refines probabilities, or the labels of label maps and class maps; of scores it
    writes marginals with a row of the background. Only labels that a map has can appear in its
    refined map.

    In folders, images and maps with the same name without extension belong together; what is
    already refined is skipped, and files that cannot be used are reported after all others are
    done. Folders get a report, refine.html, and its figures, refine.json.

    Collective for folders: each process refines its shard of the maps.

    Args:
        images: photo, folder of photos, or data set, as `--data` of other commands, whose true
            masks are used, too.
        maps: label map (PNG), scores (.npy [L, h, w] in 0..1, such as probabilities) or class maps
            (.npz of this package, or .npy of IRN's public code); or folder of these.
        out: file to write, with the suffix of its kind, or folder to write to.
        method: par, pamr, or crf.
        par: parameters of PAR and PAMR.
        crf: parameters of the dense CRF; gt_prob applies to labels.
        background: constant score of the background, 0..1, such as 0.3, for scores without one:
            class maps, and arrays whose first row is the first class. None: the first row of an
            array, or the row of label 0, is the background.
        unsure: label in label maps that means any label. PAR and PAMR keep it where no label is
            within reach, the CRF nowhere. None: there is no such label.
        labels: whether to write the labels of refined scores, too, as PNG: in the sub-folder
            `labels`, or next to a single map.
        truth: folder of true masks, for the report; 255 is not scored.
        split: list of images, if `images` is a data set.
        overwrite: whether to refine again what is already refined.
        device: that the method computes on: auto, cpu, cuda or cuda:N.

    Returns:
        What was written, and what changed.

    Raises:
        InputError: a parameter is out of range; a single file is missing, broken or does not fit
            its photo; folders have no name in common; a result would replace one of its inputs; or
            `out` has maps that were refined with other arguments.
        RunError: some files of a folder could not be used; the others are refined.

    Source: PAR: AFA, CVPR 2022. PAMR: Araslanov and Roth, CVPR 2020. CRF: Krähenbühl and Koltun,
        NIPS 2011.
    """
    # The command line has made a path of a built-in data set's name.
    images = images if Path(images).exists() else str(images)
    maps, out = Path(maps), Path(out)
    where = resolve_runtime(device, 0, 0, "fp32", prefer_bf16=False).device
    _check_parameters(par, crf, background, unsure)
    chosen = crf_method(crf) if method == "crf" else par_method(par, method)
    is_folder = maps.is_dir()
    folder = ("labels" if is_folder else "") if labels else None
    refiner = FileRefiner(chosen, Reading(background, unsure), folder, overwrite, where)
    numbers = crf if method == "crf" else par
    arguments = {"method": method, **_fields(numbers), "background": background, "unsure": unsure}
    is_data_set = data.is_data_set(images)
    for given in (maps, *(() if is_data_set else (Path(images),))):
        if not given.exists():
            raise InputError(f"{given}: no such file or folder")
    if is_folder != (is_data_set or Path(images).is_dir()):
        raise InputError(f"{images} and {maps}: give two files or two folders")
    if not is_folder:
        if truth is not None:
            raise InputError(f"truth: {truth} is of folders only; {maps} is a single map")
        return _refine_one(Path(images), maps, out, refiner)
    source = data.load(images, split=split, strict=False) if is_data_set else None
    photos = files_by_stem(Path(images)) if source is None else source.images
    given = [maps, *{photo.parent for photo in photos.values()}]
    if truth is not None:
        given.append(Path(truth))
    check_folder(out, given)
    masks = _true_masks(truth, source)
    return _Folder(maps, out, refiner, arguments, masks, source).refine(str(images), photos)


def _fields(numbers: Any) -> dict[str, Any]:
    return {field.name: getattr(numbers, field.name) for field in dataclasses.fields(numbers)}


def _check_parameters(par: Par, crf: Crf, background: float | None, unsure: int | None) -> None:
    """Check, before any file is read, the parameters that all files share."""
    ranges.check(par, "par")
    ranges.check(crf, "crf")
    if background is not None and not 0 <= background <= 1:
        raise InputError(f"refine: background is {background}; must be in 0..1, or None")
    if unsure is not None and not 0 <= unsure <= 255:
        raise InputError(f"refine: unsure is {unsure}; must be a label, 0..255, or None")


def _refine_one(image: Path, map: Path, out: Path, refiner: FileRefiner) -> RefineResult:
    suffix = refined_suffix(map)
    if out.is_dir() or out.suffix.lower() != suffix:
        raise InputError(f"{out}: the refined map of {map} must be named *{suffix}")
    check_targets(out, refiner.written(out), (image, map))
    if refiner.is_finished(out):
        return RefineResult(out, 0, 1)
    files = Files(image, map, out)
    given, values = refiner.compute(files, refiner.load(files))
    refiner.write(files, (given, values.cpu()))
    return RefineResult(out, 1, 0)


def _true_masks(
    truth: str | Path | None, source: data.Dataset | None
) -> dict[str, Callable[[], np.ndarray]]:
    """Functions that read the true label map, by name of the image."""
    if truth is not None:
        if not Path(truth).is_dir():
            raise InputError(f"truth: {truth} is not a directory")
        found = files_by_stem(Path(truth), (".png",))
        if not found:
            raise InputError(f"truth: {truth} has no PNG")
        return {name: functools.partial(read_labels, path) for name, path in found.items()}
    if source is None:
        return {}
    return {name: functools.partial(source.mask, name) for name in source.masks}


@dataclasses.dataclass(frozen=True)
class _Folder:
    """The refinement of a folder of maps.

    Attributes:
        maps: the folder.
        out: folder to write to.
        refiner: of its maps.
        arguments: what the refined maps depend on, by name; see `refine`.
        truth: functions that read the true label map, by name of the image.
        source: the data set of the photos, if they are of one.
    """

    maps: Path
    out: Path
    refiner: FileRefiner
    arguments: dict[str, Any]
    truth: dict[str, Callable[[], np.ndarray]]
    source: data.Dataset | None

    def refine(self, images: str, photos: Mapping[str, Path]) -> RefineResult:
        """Refine, compare, write the report."""
        maps = files_by_stem(self.maps, MAP_SUFFIXES)
        where = f"{images} ({len(photos)} photos) and {self.maps} ({len(maps)} maps)"
        pairs, unmatched = match(photos, maps, where)
        lonely = tuple(path for path in unmatched if path in set(maps.values()))
        say_unmatched("refine", lonely)
        files = [Files(photo, map, target_of(map, self.out)) for photo, map in pairs]
        distributed.run_on_main(lambda: self._begin(files))
        done = refine_all(files, self.refiner)
        finished = [one for one in files if one.target.exists()]
        changes = self._compare(finished)
        report = distributed.run_on_main(lambda: self._report(finished, done, changes))
        broken = (
            ()
            if self.source is None
            else [reason for name, reason in self.source.broken.items() if name in maps]
        )
        problems = (*done.problems, *broken, *changes.problems)
        if problems:
            raise RunError(
                f"{len(problems)} of {len(files) + len(broken)} maps could not be refined or "
                f"compared (the others are in {self.out}); first: {problems[0]}"
            )
        skipped = len(files) - done.count
        return RefineResult(self.out, done.count, skipped, lonely, report, changes)

    def _begin(self, files: Sequence[Files]) -> None:
        """Record the arguments; raise InputError if `out` has maps of other ones."""
        path, now = self.out / _RECORD, jsonable(self.arguments)
        if self.refiner.overwrite:
            write_json(path, {"arguments": now})
            return
        if path.exists():
            changed = differences(_read_record(path)["arguments"], now)
            if changed:
                raise InputError(
                    f"{self.out}: was refined with other arguments: {describe(changed)}; choose "
                    "another folder, or give --overwrite"
                )
            return
        foreign = next((one.target for one in files if one.target.exists()), None)
        if foreign is not None:
            raise InputError(
                f"{foreign}: is there already, but not from this command, since there is no "
                f"{path}; choose another folder, or give --overwrite"
            )
        write_json(path, {"arguments": now})

    def _compare(self, files: Sequence[Files]) -> Changes:
        classes = () if self.source is None else self.source.classes
        unsure = self.arguments["unsure"]
        return compare(files, self._before, self._after, self.truth, unsure, classes)

    def _before(self, files: Files, size: tuple[int, int]) -> np.ndarray:
        return self.refiner.reading.read(files.map, files.photo, size).labels()

    def _after(self, files: Files, size: tuple[int, int]) -> np.ndarray:
        if files.target.suffix == ".png":
            return read_labels(files.target)
        reading = self.refiner.reading
        if self.arguments["method"] == "crf":  # which writes the background's marginals
            reading = dataclasses.replace(reading, background=None)
        return reading.read(files.target, files.photo, size).labels()

    def _report(self, files: Sequence[Files], done: Refined, changes: Changes) -> Path:
        """Write refine.json and refine.html."""
        by_name = {one.map.stem: one for one in files}
        record = _read_record(self.out / _RECORD)
        seconds = record.get("seconds_per_map")
        if done.own > len(done.problems):
            seconds = done.seconds / done.own
        write_json(
            self.out / _RECORD,
            {
                "arguments": jsonable(self.arguments),
                "maps": len(changes.changed),
                "seconds_per_map": seconds,
                "changed": changes.mean(),
                "filled": changes.filled,
                "before": None if changes.before is None else changes.before.summary(),
                "after": None if changes.after is None else changes.after.summary(),
                "changed_of_each": changes.changed,
            },
        )
        labels_of: dict[int, str] = {0: "background"}
        if self.source is not None:
            labels_of |= dict(enumerate(self.source.classes, 1))
        numbers = {name: value for name, value in self.arguments.items() if name != "method"}
        title = _TITLES[self.arguments["method"]]
        shown = refinement_report.Shown(title, numbers, seconds, changes, labels_of)

        def labels(of: Callable[[Files, tuple[int, int]], np.ndarray]) -> Panel:
            return lambda name: of(by_name[name], image_size(by_name[name].photo))

        refinement_report.write(
            self.out / _PAGE,
            shown,
            lambda name: read_image(by_name[name].photo),
            labels(self._before),
            labels(self._after),
            (lambda name: self.truth[name]()) if self.truth else None,
        )
        return self.out / _PAGE


def _read_record(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
        if isinstance(found["arguments"], dict):
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{path}: cannot be read; remove it, and give --overwrite")
