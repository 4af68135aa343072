"""Benchmark of dense_crf: ours, the eager reference and pydensecrf on photos, hard or soft unaries."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from wsss_fast import ops
from wsss_fast.bench import photos
from wsss_fast.bench.roofline import copy
from wsss_fast.bench.suite import EAGER, OURS, Implementation, Suite
from wsss_fast.errors import InputError

try:
    from pydensecrf import densecrf
except ImportError:  # an optional peer; the table says that it is missing
    densecrf = None

ITERATIONS = 10
SETTINGS = {
    "amn": dict(gaussian=(3.0, 3.0), bilateral=(50.0, 5.0, 10.0)),
    "eps": dict(gaussian=(3.0, 3.0), bilateral=(80.0, 13.0, 10.0)),
    "deeplab": dict(gaussian=(1.0, 3.0), bilateral=(67.0, 3.0, 4.0)),
    "spatial": dict(gaussian=(3.0, 3.0), bilateral=None),
}
# What the project requires of its agreement with pydensecrf on every photo.
LIMITS = {"max dQ": 1e-3, "labels differ": 1e-4}

Setting = Literal["amn", "eps", "deeplab", "spatial"]
Kind = Literal["hard", "soft"]


@dataclasses.dataclass(frozen=True)
class Problem:
    """Labels of the model, unaries of an image, images of a call, and how many of the labels occur (None: all)."""

    labels: int
    sets: int = 1
    images: int = 1
    present: int | None = None


ROWS = {
    "2": ("2 labels", Problem(2)),
    "3": ("3 labels", Problem(3)),
    "5": ("5 labels", Problem(5)),
    "21": ("21 labels", Problem(21)),
    "81": ("81 labels", Problem(81)),
    "pair": ("seed pair, 3 labels", Problem(3, sets=2)),
    "4of21": ("21 labels, 4 present", Problem(21, present=4)),
    "4of81": ("81 labels, 4 present", Problem(81, present=4)),
    "batch8": ("batch of 8, 3 labels", Problem(3, images=8)),
}


def suite(
    *, setting: Setting = "amn", unary: Kind = "hard", size: tuple[int, int] = (375, 500)
) -> Suite:
    """dense_crf against pydensecrf and the eager reference, on photos.

    pydensecrf has only the CPU, and uses one core of it. max dQ is the largest difference of a probability, labels differ
    the share of pixels whose most probable label is another. The roofline reads the energies, and weight and vertex of
    each entry of the bilateral lattice, once an iteration.

    Args:
        setting: parameters of AMN (3/3, 50/5/10), EPS (3/3, 80/13/10), DeepLab (1/3, 67/3/4), or AMN's without the image.
        unary: hard: label maps, right with probability 0.7; soft: probabilities.
        size: height and width of the photos, px.
    """
    height, width = size
    if height < 1 or width < 1:
        raise InputError(f"bench dense_crf: size must be at least 1 1, got {height} {width}")
    terms = SETTINGS[setting]
    implementations = {
        OURS: Implementation(
            lambda image, energies: ops.dense_crf(image, energies, **terms, iterations=ITERATIONS)
        ),
        EAGER: Implementation(
            lambda image, energies: ops.reference.dense_crf(
                image, energies, **terms, iterations=ITERATIONS
            ),
            slow=True,
        ),
    }
    notes = (
        "pydensecrf is not installed (PyPI: pydensecrf2), so the eager reference is the baseline.",
    )
    if densecrf is not None:
        implementations["pydensecrf"] = Implementation(
            lambda image, energies: peer(image, energies, **terms), on_cpu=True
        )
        notes = ()
    usual = setting == "amn" and unary == "hard"
    return Suite(
        name="dense_crf",
        op="dense_crf",
        variant="" if usual else f"{setting}-{unary}",
        title=f"dense_crf, {height}x{width}, {ITERATIONS} iterations, {_said(setting)}, {unary} unaries; {photos.source()}",
        options={"setting": setting, "unary": unary, "size": size},
        quick=("2", "21", "pair", "4of21"),
        rows={key: text for key, (text, _) in ROWS.items()},
        make=lambda key, which: problem(ROWS[key][1], which, unary, height, width),
        tiny=lambda key: problem(ROWS[key][1], 0, unary, 24, 32),
        implementations=lambda key: implementations,
        baselines=("pydensecrf", EAGER),
        compare=compare,
        limits=LIMITS,
        roofline=lambda key: copy(
            least_bytes(ROWS[key][1], height * width, terms["bilateral"] is not None)
        ),
        notes=notes,
    )


def least_bytes(shape: Problem, pixels: int, bilateral: bool) -> int:
    """Energies (float32, those of all absent labels being one) and lattice entries (weight and vertex) of all iterations."""
    channels = shape.labels if shape.present is None else min(shape.labels, shape.present + 1)
    entries = 6 if bilateral else 3  # corners of a simplex in 5 dimensions, or in 2
    return ITERATIONS * shape.images * pixels * (4 * shape.sets * channels + 8 * entries)


def _said(setting: str) -> str:
    terms = [
        f"{name} {'/'.join(f'{v:g}' for v in term)}"
        for name, term in SETTINGS[setting].items()
        if term is not None
    ]
    return f"{setting} ({', '.join(terms)})"


def problem(
    shape: Problem, which: int, kind: str, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Photos uint8 [B, 3, H, W], from the `which`-th on, and energies float32 [B, S, L, H, W] of smooth random maps."""
    b, s, labels = shape.images, shape.sets, shape.labels
    names = (
        torch.linspace(0, labels - 1, shape.present or labels).round().long()
    )  # spread over the labels, 0 among them
    generator = torch.Generator().manual_seed(1000 * labels + which)
    low = torch.randn(b * s, len(names), 9, 12, generator=generator)
    scores = torch.nn.functional.interpolate(low, (height, width), mode="bicubic")
    if kind == "hard":
        energies = ops.unary_from_labels(names[scores.argmax(1)].view(b, s, height, width), labels)
    else:
        probabilities = torch.zeros(b * s, labels, height, width).index_copy_(
            1, names, (2 * scores).softmax(1)
        )
        energies = ops.unary_from_probabilities(probabilities.view(b, s, labels, height, width))
    return photos.batch(which * b, b, height, width), energies


def peer(
    image: Tensor, energies: Tensor, *, gaussian: tuple | None, bilateral: tuple | None
) -> list[Tensor]:
    """pydensecrf's Q [L, H, W] of every image and unary, one after the other, as it has to be called."""
    results = []
    for photo, sets in zip(image, energies, strict=True):
        rgb = np.ascontiguousarray(photo.permute(1, 2, 0).numpy())
        for unary in sets:
            labels, height, width = unary.shape
            crf = densecrf.DenseCRF2D(width, height, labels)
            crf.setUnaryEnergy(unary.view(labels, -1).numpy())
            if gaussian is not None:
                crf.addPairwiseGaussian(sxy=gaussian[0], compat=gaussian[1])
            if bilateral is not None:
                crf.addPairwiseBilateral(
                    sxy=bilateral[0], srgb=bilateral[1], rgbim=rgb, compat=bilateral[2]
                )
            results.append(
                torch.from_numpy(np.asarray(crf.inference(ITERATIONS))).view(labels, height, width)
            )
    return results


def compare(results: list[Tensor], expected: list[Tensor]) -> dict[str, float]:
    """Largest difference of Q, and the share of pixels whose most probable label differs."""
    labels, height, width = expected[0].shape[-3:]
    got, want = (
        torch.cat([r.reshape(-1, labels, height, width) for r in some])
        for some in (results, expected)
    )
    return {
        "max dQ": (got - want).abs().max().item(),
        "labels differ": (got.argmax(1) != want.argmax(1)).double().mean().item(),
    }
