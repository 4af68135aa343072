"""Every stage on a tiny benchmark, each from given artefacts: run by tests/test_ranks.py alone and under torchrun."""

import dataclasses
import sys
from pathlib import Path

import torch

import wsss_fast as wf
from wsss_fast import cam, ccr, eps, irn, ranks, seg
from wsss_fast.amn import RECIPES as AMN
from wsss_fast.stages import masks, score


class Plain(torch.optim.SGD):
    """Instead of Adam, which makes whole steps of the last bits of small gradients."""

    def __init__(self, groups, **_):
        super().__init__([{"params": list(group["params"])} for group in groups], lr=0.002)


def brief(recipe, **numbers):
    """The recipe for a few updates of eight crops of 64 px; epochs where it has no updates."""
    length = {"updates": 4} if any(f.name == "updates" for f in dataclasses.fields(recipe)) else {"epochs": 1}
    return dataclasses.replace(recipe, **length, batch_size=8, augment=dataclasses.replace(recipe.augment, crop=64), **numbers)


def main(folder: str, out: Path, given: Path) -> None:
    """Leave all artefacts in `out`; what a stage reads comes from `given`, so that each is compared on its own."""
    torch.optim.Adam = torch.optim.AdamW = Plain
    torch.nn.Dropout.forward = lambda self, x: x  # draws differ between processes, as they should
    data, val = wf.data.load(folder), wf.data.load(folder, split="val")
    same = {"backbone": "small", "precision": "fp32"}
    class_weights, seeds = given / "cam/weights.pth", given / "seeds"
    cam.train(data, out, val=val, recipe=brief(cam.RECIPES["small"], epochs=1), **same)
    cams = cam.infer(data, class_weights, out, **same).maps
    score.maps(out, "cam", data, given / "cam/maps", fixed=0.4, crf=wf.seeds.Crf(), fixed_crf=0.3, pairs=("train/rails",))
    wf.seeds.make(data, given / "cam/maps", out, fg_threshold=0.4, bg_threshold=0.2)
    score.seeds(out, "seeds", data, seeds)
    wf.amn.train(data, out, seeds=seeds, weights=class_weights, recipe=brief(AMN["small"]), **same)
    wf.amn.infer(data, given / "amn/weights.pth", out, seeds=seeds, **same)
    irn.train(data, out, seeds=seeds, weights=class_weights, recipe=brief(irn.RECIPES["small"]), **same)
    irn.infer(data, given / "irn/weights.pth", out, maps=given / "amn/maps", **same)
    masks.make(data, given / "amn/maps", out, threshold=0.5)
    score.masks(out, "masks", data, given / "masks")
    short = brief(seg.RECIPES["small"], accumulate=2)
    seg.train(data, out, masks=given / "masks", weights=class_weights, recipe=short, **same)
    seg.infer(val, given / "seg/weights.pth", out, recipe=short, **same)
    eps.train(data, out, weights=class_weights, recipe=brief(eps.RECIPES["small"]), **same)
    eps.infer(data, given / "eps/weights.pth", out, crf=True, **same)
    ccr.infer(data, class_weights, out, **same)
    ccr.train(data, out, masks=given / "masks", maps=given / "ccr/maps", weights=class_weights, name="refined",
              recipe=ccr.Refinement(seg=short), **same)
    ranks.leave()
    assert cams == out / "cam/maps"


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
