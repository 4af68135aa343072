"""Every stage of the three methods on a Shapes folder, each from given artefacts.

Runs in one process, or in several under torchrun.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from pathlib import Path
from typing import Any

import torch

import wsss_fast as wf
from wsss_fast import amn, cam, ccr, eps, irn, seg
from wsss_fast.engine import distributed
from wsss_fast.evaluation import run_scores
from wsss_fast.stages import masks
from wsss_fast.stages.energy import Energy


class _PlainSgd(torch.optim.SGD):
    """Replaces Adam, which amplifies differences in the last bits of small gradients."""

    def __init__(self, groups: Any, **_: Any):
        super().__init__([{"params": list(group["params"])} for group in groups], lr=0.002)


def _shortened(
    recipe: Any, *, images: int, crop: int, batch: int, updates: int, **others: Any
) -> Any:
    """The recipe of a short training."""
    in_updates = any(field.name == "updates" for field in dataclasses.fields(recipe))
    epochs = -(-updates // (images // batch))
    length = {"updates": updates} if in_updates else {"epochs": epochs}
    augment = dataclasses.replace(recipe.augment, crop=crop)
    return dataclasses.replace(recipe, **length, **others, batch_size=batch, augment=augment)


def stages(
    folder: Path,
    out: Path,
    given: Path,
    *,
    crop: int,
    batch: int,
    updates: int,
    precision: str = "fp32",
    energy: float = 0.0,
) -> None:
    """Write all artefacts to `out`.

    The inputs of a stage come from `given`, so that each stage can be compared on its own.

    Args:
        folder: Shapes benchmark in VOC12 layout.
        out: run folder.
        given: the `out` of an earlier run, or `out` itself.
        crop: side of the training crops in pixels.
        batch: images per update.
        updates: updates of each training; counted in epochs, at least as many.
        precision: fp32, or bf16 (autocast).
        energy: weight of the energy loss of AMN and of the segmentation network.
    """
    data, val = wf.data.load(folder), wf.data.load(folder, split="val")
    same = {"backbone": "small", "precision": precision}
    numbers = {"images": len(data), "crop": crop, "batch": batch, "updates": updates}
    shortened = functools.partial(_shortened, **numbers)
    classifier, seeds = given / "cam/weights.pth", given / "seeds"
    cam.train(data, out, val=val, recipe=shortened(cam.RECIPES["small"]), **same)
    cam.infer(data, classifier, out, **same)
    run_scores.maps(
        out,
        "cam",
        data,
        given / "cam/maps",
        fixed=0.4,
        crf=wf.seeds.Crf(),
        fixed_crf=0.3,
        pairs=("train/rails",),
    )
    wf.seeds.make(data, given / "cam/maps", out, fg_threshold=0.4, bg_threshold=0.2)
    run_scores.seeds(out, "seeds", data, seeds)
    with_energy = {"energy": Energy(weight=energy)}
    manipulate = shortened(amn.RECIPES["small"], **with_energy)
    amn.train(data, out, seeds=seeds, weights=classifier, recipe=manipulate, **same)
    amn.infer(data, given / "amn/weights.pth", out, seeds=seeds, **same)
    irn.train(
        data, out, seeds=seeds, weights=classifier, recipe=shortened(irn.RECIPES["small"]), **same
    )
    irn.infer(data, given / "irn/weights.pth", out, maps=given / "amn/maps", **same)
    masks.make(data, given / "amn/maps", out, threshold=0.5)
    run_scores.masks(out, "masks", data, given / "masks")
    segment = shortened(seg.RECIPES["small"], accumulate=2, **with_energy)
    seg.train(data, out, masks=given / "masks", weights=classifier, recipe=segment, **same)
    seg.infer(val, given / "seg/weights.pth", out, recipe=segment, **same)
    eps.train(data, out, weights=classifier, recipe=shortened(eps.RECIPES["small"]), **same)
    eps.infer(data, given / "eps/weights.pth", out, crf=True, **same)
    ccr.infer(data, classifier, out, **same)
    ccr.train(
        data,
        out,
        masks=given / "masks",
        maps=given / "ccr/maps",
        weights=classifier,
        name="refined",
        recipe=ccr.Refinement(seg=segment),
        **same,
    )
    distributed.leave_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("folder", "out", "given"):
        parser.add_argument(name, type=Path)
    for name in ("crop", "batch", "updates"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--energy", type=float, default=0.0, help="weight of the energy loss")
    parser.add_argument(
        "--exact",
        action="store_true",
        help="plain SGD and no dropout, so that trainings can be compared",
    )
    options = vars(parser.parse_args())
    if options.pop("exact"):
        torch.optim.Adam = torch.optim.AdamW = _PlainSgd
        torch.nn.Dropout.forward = lambda self, x: x
    stages(**options)
    distributed.exit_process(0)


if __name__ == "__main__":
    main()
