"""CCR on the Shapes benchmark: its maps compared with CAM, its speed, and its saliency loss.

The classifiers are those of `python -m benchmarks shapes`, or trained in the same way; none is
trained for CCR.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from scipy import ndimage

from benchmarks import ccr_direct, ccr_maps
from benchmarks.ccr_maps import SMALL, Row
from wsss_fast import amn, cam, ccr, data, evaluate, nets, seg
from wsss_fast.ccr.padded_batch import PaddedBatch
from wsss_fast.engine.files import write_json
from wsss_fast.engine.runtime import resolve_runtime
from wsss_fast.readers.label_maps import read_labels
from wsss_fast.stages import masks
from wsss_fast.stages.activate import make_views, same_size_batches

# Variant and threshold of the masks that the saliency part trains on.
_MASK_VARIANT, _MASK_THRESHOLD = "published", 0.74
_SMALL_SHARE = 0.03  # an object is small if it covers less of the image
_SALIENT = 0.25  # an object is not salient if its mean saliency is smaller


def main(argv: list[str]) -> None:
    """The command line of `measure`."""
    tyro.cli(measure, args=argv, prog="python -m benchmarks ccr")


def measure(
    runs: Path,
    out: Path = Path("bench-ccr"),
    *,
    part: Literal["maps", "kinds", "speed", "saliency"] = "maps",
    benchmark: Literal["shapes", "shapes-sparse"] = "shapes",
    seeds: tuple[int, ...] = (0, 1, 2),
    images: int = 300,
    variants: tuple[str, ...] = ("published", "each class"),
    crf: bool = True,
    updates: int = 800,
) -> None:
    """Print the table of a part; writes `<out>/<benchmark>-<part>.json`. Finished stages are kept.

    Args:
        runs: folder of `python -m benchmarks shapes`, with its classifiers and CAMs; those that
            are missing are trained and computed.
        out: folder for the maps and the JSON file.
        part: "maps" compares variants with CAM, "kinds" does so on groups of images, "speed"
            compares the time of the package with that of a plain loop, "saliency" trains the
            segmentation network without saliency loss, with one on all pixels, and with AAMR.
        benchmark: preset of the Shapes benchmark.
        seeds: seeds of the benchmark and of its classifiers.
        images: number of training images, from the start of the split.
        variants: variants of the procedure for "maps", of `ccr_maps.VARIANTS`.
        crf: also score "maps" after CRF refinement.
        updates: updates of each segmentation network.
    """
    rows: list[Row] = []
    for seed in seeds:
        split = data.load(f"{benchmark}:{seed}")
        dataset = split.only(split.ids[:images])
        run, own = runs / f"seed{seed}", out / f"{benchmark}-seed{seed}"
        ccr_maps.classifier(split, run, seed)
        if part == "maps":
            maps = ccr_maps.folders(dataset, run, own, variants)
            rows += ccr_maps.map_rows(dataset, maps, seed, crf)
        elif part == "kinds":
            maps = ccr_maps.folders(dataset, run, own, ccr_maps.MAIN_VARIANTS)
            rows += ccr_maps.kind_rows(dataset, maps, seed)
        elif part == "speed":
            rows.append(speed_row(dataset, run, seed))
        else:
            rows += saliency_rows(dataset, run, own, f"{benchmark}:{seed}", seed, updates)
        result = {"date": time.strftime("%Y-%m-%d"), "images": images, "rows": rows}
        write_json(out / f"{benchmark}-{part}.json", result)
    print(_table(rows))
    label = {"maps": "maps", "kinds": "images"}.get(part)
    if label and len(seeds) > 1:
        print("\n" + _table(over_seeds(rows, label)))


def over_seeds(rows: list[Row], label: str) -> list[Row]:
    """One row per label: mean ± half the range over the seeds; for gains all values."""
    found = []
    for name in dict.fromkeys(row[label] for row in rows):
        own = [row for row in rows if row[label] == name]
        figures = {key: [row[key] for row in own] for key in own[0] if key not in ("seed", label)}
        spreads = {
            key: _spread(values, key.startswith("gain"))
            for key, values in figures.items()
            if isinstance(values[0], (int, float))
        }
        found.append({label: name, **spreads})
    return found


def _spread(values: list[float], signed: bool) -> str:
    """Mean and half the range; if signed, the mean and the value of each seed."""
    if np.isnan(values).any():
        return ""
    if signed:
        return f"{np.mean(values):+.1f} ({', '.join(f'{v:+.1f}' for v in values)})"
    digits = 2 if max(values) <= 1 else 1  # thresholds, and figures in %
    return f"{np.mean(values):.{digits}f} ± {np.ptp(values) / 2:.{digits}f}"


def _table(rows: list[Row]) -> str:
    """Markdown table without curves, which only the JSON file has."""
    head = [key for key, value in rows[0].items() if not isinstance(value, dict)]
    body = [[_cell(row[key]) for key in head] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body))


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.2f}"
    return str(value)


@torch.inference_mode()
def speed_row(dataset: data.Dataset, run: Path, seed: int) -> dict[str, object]:
    """Milliseconds per image of the plain loop and of the package, in float32 and in bf16.

    Exits if the maps in float32 differ.
    """
    net = nets.load_weights(
        cam.network(dataset, "small"), run / "cam/weights.pth", complete=True
    ).eval()
    scales, images = SMALL.erasing.scales, [dataset.image(i) for i in dataset.ids]

    def plain() -> list[np.ndarray]:
        return [
            ccr_direct.maps(net, image, dataset.tags_of(id), scales=scales)
            for id, image in zip(dataset.ids, images, strict=True)
        ]

    def batched(own: torch.nn.Module) -> list[np.ndarray]:
        score = ccr.views_to_maps(PaddedBatch(own), dataset.image, SMALL)
        return [
            maps.high_res
            for ids in same_size_batches(dataset, dataset.ids, SMALL.infer_batch)
            for maps in score(make_views(dataset, ids, scales, torch.device("cpu")))
        ]

    expected, plain_seconds = _timed(plain)
    bf16_net = nets.optimize_for_inference(
        copy.deepcopy(net), resolve_runtime("cpu", 0, 0, "bf16", prefer_bf16=False)
    )
    nets.optimize_for_inference(
        net, resolve_runtime("cpu", 0, 0, "fp32", prefer_bf16=False), amx=True
    )
    found, seconds = _timed(lambda: batched(net))
    worst = max(float(np.abs(a - b).max(initial=0)) for a, b in zip(expected, found, strict=True))
    if worst > 1e-4:
        raise SystemExit(f"the maps differ by {worst:.2g}, so times are not comparable")
    with torch.autocast("cpu", torch.bfloat16):
        _, bf16_seconds = _timed(lambda: batched(bf16_net))
    count = len(dataset)
    return {
        "seed": seed,
        "images": count,
        "threads": torch.get_num_threads(),
        "plain loop, ms per image": 1e3 * plain_seconds / count,
        "package": 1e3 * seconds / count,
        "ratio": plain_seconds / seconds,
        "package, bf16": 1e3 * bf16_seconds / count,
        "largest difference": f"{worst:.1e}",
    }


def _timed(call: Callable[[], list[np.ndarray]]) -> tuple[list[np.ndarray], float]:
    start = time.perf_counter()
    results = call()
    return results, time.perf_counter() - start


def saliency_rows(
    dataset: data.Dataset, run: Path, out: Path, benchmark: str, seed: int, updates: int
) -> list[Row]:
    """mIoU and recall of small, not salient objects (%) by saliency loss, on validation images."""
    val = data.load(benchmark, split="val")
    maps = ccr_maps.folders(dataset, run, out, (_MASK_VARIANT,))[_MASK_VARIANT]
    crf = amn.PIPELINES["small"].crf
    labels = masks.make(dataset, maps, out, threshold=_MASK_THRESHOLD, crf=crf).folder
    base = ccr.Refinement(seg=dataclasses.replace(seg.RECIPES["small"], updates=updates))
    rows = []
    for name, recipe in (
        ("none", dataclasses.replace(base, weight=0.0)),
        ("everywhere", base.everywhere()),
        ("AAMR", base),
    ):
        trained = ccr.train(
            dataset,
            out,
            masks=labels,
            maps=maps,
            backbone="small",
            weights=run / "cam/weights.pth",
            recipe=recipe,
            seed=seed,
            name=f"seg-{name}",
        )
        predicted = seg.infer(
            val,
            trained.weights,
            out,
            backbone="small",
            recipe=recipe.seg,
            crf=False,
            name=f"seg-{name}/predictions",
        ).predictions
        recall, objects = small_object_recall(val, predicted)
        metrics = evaluate(predicted, val)
        rows.append(
            {
                "seed": seed,
                "saliency": name,
                "mIoU": 100 * metrics.miou,
                "recall of small objects": 100 * recall,
                "objects": objects,
            }
        )
    return rows


def small_object_recall(dataset: data.Dataset, predictions: Path) -> tuple[float, int]:
    """Pixel recall of small, not salient objects, and the number of these objects.

    An object is an 8-connected region of one class in the true mask.
    """
    right = pixels = objects = 0
    for id in dataset.ids:
        truth, saliency = dataset.mask(id), dataset.saliency(id)
        predicted = read_labels(predictions / f"{id}.png")
        for label in np.setdiff1d(np.unique(truth), [0, 255]):
            regions, count = ndimage.label(truth == label, structure=np.ones((3, 3)))
            for k in range(1, count + 1):
                inside = regions == k
                if inside.mean() < _SMALL_SHARE and saliency[inside].mean() < _SALIENT:
                    right += int((predicted[inside] == label).sum())
                    pixels += int(inside.sum())
                    objects += 1
    return right / max(pixels, 1), objects
