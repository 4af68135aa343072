"""dense_crf against pydensecrf and the eager reference, on photos.

pydensecrf runs on one core of the CPU. max dQ is the largest difference of a probability, labels
differ the share of pixels whose most probable label is different. The roofline reads the energies,
and weight and vertex of each entry of the bilateral lattice, once per iteration.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from wsss_fast import ops
from wsss_fast.bench.harness import photos
from wsss_fast.bench.harness.roofline import copy
from wsss_fast.bench.harness.suite import EAGER, OURS, Implementation, Suite
from wsss_fast.errors import InputError
from wsss_fast.ops.reference.dense_crf import dense_crf as reference_crf

try:
    from pydensecrf import densecrf
except ImportError:  # optional; a note below the table says so
    densecrf = None

ITERATIONS = 10
SETTINGS: dict[str, dict[str, Any]] = {
    "amn": dict(gaussian=(3.0, 3.0), bilateral=(50.0, 5.0, 10.0)),
    "eps": dict(gaussian=(3.0, 3.0), bilateral=(80.0, 13.0, 10.0)),
    "deeplab": dict(gaussian=(1.0, 3.0), bilateral=(67.0, 3.0, 4.0)),
    "spatial": dict(gaussian=(3.0, 3.0), bilateral=None),
}
# Required agreement with pydensecrf on every photo.
LIMITS = {"max dQ": 1e-3, "labels differ": 1e-4}


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the dense_crf benchmark.

    Attributes:
        setting: CRF parameters of AMN (3/3, 50/5/10), EPS (3/3, 80/13/10) or DeepLab (1/3, 67/3/4),
            or AMN's spatial term alone.
        unary: hard: label maps that are right with probability 0.7; soft: probabilities.
        size: height and width of the photos, in pixels.
    """

    setting: Literal["amn", "eps", "deeplab", "spatial"] = "amn"
    unary: Literal["hard", "soft"] = "hard"
    size: tuple[int, int] = (375, 500)


@dataclasses.dataclass(frozen=True)
class Problem:
    """Size of a call.

    Attributes:
        labels: labels of the model.
        sets: unaries of an image.
        images: images of a call.
        present: number of labels that occur in the unaries; None: all.
    """

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


def suite(options: Options = Options()) -> Suite:
    height, width = options.size
    if height < 1 or width < 1:
        raise InputError(f"bench dense_crf: size must be at least 1 1, got {height} {width}")
    terms = SETTINGS[options.setting]

    def ours(image: Tensor, energies: Tensor) -> Tensor:
        return ops.dense_crf(image, energies, **terms, iterations=ITERATIONS)

    def eager(image: Tensor, energies: Tensor) -> Tensor:
        return reference_crf(image, energies, **terms, iterations=ITERATIONS)

    implementations = {OURS: Implementation(ours), EAGER: Implementation(eager, slow=True)}
    notes: tuple[str, ...] = ()
    if densecrf is None:
        notes = (
            "pydensecrf is not installed (PyPI: pydensecrf2), so the baseline is the eager "
            "reference.",
        )
    else:
        implementations["pydensecrf"] = Implementation(
            lambda image, energies: by_pydensecrf(image, energies, **terms), on_cpu=True
        )
    default = options.setting == "amn" and options.unary == "hard"
    title = (
        f"dense_crf, {height}x{width}, {ITERATIONS} iterations, {describe(options.setting)}, "
        f"{options.unary} unaries; {photos.source()}"
    )
    return Suite(
        name="dense_crf",
        op="dense_crf",
        variant="" if default else f"{options.setting}-{options.unary}",
        title=title,
        options=dataclasses.asdict(options),
        quick=("2", "21", "pair", "4of21"),
        rows={key: text for key, (text, _) in ROWS.items()},
        make=lambda key, number: problem(ROWS[key][1], number, options.unary, height, width),
        tiny=lambda key: problem(ROWS[key][1], 0, options.unary, 24, 32),
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
    """Energies and lattice entries of all iterations.

    Energies are float32, all absent labels counting as one; an entry is a weight and a vertex.
    """
    channels = shape.labels if shape.present is None else min(shape.labels, shape.present + 1)
    entries = 6 if bilateral else 3  # corners of a simplex in 5 dimensions, or in 2
    return ITERATIONS * shape.images * pixels * (4 * shape.sets * channels + 8 * entries)


def describe(setting: str) -> str:
    """ "amn" as "amn (gaussian 3/3, bilateral 50/5/10)"."""
    terms = [
        f"{name} {'/'.join(f'{v:g}' for v in term)}"
        for name, term in SETTINGS[setting].items()
        if term is not None
    ]
    return f"{setting} ({', '.join(terms)})"


def problem(
    shape: Problem, number: int, kind: str, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Photos uint8 [B, 3, H, W] and energies of smooth random maps, float32 [B, S, L, H, W].

    Each number has other photos and maps.
    """
    b, s, labels = shape.images, shape.sets, shape.labels
    # Spread over the labels, with 0 among them.
    names = torch.linspace(0, labels - 1, shape.present or labels).round().long()
    generator = torch.Generator().manual_seed(1000 * labels + number)
    low = torch.randn(b * s, len(names), 9, 12, generator=generator)
    scores = torch.nn.functional.interpolate(low, (height, width), mode="bicubic")
    if kind == "hard":
        energies = ops.unary_from_labels(names[scores.argmax(1)].view(b, s, height, width), labels)
    else:
        probabilities = torch.zeros(b * s, labels, height, width).index_copy_(
            1, names, (2 * scores).softmax(1)
        )
        energies = ops.unary_from_probabilities(probabilities.view(b, s, labels, height, width))
    return photos.batch(number * b, b, height, width), energies


def by_pydensecrf(
    image: Tensor, energies: Tensor, *, gaussian: tuple | None, bilateral: tuple | None
) -> list[Tensor]:
    """pydensecrf's Q [L, H, W] of every image and unary, one after the other."""
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
            q = torch.from_numpy(np.asarray(crf.inference(ITERATIONS)))
            results.append(q.view(labels, height, width))
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
