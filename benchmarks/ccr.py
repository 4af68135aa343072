"""CCR on the Shapes benchmark: its maps against CAM without re-training, its speed, and saliency beside the masks.

The classifiers are those of `python -m benchmarks shapes`, or made as it makes them; none is trained for CCR.
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

from benchmarks import ccr_direct, ccr_maps
from benchmarks.ccr_maps import SMALL, Row
from wsss_fast import amn, cam, ccr, data, evaluate, nets, seg
from wsss_fast.ccr.padded_batch import PaddedBatch
from wsss_fast.data.images import read_labels
from wsss_fast.engine.files import write_json
from wsss_fast.engine.runtime import runtime
from wsss_fast.stages import masks
from wsss_fast.stages.activate import make_views, same_size_batches

_MASKS = (
    "published",
    0.74,
)  # variant and threshold behind the masks that the saliency part trains on
_SMALL_SHARE = 0.03  # of the picture: an object of less is small
_UNSEEN = 0.25  # mean saliency: an object of less is not salient


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
    """Print the table of a part, and leave it in `<out>/<benchmark>-<part>.json`; finished stages are read back.

    Args:
        runs: folder of `python -m benchmarks shapes`, whose classifiers and CAMs are taken; where it has none, they are made.
        out: folder of the maps.
        part: "maps" scores variants against CAM, "kinds" does so on parts of the images, "speed" times the engine against the
            plain loop, "saliency" trains the segmentation network without saliency, with saliency everywhere, and with AAMR.
        benchmark: which preset of it.
        seeds: of the benchmark and of its classifiers.
        images: the first ones of the training split that are used.
        variants: of the procedure, see `ccr_maps.VARIANTS`; "kinds" takes published and each class.
        crf: score "maps" behind a dense CRF, too.
        updates: of each segmentation network.
    """
    rows: list[Row] = []
    for seed in seeds:
        whole = data.load(f"{benchmark}:{seed}")
        dataset, run, own = (
            whole.only(whole.ids[:images]),
            runs / f"seed{seed}",
            out / f"{benchmark}-seed{seed}",
        )
        ccr_maps.classifier(whole, run, seed)
        if part == "maps":
            rows += ccr_maps.map_rows(
                dataset, ccr_maps.folders(dataset, run, own, variants), seed, crf
            )
        elif part == "kinds":
            rows += ccr_maps.kind_rows(
                dataset, ccr_maps.folders(dataset, run, own, ccr_maps.SPLIT), seed
            )
        elif part == "speed":
            rows.append(speed_row(dataset, run, seed))
        else:
            rows += saliency_rows(dataset, run, own, f"{benchmark}:{seed}", seed, updates)
        write_json(
            out / f"{benchmark}-{part}.json",
            {"date": time.strftime("%Y-%m-%d"), "images": images, "rows": rows},
        )
    print(_table(rows))
    label = {"maps": "maps", "kinds": "images"}.get(part)
    if label and len(seeds) > 1:
        print("\n" + _table(over_seeds(rows, label)))


def over_seeds(rows: list[Row], label: str) -> list[Row]:
    """Rows with the same label as one: mean ± half the range over the seeds; of gains the mean, and that of each seed."""
    found = []
    for name in dict.fromkeys(row[label] for row in rows):
        own = [row for row in rows if row[label] == name]
        figures = {key: [row[key] for row in own] for key in own[0] if key not in ("seed", label)}
        found.append(
            {
                label: name,
                **{
                    key: _spread(values, key.startswith("gain"))
                    for key, values in figures.items()
                    if isinstance(values[0], (int, float))
                },
            }
        )
    return found


def _spread(values: list[float], signed: bool) -> str:
    if np.isnan(values).any():
        return ""
    if signed:
        return f"{np.mean(values):+.1f} ({', '.join(f'{v:+.1f}' for v in values)})"
    digits = 2 if max(values) <= 1 else 1  # thresholds, and figures in %
    return f"{np.mean(values):.{digits}f} ± {np.ptp(values) / 2:.{digits}f}"


def _table(rows: list[Row]) -> str:
    """Markdown; curves are left to the JSON."""
    head = [key for key, value in rows[0].items() if not isinstance(value, dict)]
    body = [[_cell(row[key]) for key in head] for row in rows]
    return "\n".join(
        "| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *body)
    )


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.2f}"
    return str(value)


@torch.inference_mode()
def speed_row(dataset: data.Dataset, run: Path, seed: int) -> dict[str, object]:
    """Seconds an image in float32, of the plain loop and of the engine, whose maps must agree; and of the engine in bf16."""
    net = nets.load_weights(
        cam.network(dataset, "small"), run / "cam/weights.pth", complete=True
    ).eval()
    scales, images = SMALL.erasing.scales, [dataset.image(i) for i in dataset.ids]

    def plain() -> list[np.ndarray]:
        return [
            ccr_direct.maps(net, image, dataset.tags_of(id), scales=scales)
            for id, image in zip(dataset.ids, images, strict=True)
        ]

    def engine(own: torch.nn.Module) -> list[np.ndarray]:
        score = ccr.views_to_maps(PaddedBatch(own), dataset.image, SMALL)
        return [
            maps.high_res
            for ids in same_size_batches(dataset, dataset.ids, SMALL.infer_batch)
            for maps in score(make_views(dataset, ids, scales, torch.device("cpu")))
        ]

    expected, direct = _timed(plain)
    half_net = nets.optimize_for_inference(
        copy.deepcopy(net), runtime("cpu", 0, 0, "bf16", prefer_bf16=False)
    )
    nets.optimize_for_inference(net, runtime("cpu", 0, 0, "fp32", prefer_bf16=False), amx=True)
    found, seconds = _timed(lambda: engine(net))
    worst = max(float(np.abs(a - b).max(initial=0)) for a, b in zip(expected, found, strict=True))
    if worst > 1e-4:
        raise SystemExit(f"the engine's maps differ by {worst:.2g}: no time")
    with torch.autocast("cpu", torch.bfloat16):
        _, half = _timed(lambda: engine(half_net))
    count = len(dataset)
    return {
        "seed": seed,
        "images": count,
        "threads": torch.get_num_threads(),
        "plain loop, ms an image": 1e3 * direct / count,
        "engine": 1e3 * seconds / count,
        "ratio": direct / seconds,
        "engine, bf16": 1e3 * half / count,
        "largest difference": f"{worst:.1e}",
    }


def _timed(call) -> tuple[list[np.ndarray], float]:
    start = time.perf_counter()
    results = call()
    return results, time.perf_counter() - start


def saliency_rows(
    dataset: data.Dataset, run: Path, out: Path, benchmark: str, seed: int, updates: int
) -> list[Row]:
    """mIoU and recall of small, not salient objects (%) on validation images, by what saliency the training was given."""
    unseen = data.load(benchmark, split="val")
    variant, threshold = _MASKS
    made = ccr_maps.folders(dataset, run, out, (variant,))[variant]
    crf = amn.PIPELINES["small"].crf
    labels = masks.make(dataset, made, out, threshold=threshold, crf=crf).folder
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
            maps=made,
            backbone="small",
            weights=run / "cam/weights.pth",
            recipe=recipe,
            seed=seed,
            name=f"seg-{name}",
        )
        predicted = seg.infer(
            unseen,
            trained.weights,
            out,
            backbone="small",
            recipe=recipe.seg,
            crf=False,
            name=f"seg-{name}/predictions",
        ).predictions
        found, objects = small_object_recall(unseen, predicted)
        metrics = evaluate(predicted, unseen)
        rows.append(
            {
                "seed": seed,
                "saliency": name,
                "mIoU": 100 * metrics.miou,
                "recall of small objects": 100 * found,
                "objects": objects,
            }
        )
    return rows


def small_object_recall(dataset: data.Dataset, predictions: Path) -> tuple[float, int]:
    """Share of the pixels of small, not salient objects that are predicted as their class; and how many objects there are.

    An object is an 8-connected region of one class in the true mask.
    """
    right = pixels = objects = 0
    for id in dataset.ids:
        truth, predicted, salient = (
            dataset.mask(id),
            read_labels(predictions / f"{id}.png"),
            dataset.saliency(id),
        )
        for label in np.setdiff1d(np.unique(truth), [0, 255]):
            regions, count = ndimage.label(truth == label, structure=np.ones((3, 3)))
            for k in range(1, count + 1):
                inside = regions == k
                if inside.mean() < _SMALL_SHARE and salient[inside].mean() < _UNSEEN:
                    right += int((predicted[inside] == label).sum())
                    pixels += int(inside.sum())
                    objects += 1
    return right / max(pixels, 1), objects
