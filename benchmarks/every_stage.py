"""Every stage of the three methods on a benchmark's folder, each from given artefacts; run alone, or under torchrun."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch

import wsss_fast as wf
from wsss_fast import amn, cam, ccr, eps, irn, seg
from wsss_fast.engine import distributed
from wsss_fast.evaluation import run_scores
from wsss_fast.stages import masks


class _Plain(torch.optim.SGD):
    """Instead of Adam, which makes whole steps of the last bits of small gradients."""

    def __init__(self, groups: Any, **_: Any):
        super().__init__([{"params": list(group["params"])} for group in groups], lr=0.002)


def stages(
    folder: Path,
    out: Path,
    given: Path,
    *,
    crop: int,
    batch: int,
    updates: int,
    precision: str = "fp32",
) -> None:
    """Leave all artefacts in `out`; what a stage reads comes from `given`, so that each can be compared on its own.

    Args:
        folder: of the benchmark.
        out: run folder.
        given: an earlier run's `out`, or `out` itself.
        crop: side of the training crops, px.
        batch: images an update.
        updates: of each training; with epochs, as many as make these.
        precision: fp32, or bf16 (autocast).
    """
    data, val = wf.data.load(folder), wf.data.load(folder, split="val")
    same = {"backbone": "small", "precision": precision}
    per_epoch = len(data) // batch

    def brief(recipe: Any, **numbers: Any) -> Any:
        counts = any(f.name == "updates" for f in dataclasses.fields(recipe))
        length = {"updates": updates} if counts else {"epochs": -(-updates // per_epoch)}
        return dataclasses.replace(
            recipe,
            **length,
            batch_size=batch,
            **numbers,
            augment=dataclasses.replace(recipe.augment, crop=crop),
        )

    classifier, seeds = given / "cam/weights.pth", given / "seeds"
    cam.train(data, out, val=val, recipe=brief(cam.RECIPES["small"]), **same)
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
    amn.train(
        data, out, seeds=seeds, weights=classifier, recipe=brief(amn.RECIPES["small"]), **same
    )
    amn.infer(data, given / "amn/weights.pth", out, seeds=seeds, **same)
    irn.train(
        data, out, seeds=seeds, weights=classifier, recipe=brief(irn.RECIPES["small"]), **same
    )
    irn.infer(data, given / "irn/weights.pth", out, maps=given / "amn/maps", **same)
    masks.make(data, given / "amn/maps", out, threshold=0.5)
    run_scores.masks(out, "masks", data, given / "masks")
    segment = brief(seg.RECIPES["small"], accumulate=2)
    seg.train(data, out, masks=given / "masks", weights=classifier, recipe=segment, **same)
    seg.infer(val, given / "seg/weights.pth", out, recipe=segment, **same)
    eps.train(data, out, weights=classifier, recipe=brief(eps.RECIPES["small"]), **same)
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
    parser.add_argument(
        "--exact",
        action="store_true",
        help="plain SGD and no dropout, so that trainings can be compared",
    )
    asked = vars(parser.parse_args())
    if asked.pop("exact"):
        torch.optim.Adam = torch.optim.AdamW = _Plain
        torch.nn.Dropout.forward = lambda self, x: x
    stages(**asked)
    distributed.exit_process(0)


if __name__ == "__main__":
    main()
