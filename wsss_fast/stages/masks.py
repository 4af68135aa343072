"""Pseudo-masks: the label map that a segmentation network will be trained on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from wsss_fast.data import Source, opened
from wsss_fast.engine.run_folder import check_out, provenance
from wsss_fast.errors import InputError
from wsss_fast.maps import check_maps, map_files
from wsss_fast.stages.crf import Crf
from wsss_fast.stages.labels import index_at, label_stage, write_all


@dataclasses.dataclass(frozen=True)
class MasksResult:
    """Result of `make`.

    Attributes:
        folder: folder of the pseudo-masks, `<id>.png`.
    """

    folder: Path


def make(
    data: Source,
    maps: str | Path,
    out: str | Path,
    *,
    threshold: float,
    crf: Crf | None = Crf(),
    name: str = "masks",
    batch_size: int = 16,
    device: str = "cpu",
) -> MasksResult:
    """Write pseudo-masks `<out>/<name>/<id>.png`.

    They are the argmax of the maps and a constant background score, refined by a dense CRF.

    Collective: each process computes its shard of the images.

    Args:
        data: images and tags: a data set, or an argument of `data.load`.
        maps: folder of maps; a background row in them is not used.
        out: run folder.
        threshold: score of the background, 0..1.
        crf: parameters of the dense CRF, or None for the argmax without refinement.
        name: sub-folder of `out`.
        batch_size: number of images that share a CRF call.
        device: device of the CRF.

    Raises:
        InputError: the threshold is out of range, or maps are missing.
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"masks: threshold must be in 0..1, got {threshold}")
    data, folder, out = opened(data), Path(maps), check_out(out)
    check_maps(folder, data)

    def work() -> dict[str, Any]:
        return write_all(
            data,
            folder,
            out / name,
            lambda given: index_at(given, (threshold,), crf)[:, 0],
            batch_size=batch_size,
            device=device,
            photos=crf is not None,
        )

    arguments = {
        "data": data.fingerprint(),
        "maps": provenance(folder, map_files(data)),
        "threshold": threshold,
        "crf": crf,
    }
    label_stage(out, name, data, arguments, work)
    return MasksResult(out / name)
