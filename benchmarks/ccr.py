"""CCR on the Shapes benchmark: its maps against CAM without re-training, its speed, and saliency beside the masks.

The classifiers are those of `python -m benchmarks shapes`; nothing here trains one.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from scipy import ndimage

from benchmarks import ccr_direct
from wsss_fast import amn, cam, ccr, data, evaluate, nets, seg, threshold_curve
from wsss_fast.data.images import read_labels
from wsss_fast.nets.unequal import UnequalMaps
from wsss_fast.run import runtime, write_json
from wsss_fast.stages import masks
from wsss_fast.stages.activate import make_views, same_size_batches

SMALL = ccr.RECIPES["small"]
VARIANTS = {
    "published": SMALL.ask,
    "one round": dataclasses.replace(SMALL.ask, rounds=1),
    "two rounds": dataclasses.replace(SMALL.ask, rounds=2),
    "each class": dataclasses.replace(SMALL.ask, masking="class"),
    "unit of the image": dataclasses.replace(SMALL.ask, unit="image"),
    "each class, unit of the image": dataclasses.replace(SMALL.ask, masking="class", unit="image"),
}
_SMALL_SHARE = 0.03  # of the picture: an object of less is small
_UNSEEN = 0.25  # mean saliency: an object of less is not salient


def main(argv: list[str]) -> None:
    """The command line of `measure`."""
    tyro.cli(measure, args=argv, prog="python -m benchmarks ccr")


def measure(runs: Path, out: Path = Path("bench-ccr"), *, part: Literal["maps", "speed", "saliency"] = "maps",
            seeds: tuple[int, ...] = (0, 1, 2), images: int = 300, variants: tuple[str, ...] = ("published",),
            updates: int = 800) -> None:
    """Print the table of a part, and leave it in `<out>/<part>.json`; finished stages are read back.

    Args:
        runs: folder of `python -m benchmarks shapes`, whose classifiers and CAMs are taken.
        out: folder of the maps.
        part: "maps" scores variants against CAM, "speed" times the engine against the plain loop, "saliency" trains the
            segmentation network without saliency, with saliency everywhere, and with AAMR.
        seeds: of the benchmark and of its classifiers.
        images: the first ones of the training split that are used.
        variants: of the procedure, see VARIANTS.
        updates: of each segmentation network.
    """
    rows = []
    for seed in seeds:
        dataset = data.load(f"shapes:{seed}")
        dataset, run, own = dataset.only(dataset.ids[:images]), runs / f"seed{seed}", out / f"seed{seed}"
        if part == "maps":
            rows += [maps_row(dataset, run, own, seed, variant) for variant in variants]
        elif part == "speed":
            rows.append(speed_row(dataset, run, seed))
        else:
            rows += saliency_rows(dataset, run, own, seed, updates)
        write_json(out / f"{part}.json", {"date": time.strftime("%Y-%m-%d"), "images": images, "rows": rows})
    head = list(rows[0])
    print("\n".join(["| " + " | ".join(cells) + " |" for cells in
                     (head, ["---"] * len(head), *([_cell(row[key]) for key in head] for row in rows))]))


def _cell(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def maps_row(dataset: data.Dataset, run: Path, out: Path, seed: int, variant: str) -> dict[str, object]:
    """mIoU (%) of CAM and of a variant at the best threshold of each, on the same images."""
    recipe = dataclasses.replace(SMALL, ask=VARIANTS[variant])
    made = ccr.infer(dataset, run / "cam/weights.pth", out, backbone="small", recipe=recipe,
                     name=f"{variant.replace(', ', '-').replace(' ', '-')}/maps").maps
    before, after = threshold_curve(run / "cam/maps", dataset), threshold_curve(made, dataset)
    return {"seed": seed, "variant": variant, "CAM": 100 * before.metrics.miou, "at": before.best,
            "CCR": 100 * after.metrics.miou, "best at": after.best,
            "gain": 100 * (after.metrics.miou - before.metrics.miou)}


@torch.inference_mode()
def speed_row(dataset: data.Dataset, run: Path, seed: int) -> dict[str, object]:
    """Seconds an image in float32, of the plain loop and of the engine, whose maps must agree; and of the engine in bf16."""
    net = nets.load_weights(cam.network(dataset, "small"), run / "cam/weights.pth", complete=True).eval()
    scales, images = SMALL.ask.scales, [dataset.image(i) for i in dataset.ids]

    def plain() -> list[np.ndarray]:
        return [ccr_direct.maps(net, image, dataset.tags_of(id), scales=scales)
                for id, image in zip(dataset.ids, images, strict=True)]

    def engine(own: torch.nn.Module) -> list[np.ndarray]:
        score = ccr.scorer(UnequalMaps(own), dataset.image, SMALL)
        return [maps.high_res for ids in same_size_batches(dataset, dataset.ids, SMALL.infer_batch)
                for maps in score(make_views(dataset, ids, scales, torch.device("cpu")))]

    expected, direct = _timed(plain)
    half_net = nets.prepared(copy.deepcopy(net), runtime("cpu", 0, 0, "bf16", prefer_bf16=False))
    nets.prepared(net, runtime("cpu", 0, 0, "fp32", prefer_bf16=False), split=True)
    found, seconds = _timed(lambda: engine(net))
    worst = max(float(np.abs(a - b).max(initial=0)) for a, b in zip(expected, found, strict=True))
    if worst > 1e-4:
        raise SystemExit(f"the engine's maps differ by {worst:.2g}: no time")
    with torch.autocast("cpu", torch.bfloat16):
        _, half = _timed(lambda: engine(half_net))
    count = len(dataset)
    return {"seed": seed, "images": count, "threads": torch.get_num_threads(), "plain loop, ms an image": 1e3 * direct / count,
            "engine": 1e3 * seconds / count, "ratio": direct / seconds, "engine, bf16": 1e3 * half / count,
            "largest difference": f"{worst:.1e}"}


def _timed(call) -> tuple[list[np.ndarray], float]:
    start = time.perf_counter()
    results = call()
    return results, time.perf_counter() - start


def saliency_rows(dataset: data.Dataset, run: Path, out: Path, seed: int, updates: int) -> list[dict[str, object]]:
    """mIoU and recall of small, not salient objects (%) on validation images, by what saliency the training was given."""
    unseen = data.load(f"shapes:{seed}", split="val")
    made = out / "published/maps"
    crf = amn.ROADS["small"].crf
    labels = masks.make(dataset, made, out, threshold=ccr.ROADS["small"].ccr_crf_threshold, crf=crf).folder
    base = ccr.Refinement(seg=dataclasses.replace(seg.RECIPES["small"], updates=updates))
    rows = []
    for name, recipe in (("none", dataclasses.replace(base, weight=0.0)), ("everywhere", base.everywhere()), ("AAMR", base)):
        trained = ccr.train(dataset, out, masks=labels, maps=made, backbone="small", weights=run / "cam/weights.pth",
                            recipe=recipe, seed=seed, name=f"seg-{name}")
        predicted = seg.infer(unseen, trained.weights, out, backbone="small", recipe=recipe.seg, crf=False,
                              name=f"seg-{name}/predictions").predictions
        found, objects = small_object_recall(unseen, predicted)
        metrics = evaluate(predicted, unseen)
        rows.append({"seed": seed, "saliency": name, "mIoU": 100 * metrics.miou, "recall of small objects": 100 * found,
                     "objects": objects})
    return rows


def small_object_recall(dataset: data.Dataset, predictions: Path) -> tuple[float, int]:
    """Share of the pixels of small, not salient objects that are predicted as their class; and how many objects there are.

    An object is an 8-connected region of one class in the true mask.
    """
    right = pixels = objects = 0
    for id in dataset.ids:
        truth, predicted, salient = dataset.mask(id), read_labels(predictions / f"{id}.png"), dataset.saliency(id)
        for label in np.setdiff1d(np.unique(truth), [0, 255]):
            regions, count = ndimage.label(truth == label, structure=np.ones((3, 3)))
            for k in range(1, count + 1):
                inside = regions == k
                if inside.mean() < _SMALL_SHARE and salient[inside].mean() < _UNSEEN:
                    right += int((predicted[inside] == label).sum())
                    pixels += int(inside.sum())
                    objects += 1
    return right / max(pixels, 1), objects
