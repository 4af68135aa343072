"""Seeds: confident labels from class maps, by a dense CRF at two thresholds.

Source: IRN, CVPR 2019; AMN, CVPR 2022.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from wsss_fast.data import Source, opened
from wsss_fast.engine import distributed
from wsss_fast.engine.run_folder import check_out, provenance
from wsss_fast.errors import InputError
from wsss_fast.maps import check_maps, map_files
from wsss_fast.readers.label_maps import IGNORE, read_labels
from wsss_fast.stages.crf import Crf
from wsss_fast.stages.labels import index_at, label_stage, unfinished_shard, write_all


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
        own, todo = unfinished_shard(data, out / name)
        finished = [out / name / f"{id}.png" for id in own.ids if id not in todo.images]
        counts = sum((_counts(read_labels(path)) for path in finished), np.zeros(3))

        def count(seed: np.ndarray) -> None:
            nonlocal counts
            counts += _counts(seed)

        notes = write_all(
            data,
            folder,
            out / name,
            lambda given: combine(*index_at(given, (fg_threshold, bg_threshold), crf).unbind(1)),
            batch_size=batch_size,
            device=device,
            photos=crf is not None,
            written=count,
        )
        counts = distributed.all_reduce_sum(counts)
        shares = (counts / counts.sum()).round(4)
        names = ("foreground", "background", "ignored")
        return {**dict(zip(names, shares, strict=True)), **notes}

    notes = label_stage(out, name, data, arguments, work)
    return SeedsResult(out / name, notes["foreground"], notes["background"], notes["ignored"])


def _counts(seed: np.ndarray) -> np.ndarray:
    """Number of pixels of a class, of background, and of 255, float64 [3]."""
    background, ignored = (np.count_nonzero(seed == label) for label in (0, IGNORE))
    return np.array([seed.size - background - ignored, background, ignored], np.float64)


def combine(confident: torch.Tensor, loose: torch.Tensor) -> torch.Tensor:
    """Seeds from the label maps at the high and at the low threshold, uint8, of one shape."""
    unsure = (loose > 0).to(torch.uint8) * IGNORE
    return torch.where(confident > 0, confident, unsure)
