"""Cases of `gpu_ops.py`: regularised losses, what they filter with, and refinement by colour."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.gpu_case import Case, ToDevice, generator, leaf, with_gradients
from wsss_fast import ops

SIGMAS = {"sigma_xy": 20.0, "sigma_rgb": 9.0}


def photos(batch: int, channels: int, size: tuple[int, int], g: torch.Generator) -> Tensor:
    return torch.randint(0, 256, (batch, channels, *size), generator=g, dtype=torch.uint8)


def bilateral_filter() -> Iterator[Case]:
    """Numbers of maps around every width of rows; gray images, one row, batches.

    Directly and with a stored lattice, whose transposed filter and dense CRF follow.
    """
    shapes = [(1, k, 7, 9) for k in (1, 2, 3, 4, 5, 8, 13, 21, 81)]
    shapes += [(3, 2, 17, 19), (2, 6, 1, 23), (2, 1, 1, 1), (1, 3, 40, 33)]
    for (number, (b, k, *size)), channels in itertools.product(enumerate(shapes), (3, 1)):
        g = generator(number)
        image, values = photos(b, channels, (size[0], size[1]), g), torch.rand(b, k, *size)

        def direct(to: ToDevice, image: Tensor = image, values: Tensor = values) -> list[Tensor]:
            v = leaf(to(values))
            return with_gradients(ops.bilateral_filter(to(image), v, **SIGMAS), v)

        def stored(to: ToDevice, image: Tensor = image, values: Tensor = values) -> list[Tensor]:
            lattice, v = ops.BilateralLattice(to(image), 20.0, 9.0), leaf(to(values))
            found = with_gradients(ops.bilateral_filter(lattice, v), v)
            return [*found, lattice.filter(v.detach(), transpose=True)]

        def crf(to: ToDevice, image: Tensor = image, values: Tensor = values) -> list[Tensor]:
            lattice, terms = ops.BilateralLattice(to(image), 20.0, 9.0), (20.0, 9.0, 5.0)
            return [ops.dense_crf(lattice, 3 * to(values), bilateral=terms, iterations=2)]

        yield "bilateral_filter", torch.float32, direct
        yield "bilateral_filter_stored", torch.float32, stored
        yield "dense_crf_stored", torch.float32, crf


def energy(to: ToDevice, tensors: tuple, options: dict, stored: bool) -> list[Tensor]:
    """The loss and its gradient; `stored`: at full size, by a lattice that is built before."""
    image, logits, roi, labels = (t if t is None else to(t) for t in tensors)
    z = leaf(logits)
    if stored:
        image, options = ops.BilateralLattice(image, 20.0, 9.0), {**options, "scale_factor": 1.0}
    loss = ops.dense_energy_loss(image, z.softmax(1), roi, labels, weight=1e-3, **SIGMAS, **options)
    return with_gradients(loss, z)


def dense_energy_loss() -> Iterator[Case]:
    """Reduced and not, with and without labels, both gradients, empty regions, odd sizes."""
    shapes = ((2, 21, 17, 19), (1, 1, 9, 14), (3, 4, 2, 31), (1, 81, 12, 8))
    for number, (b, k, *size) in enumerate(shapes):
        g = generator(number)
        image, logits = photos(b, 3, (size[0], size[1]), g), torch.randn(b, k, *size, generator=g)
        labels = torch.randint(0, 256, (b, *size), generator=g).byte()
        labels[labels > 100] = 255
        roi = torch.rand(b, *size, generator=g)
        roi[b // 2] = b % 2  # a region without pixels, or a whole one
        for options in (
            {},
            {"gradient": "exact"},
            {"scale_factor": 0.7, "recompute_scale_factor": False},
            {"scale_factor": 1.0},
        ):
            for known, stored in ((labels, False), (None, False), (labels, True)):
                inputs = image, logits, roi, known
                call = functools.partial(energy, tensors=inputs, options=options, stored=stored)
                yield "dense_energy_loss", torch.float32, call


def pixel_adaptive_refine() -> Iterator[Case]:
    """Fewer and more dilations than one launch has, larger than the image, one mask and many."""
    six, many = (1, 2, 4, 8, 12, 24), tuple(range(1, 36))
    cases = (
        ((1, 3, 21, 37, 50), six),
        ((2, 3, 2, 33, 65), six),
        ((3, 1, 1, 1, 1), six),
        ((1, 4, 9, 1, 70), (3, 100)),
        ((2, 2, 4, 40, 3), (1, 2, 3, 4, 5, 6, 7)),
        ((1, 3, 3, 9, 8), many),
    )
    for (number, (shape, dilations)), kind in itertools.product(enumerate(cases), ("par", "pamr")):
        (b, c, k, *size), g = shape, generator(number)
        image, masks = photos(b, c, (size[0], size[1]), g), torch.rand(b, k, *size, generator=g)

        def refined(
            to: ToDevice,
            image: Tensor = image,
            masks: Tensor = masks,
            dilations: tuple = dilations,
            kind: str = kind,
        ) -> list[Tensor]:
            m = leaf(to(masks))
            options = {"dilations": dilations, "kind": kind, "iterations": 3}
            return with_gradients(ops.pixel_adaptive_refine(to(image), m, **options), m)

        yield "pixel_adaptive_refine", torch.float32, refined
