"""The roofline bound of a row on a GPU: the time of its least work at the card's highest rates.

The bound is the longest of four times: bytes at the rate of a plain copy, products at the rate of a
plain matrix product of the dtype, other float32 instructions, and exponentials (with logarithms and
reciprocals) at the rate of the special function units. It counts no launches and no waiting, and
assumes that the four overlap: a good kernel takes two to five times as long.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from wsss_fast.bench import dense_crf, label_conditioned, random_walk
from wsss_fast.bench import pixel_cross_entropy as pixel_loss
from wsss_fast.bench.harness.memory import build_suite

MULTIPROCESSORS, CLOCK = 132, 1.98e9  # of an H200
INSTRUCTIONS = MULTIPROCESSORS * 128 * CLOCK  # float32 instructions of a thread per second
EXPONENTIALS = MULTIPROCESSORS * 16 * CLOCK  # per second


@dataclasses.dataclass(frozen=True)
class Work:
    """What no implementation of a row can avoid.

    Attributes:
        bytes: read or written once.
        products: FLOP of matrix products.
        instructions: of one thread each.
        exponentials: and logarithms, reciprocals.
    """

    bytes: float = 0.0
    products: float = 0.0
    instructions: float = 0.0
    exponentials: float = 0.0


@dataclasses.dataclass(frozen=True)
class Rates:
    """Measured rates of a card: bytes and bf16 FLOP per second."""

    copy: float
    bf16: float

    def products(self, dtype: str) -> float:
        """FLOP per second; float32 as TF32, whose rate is half of bf16's."""
        return self.bf16 / 2 if dtype == "float32" else self.bf16


def of_heads(key: str, options: Mapping[str, Any]) -> Work:
    """Products with taps on the map; features are read, with a backward twice, then written."""
    head = label_conditioned.ROWS[key][1]
    dtype = options.get("dtype", "float32")
    size = 4 if dtype == "float32" else 2
    b, c, h, w = head.features
    suite = build_suite("label_conditioned", {"dtype": dtype})
    roofline = suite.roofline(key)
    assert roofline is not None
    pixels = b * head.labels * (head.size[0] * head.size[1] if head.size else h * w)
    features = b * c * h * w * (3 if head.backward else 1)
    return Work(
        bytes=size * (features + pixels * (2 if head.backward else 1)),
        products=roofline.work,
        exponentials=pixels if head.size else 0,
    )


def of_pixel_loss(key: str, *, bce: bool) -> Work:
    """One exponential per class and pixel, and for BCE also a logarithm and a reciprocal.

    Instructions per class and pixel: 5 for maximum, difference, sum and gradient; where logits are
    upsampled 2 more to interpolate and 2 to add the gradient to the corners.
    """
    from wsss_fast.bench import pixel_bce

    loss = (pixel_bce if bce else pixel_loss).ROWS[key][1]
    batch, labels, height, width = loss.logits
    upsampled = loss.resize == "logits"
    pixels = batch * (loss.labels[0] * loss.labels[1] if upsampled else height * width)
    return Work(
        bytes=pixel_loss.least_bytes(loss),
        instructions=pixels * labels * (9 if upsampled else 5),
        exponentials=pixels * (3 * labels if bce else labels + 2),
    )


def of_dense_crf(key: str, problem: dense_crf.Problem, pixels: int) -> Work:
    """Per iteration energies and lattice entries are read, and a softmax is taken."""
    channels = problem.present + 1 if problem.present else problem.labels
    count = dense_crf.ITERATIONS * problem.images * problem.sets * pixels * channels
    return Work(bytes=dense_crf.least_bytes(problem, pixels, bilateral=True), exponentials=count)


def of_random_walk(key: str) -> Work:
    """A multiply-add for every map, step and pair of cells; the matrix stays in the caches."""
    return Work(instructions=random_walk.least_steps(random_walk.ROWS[key][1]).work / 2)


def of_pixel_adaptive_refine(key: str) -> Work:
    """A multiply-add for every mask, iteration and pair of neighbours; weights stay in caches."""
    roofline = build_suite("pixel_adaptive_refine", {}).roofline(key)
    assert roofline is not None
    return Work(instructions=roofline.work / 2)


def of_bytes(benchmark: str, key: str) -> Work:
    """Map and energy losses, filters, views and merged maps: what is read and written."""
    roofline = build_suite(benchmark, {}).roofline(key)
    assert roofline is not None and roofline.plain == "copy"
    return Work(bytes=roofline.work)


def work_of(benchmark: str, key: str, options: Mapping[str, Any]) -> Work:
    """The least work of a row."""
    from benchmarks import gpu_crf

    special: dict[str, Callable[[], Work]] = {
        "label_conditioned": lambda: of_heads(key, options),
        "pixel_cross_entropy": lambda: of_pixel_loss(key, bce=False),
        "pixel_bce": lambda: of_pixel_loss(key, bce=True),
        "random_walk": lambda: of_random_walk(key),
        "pixel_adaptive_refine": lambda: of_pixel_adaptive_refine(key),
        "dense_crf": lambda: of_dense_crf(key, gpu_crf.ROWS[key], gpu_crf.HEIGHT * gpu_crf.WIDTH),
    }
    return special.get(benchmark, lambda: of_bytes(benchmark, key))()


def bound(benchmark: str, key: str, options: Mapping[str, Any], rates: Rates) -> tuple[float, str]:
    """Milliseconds, and which of the four it is."""
    work, dtype = work_of(benchmark, key, options), options.get("dtype", "float32")
    times = {
        "bytes": work.bytes / rates.copy,
        "products": work.products / rates.products(dtype),
        "arithmetic": work.instructions / INSTRUCTIONS,
        "exponentials": work.exponentials / EXPONENTIALS,
    }
    name = max(times, key=lambda n: times[n])
    return 1e3 * times[name], name
