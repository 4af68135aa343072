"""dense_crf against its eager reference and pydensecrf2, on photos, in one run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from wsss_fast import ops
from wsss_fast.bench.harness import Row, added_mib, machine, median_ms, peak_mib, report
from wsss_fast.errors import InputError, RunError

SETTINGS = {
    "amn": {"gaussian": (3.0, 3.0), "bilateral": (50.0, 5.0, 10.0)},
    "eps": {"gaussian": (3.0, 3.0), "bilateral": (80.0, 13.0, 10.0)},
    "deeplab": {"gaussian": (1.0, 3.0), "bilateral": (67.0, 3.0, 4.0)},
    "spatial": {"gaussian": (3.0, 3.0), "bilateral": None},
}
ITERATIONS, HEIGHT, WIDTH = 10, 375, 500
# name: labels, labels that are present, unaries of one image, images
CASES = {
    "2 labels": (2, 2, 1, 1),
    "3 labels": (3, 3, 1, 1),
    "5 labels": (5, 5, 1, 1),
    "21 labels": (21, 21, 1, 1),
    "81 labels": (81, 81, 1, 1),
    "seed pair of 3 labels": (3, 3, 2, 1),
    "21 labels, 4 present": (21, 4, 1, 1),
    "81 labels, 4 present": (81, 4, 1, 1),
    "batch of 8, 3 labels": (3, 3, 1, 8),
}
MAX_DQ, MIN_ARGMAX = 1e-3, 0.9999


def run(*, setting: Literal["amn", "eps", "deeplab", "spatial"] = "amn", unary: Literal["hard", "soft"] = "hard",
        device: str = "cpu", threads: int = 0, quick: bool = False, out: Path | None = None) -> None:
    """Time dense_crf against pydensecrf2 and the eager reference: 500x375 photos, 10 iterations; results must agree.

    Args:
        setting: kernel parameters, as AMN, EPS or DeepLab use them, or the spatial kernel alone.
        unary: energies of hard labels (gt_prob 0.7) or of soft scores.
        device: where ours and the eager reference run; pydensecrf2 has one CPU core.
        threads: of ours and the eager reference on the CPU; 0: torch's number.
        quick: leave out the eager reference and the memory.
        out: folder for crf.json and crf.png.

    Raises:
        InputError: scikit-image, whose photos are used, is not installed.
        RunError: results disagree.
    """
    target = torch.device(device)
    if threads:
        torch.set_num_threads(threads)
    threads = torch.get_num_threads()
    rows = [_measure(name, setting, unary, target, quick) for name in CASES]
    contenders = ["ours", *(["eager"] if not quick else []), *(["pydensecrf2"] if _peer() else [])]
    if not quick and target.type == "cpu":
        for row in rows:
            for name in contenders:
                if f"{name}_ms" in row:
                    value = peak_mib(__name__, name, row["name"], setting, threads=threads)
                    row |= {} if value is None else {f"{name}_mib": value}
    about = machine(target, threads) | {"setting": setting, "unary": unary, "iterations": ITERATIONS}
    about["size"] = f"{WIDTH}x{HEIGHT}"
    if not _peer():
        about["peer"] = "pydensecrf2 is not installed"
    report("crf", about, rows, contenders, out)
    if any(row.get("wrong") for row in rows):
        raise RunError("crf: results disagree, see the table")


def photos(count: int) -> torch.Tensor:
    """uint8 [count, 3, H, W]: scikit-image's photos, then the same upside down."""
    try:
        import skimage.data  # an extra
    except ImportError:
        raise InputError("bench crf: needs the photos of scikit-image: pip install scikit-image") from None
    from PIL import Image

    found = []
    for name in ("chelsea", "coffee", "astronaut", "rocket"):
        image = Image.fromarray(getattr(skimage.data, name)()).resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
        found.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    found += [image.flip(1) for image in found]
    return torch.stack(found[:count]).contiguous()


def energies(images: int, sets: int, labels: int, present: int, kind: str) -> torch.Tensor:
    """[B, S, L, H, W] of smooth random scores; absent labels are as unlikely everywhere."""
    generator = torch.Generator().manual_seed(labels)
    low = 2 * torch.randn(images * sets, present, 9, 12, generator=generator)
    scores = torch.nn.functional.interpolate(low, (HEIGHT, WIDTH), mode="bicubic")
    if kind == "hard":
        found = ops.unary_from_labels(scores.argmax(1), labels)
    else:
        rest = torch.full((images * sets, labels - present, HEIGHT, WIDTH), -4.0)
        found = -torch.log_softmax(torch.cat([scores, rest], 1), 1)
    return found.view(images, sets, labels, HEIGHT, WIDTH)


def _peer() -> bool:
    try:
        from pydensecrf import densecrf  # noqa: F401 - an optional peer
    except ImportError:
        return False
    return True


def _pydensecrf(image: torch.Tensor, unary: torch.Tensor, setting: str) -> torch.Tensor:
    """pydensecrf2 on every image and unary, one after the other."""
    from pydensecrf import densecrf

    out = torch.empty_like(unary)
    terms = SETTINGS[setting]
    for b, s in np.ndindex(*unary.shape[:2]):
        crf = densecrf.DenseCRF2D(WIDTH, HEIGHT, unary.shape[2])
        crf.setUnaryEnergy(unary[b, s].reshape(unary.shape[2], -1).numpy())
        crf.addPairwiseGaussian(sxy=terms["gaussian"][0], compat=terms["gaussian"][1])
        if terms["bilateral"]:
            sxy, srgb, weight = terms["bilateral"]
            rgb = image[b].permute(1, 2, 0).contiguous().numpy()
            crf.addPairwiseBilateral(sxy=sxy, srgb=srgb, rgbim=rgb, compat=weight)
        out[b, s] = torch.from_numpy(np.array(crf.inference(ITERATIONS))).view(unary.shape[2:])
    return out


def _call(contender: str, setting: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    if contender == "pydensecrf2":
        return lambda image, unary: _pydensecrf(image, unary, setting)
    function = ops.dense_crf if contender == "ours" else ops.reference.dense_crf
    return lambda image, unary: function(image, unary, **SETTINGS[setting], iterations=ITERATIONS)


def _measure(name: str, setting: str, kind: str, device: torch.device, quick: bool) -> Row:
    labels, present, sets, images = CASES[name]
    unary = energies(images, sets, labels, present, kind)
    inputs = [(image.contiguous(), unary) for image in photos(8).split(images)][:4]  # another photo each time
    there = [(image.to(device), u.to(device)) for image, u in inputs]
    row: Row = {"name": name, "agreement": "not compared"}
    peer = "pydensecrf2" if _peer() else None
    if peer or not quick:
        expected = _call(peer or "eager", setting)(*inputs[0])
        q = _call("ours", setting)(*there[0]).cpu()
        dq = (q - expected).abs().max().item()
        same = (q.argmax(2) == expected.argmax(2)).double().mean().item()
        row |= {"max_dq": dq, "argmax": same, "agreement": f"max dQ {dq:.0e}, argmax {100 * same:.3f} %"}
        if dq > MAX_DQ or same < MIN_ARGMAX:
            return row | {"wrong": True}
    row["ours_ms"] = median_ms([lambda i=i: _call("ours", setting)(*i) for i in there], device)
    if not quick:
        row["eager_ms"] = median_ms([lambda: _call("eager", setting)(*there[0])], device, budget=0)
    if peer:
        row["pydensecrf2_ms"] = median_ms([lambda i=i: _call(peer, setting)(*i) for i in inputs], torch.device("cpu"))
    return row


def _print_memory(contender: str, name: str, setting: str) -> None:
    """For `peak_mib`: what the first call of this process adds, the kernels being loaded before."""
    labels, present, sets, images = CASES[name]
    image, unary = photos(images), energies(images, sets, labels, present, "hard")
    ops.dense_crf(image[:, :, :8, :8], unary[..., :8, :8], iterations=1)
    if contender == "pydensecrf2":
        import pydensecrf.densecrf  # noqa: F401 - its code does not count
    print(added_mib(lambda: _call(contender, setting)(image, unary)))


if __name__ == "__main__":
    _print_memory(*sys.argv[1:])
