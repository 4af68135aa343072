"""Seeds: confident labels from class maps, by a dense CRF at two thresholds.

Source: IRN, CVPR 2019; AMN, CVPR 2022.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.label_folder import LABEL_NAMES, label_files, write_label_names
from wsss_fast.engine import distributed
from wsss_fast.engine.progress import Bar
from wsss_fast.engine.run_folder import check_out, provenance, stage
from wsss_fast.errors import InputError
from wsss_fast.maps import (
    ClassMaps,
    check_maps,
    label_index,
    load_maps,
    map_files,
    maps_path,
    to_labels,
)
from wsss_fast.readers.label_maps import IGNORE, read_labels, write_labels
from wsss_fast.stages.crf import Crf


@dataclasses.dataclass(frozen=True)
class SeedsResult:
    """Result of `make`.

    Attributes:
        folder: folder of the seeds, `<id>.png`.
        foreground: share of the pixels that are labelled with a class, 0..1.
        background: share of the pixels that are labelled as background, 0..1.
        ignored: share of the pixels that are 255, 0..1.
    """

    folder: Path
    foreground: float
    background: float
    ignored: float


def make(
    data: Source,
    maps: str | Path,
    out: str | Path,
    *,
    fg_threshold: float = 0.30,
    bg_threshold: float = 0.05,
    crf: Crf | None = Crf(),
    name: str = "seeds",
    batch_size: int = 16,
    device: str = "cpu",
) -> SeedsResult:
    """Turn class maps into seeds `<out>/<name>/<id>.png`: 0 background, 1..C classes, 255 unsure.

    Two label maps are the argmax of the class maps and a constant background score, `fg_threshold`
    and `bg_threshold`; both are refined by a dense CRF of the image. A pixel gets the class of the
    first map where that is not background, else 0 where the second map is background too, else 255.

    Collective: each process computes its shard of the images.

    Args:
        data: images and tags: a data set, or an argument of `data.load`.
        maps: folder of maps, as `cam.infer` and `amn.infer` write them; a background row in them is
            not used.
        out: run folder.
        fg_threshold: background score of the first map, 0..1; published: 0.30 for CAM, 0.45 for AMN
            maps.
        bg_threshold: background score of the second map, at most `fg_threshold`; published: 0.05
            for CAM, 0.15 for AMN maps.
        crf: parameters of the dense CRF, or None to combine the two argmax maps without refinement.
        name: sub-folder of `out`.
        batch_size: number of images of equal size and class count that share a CRF call.
        device: device of the CRF.

    Raises:
        InputError: a threshold is out of order or range, or maps are missing or of another size.

    Source: IRN's `cam_to_ir_label`, as AMN uses it.
    """
    if not 0 <= bg_threshold <= fg_threshold <= 1:
        raise InputError(
            "seeds: needs 0 <= bg_threshold <= fg_threshold <= 1, "
            f"got bg_threshold={bg_threshold} and fg_threshold={fg_threshold}"
        )
    data, folder, out = opened(data), Path(maps), check_out(out)
    check_maps(folder, data)
    arguments = {
        "data": data.fingerprint(),
        "maps": provenance(folder, map_files(data)),
        "fg_threshold": fg_threshold,
        "bg_threshold": bg_threshold,
        "crf": crf,
    }

    def work() -> dict[str, float]:
        own, todo = share_of_labels(data, out / name)
        finished = [out / name / f"{id}.png" for id in own.ids if id not in todo.images]
        counts = sum((_counts(read_labels(path)) for path in finished), np.zeros(3))
        with Bar(name, len(own), done=len(own) - len(todo)) as bar:
            for ids, labels in refined_labels(
                todo, folder, (fg_threshold, bg_threshold), crf, batch_size, device
            ):
                for id, (confident, loose) in zip(ids, labels, strict=True):
                    seed = combine(confident, loose)
                    write_labels(out / name / f"{id}.png", seed)
                    counts += _counts(seed)
                bar.advance(len(ids))
        counts = distributed.all_reduce_sum(counts)
        shares = (counts / counts.sum()).round(4)
        return dict(zip(("foreground", "background", "ignored"), shares, strict=True))

    notes = label_stage(out, name, data, arguments, work)
    return SeedsResult(out / name, notes["foreground"], notes["background"], notes["ignored"])


def label_stage(
    out: Path,
    name: str,
    data: Dataset,
    arguments: dict[str, Any],
    work: Callable[[], dict[str, Any]],
    *,
    more_files: Sequence[str] = (),
) -> dict[str, Any]:
    """A stage that writes `<out>/<name>/<id>.png` and the names of the labels. Collective.

    Args:
        out: run folder.
        name: sub-folder of `out`.
        data: images and class names.
        arguments: everything the labels depend on.
        work: writes the PNGs that are missing; returns notes.
        more_files: names of other files that `work` writes.

    Returns:
        The notes.
    """

    def work_and_name() -> dict[str, Any]:
        notes = work()
        if distributed.is_main_process():
            write_label_names(out / name, data)
        return notes

    files = [*label_files(data), LABEL_NAMES, *more_files]
    return stage(out, name, arguments, work_and_name, files=files)


def _counts(seed: np.ndarray) -> np.ndarray:
    """Number of pixels of a class, of background, and of 255, float64 [3]."""
    return np.array(
        [(seed % IGNORE > 0).sum(), (seed == 0).sum(), (seed == IGNORE).sum()], np.float64
    )


def share_of_labels(data: Dataset, folder: Path) -> tuple[Dataset, Dataset]:
    """This process' shard of `data`, and the part of it without a label PNG in `folder` yet.

    The latter is what an interrupted stage still has to do.
    """
    own = data.only(distributed.shard(data.ids))
    present = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    return own, own.only([id for id in own.ids if f"{id}.png" not in present])


def combine(confident: np.ndarray, loose: np.ndarray) -> np.ndarray:
    """Seed, uint8 [H, W], from the label maps [H, W] at the high and at the low threshold."""
    return np.where(confident > 0, confident, np.where(loose > 0, IGNORE, 0)).astype(np.uint8)


def refined_labels(
    data: Dataset,
    folder: Path,
    thresholds: Sequence[float],
    crf: Crf | None,
    batch_size: int,
    device: str,
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield ids and labels, uint8 [B, S, H, W]: the argmax at S thresholds, after `crf` if given.

    Images of one size and class count share a CRF call; the thresholds of an image share its
    lattice.
    """

    def kind(id: str) -> tuple[tuple[int, int], int]:
        return data.size(id), int(data.tags_of(id).sum())

    for (size, count), run in itertools.groupby(sorted(data.ids, key=kind), key=kind):
        same = list(run)
        for start in range(0, len(same), batch_size):
            ids = same[start : start + batch_size]
            loaded = [tagged_maps(data, folder, i) for i in ids]
            scores = (m.at_size(*size) for m in loaded)
            # [B, S, H, W]
            index = np.stack([[label_index(s, t) for t in thresholds] for s in scores])
            if crf is not None and count > 0:
                images = np.stack([data.image(i) for i in ids])
                index = crf.refine_labels(images, index, count + 1, device)
            yield ids, np.stack([to_labels(i, m.keys) for m, i in zip(loaded, index, strict=True)])


def tagged_maps(data: Dataset, folder: Path, id: str) -> ClassMaps:
    """The maps of an image, without a background row.

    Raises:
        InputError: they cannot be read, or their labels are not the image's tags.
    """
    maps, present = load_maps(folder, id).foreground(), np.flatnonzero(data.tags_of(id)) + 1
    if not np.array_equal(maps.keys, present):
        raise InputError(
            f"{maps_path(folder, id)}: has maps of labels {maps.keys.tolist()}, "
            f"but the image's tags are {present.tolist()}"
        )
    return maps
