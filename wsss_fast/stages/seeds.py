"""Seeds: confident labels from class maps by a dense CRF at two thresholds (IRN, CVPR 2019; AMN, CVPR 2022)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from wsss_fast.data import Source, opened
from wsss_fast.data.dataset import Dataset
from wsss_fast.data.images import IGNORE, read_labels, write_labels
from wsss_fast.engine import distributed
from wsss_fast.engine.progress import Bar
from wsss_fast.engine.run_folder import provenance, stage
from wsss_fast.errors import InputError
from wsss_fast.maps import ClassMaps, check_maps, label_index, load_maps, maps_path, to_labels
from wsss_fast.stages.crf import Crf


@dataclasses.dataclass(frozen=True)
class SeedsResult:
    """Where the seeds are, and the share of pixels that got a class, background, or 255."""

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
    """Turn class maps into seed labels: `<out>/<name>/<id>.png` with 0 background, 1..C classes, 255 unsure.

    Two label maps are the argmax of the maps against a constant background score of `fg_threshold` and of
    `bg_threshold`; both go through one dense CRF of the image. Foreground comes from the first; where the first says
    background the pixel is 255, and 0 where both do.

    Args:
        data: images and tags; a data set, or what `data.load` opens.
        maps: folder of maps as `cam.infer` and `amn.infer` leave them; a background row in them is not used.
        out: run folder.
        fg_threshold: background score of the first map, 0..1; published: 0.30 for CAM, 0.45 for AMN maps.
        bg_threshold: background score of the second, at most the first; published: 0.05 for CAM, 0.15 for AMN maps.
        crf: its parameters, or None to combine the two argmax maps as they are.
        name: sub-folder of `out`.
        batch_size: images of equal size and class count that share a CRF call.
        device: where the CRF runs.

    Raises:
        InputError: thresholds out of order or range, or maps that are missing or of another size.

    Source: IRN's `cam_to_ir_label`, as AMN uses it.
    """
    if not 0 <= bg_threshold <= fg_threshold <= 1:
        raise InputError(
            "seeds: needs 0 <= bg_threshold <= fg_threshold <= 1, "
            f"got bg_threshold={bg_threshold} and fg_threshold={fg_threshold}"
        )
    data, folder, out = opened(data), Path(maps), Path(out)
    check_maps(folder, data)
    arguments = {
        "data": data.fingerprint(),
        "maps": provenance(folder),
        "fg_threshold": fg_threshold,
        "bg_threshold": bg_threshold,
        "crf": crf,
    }

    def work() -> dict[str, float]:
        own, todo = share_of_labels(data, out / name)
        there = [id for id in own.ids if id not in todo.images]
        counts = sum((_counts(read_labels(out / name / f"{id}.png")) for id in there), np.zeros(3))
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
        return dict(
            zip(
                ("foreground", "background", "ignored"),
                (counts / counts.sum()).round(4),
                strict=True,
            )
        )

    notes = stage(out, name, arguments, work)
    return SeedsResult(out / name, notes["foreground"], notes["background"], notes["ignored"])


def _counts(seed: np.ndarray) -> np.ndarray:
    """Pixels of a class, of background, and unsure ones."""
    return np.array(
        [(seed % IGNORE > 0).sum(), (seed == 0).sum(), (seed == IGNORE).sum()], np.float64
    )


def share_of_labels(data: Dataset, folder: Path) -> tuple[Dataset, Dataset]:
    """This process' share of `data`, and what of it has no label PNG in `folder` yet: what a killed stage has left to do."""
    own = data.only(distributed.shard(data.ids))
    present = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    return own, own.only([id for id in own.ids if f"{id}.png" not in present])


def combine(confident: np.ndarray, loose: np.ndarray) -> np.ndarray:
    """Seed of the label maps at the high and the low threshold, uint8 [H, W] each."""
    return np.where(confident > 0, confident, np.where(loose > 0, IGNORE, 0)).astype(np.uint8)


def refined_labels(
    data: Dataset,
    folder: Path,
    thresholds: Sequence[float],
    crf: Crf | None,
    batch_size: int,
    device: str,
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield (ids, uint8 [B, S, H, W] labels): the argmax at each of S thresholds, behind the CRF where one is given.

    Images of one size and class count share a CRF call, and the thresholds of an image share its lattice.
    """

    def kind(id: str) -> tuple[tuple[int, int], int]:
        return data.size(id), int(data.tags_of(id).sum())

    for (size, count), run in itertools.groupby(sorted(data.ids, key=kind), key=kind):
        same = list(run)
        for start in range(0, len(same), batch_size):
            ids = same[start : start + batch_size]
            loaded = [tagged_maps(data, folder, i) for i in ids]
            index = np.stack(
                [[label_index(m.at_size(*size), t) for t in thresholds] for m in loaded]
            )  # [B, S, H, W]
            if crf is not None and count > 0:
                images = np.stack([data.image(i) for i in ids])
                index = crf.refine_labels(images, index, count + 1, device)
            yield ids, np.stack([to_labels(i, m.keys) for m, i in zip(loaded, index, strict=True)])


def tagged_maps(data: Dataset, folder: Path, id: str) -> ClassMaps:
    """The maps of an image without a background row; InputError unless they are those of its tags."""
    maps, present = load_maps(folder, id).foreground(), np.flatnonzero(data.tags_of(id)) + 1
    if not np.array_equal(maps.keys, present):
        raise InputError(
            f"{maps_path(folder, id)}: maps of labels {maps.keys.tolist()}, "
            f"but the image's tags are {present.tolist()}"
        )
    return maps
