"""bilateral_filter against the public module and the eager reference, on photos.

The module `bilateralfilter` (meng-tang/rloss, pytorch/wrapper) is used if it can be imported; it
filters one class after the other, on one core of the CPU for each image. Every call builds the
lattice. The roofline reads the values, and weight and vertex of each entry of the lattice, and
writes the results.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from wsss_fast import ops
from wsss_fast.bench.harness import photos
from wsss_fast.bench.harness.roofline import copy
from wsss_fast.bench.harness.suite import EAGER, OURS, Implementation, Suite
from wsss_fast.errors import InputError

try:
    import bilateralfilter as public_module
except ImportError:  # optional; a note below the table says so
    public_module = None

PUBLIC = "bilateralfilter"


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the bilateral_filter benchmark.

    Attributes:
        sigma_rgb: standard deviation in levels.
        sigma_xy: standard deviation in pixels.
        size: height and width of the photos, in pixels.
    """

    sigma_rgb: float = 15.0
    sigma_xy: float = 100.0
    size: tuple[int, int] = (512, 512)


@dataclasses.dataclass(frozen=True)
class Maps:
    """Size of a call: images, and channels of each."""

    channels: int
    images: int = 1


ROWS = {
    "1": ("1 channel", Maps(1)),
    "21": ("21 channels", Maps(21)),
    "81": ("81 channels", Maps(81)),
    "batch4": ("batch of 4, 21", Maps(21, images=4)),
}


def suite(options: Options = Options()) -> Suite:
    height, width = options.size
    if height < 1 or width < 1:
        raise InputError(f"bench bilateral_filter: size must be at least 1 1, got {height} {width}")
    sigmas = {"sigma_rgb": options.sigma_rgb, "sigma_xy": options.sigma_xy}

    def ours(image: Tensor, values: Tensor) -> Tensor:
        return ops.bilateral_filter(image, values, **sigmas)

    def eager(image: Tensor, values: Tensor) -> Tensor:
        return ops.reference.bilateral_filter(image, values, **sigmas)

    implementations = {OURS: Implementation(ours), EAGER: Implementation(eager)}
    notes: tuple[str, ...] = ()
    if public_module is None:
        notes = ("The module bilateralfilter is not installed; the baseline is eager.",)
    else:
        implementations[PUBLIC] = Implementation(
            lambda image, values: by_public_module(image, values, **sigmas), on_cpu=True
        )
    default = options == Options()
    return Suite(
        name="bilateral_filter",
        op="bilateral_filter",
        variant="" if default else f"{options.sigma_rgb:g}-{options.sigma_xy:g}",
        title=(
            f"bilateral_filter, {height}x{width}, sigmas {options.sigma_rgb:g} levels, "
            f"{options.sigma_xy:g} pixels; {photos.source()}"
        ),
        options=dataclasses.asdict(options),
        quick=("1", "21"),
        rows={key: text for key, (text, _) in ROWS.items()},
        make=lambda key, number: maps(ROWS[key][1], number, height, width),
        tiny=lambda key: maps(ROWS[key][1], 0, 24, 32),
        implementations=lambda key: implementations,
        baselines=(PUBLIC, EAGER),
        roofline=lambda key: copy(least_bytes(ROWS[key][1], height * width)),
        notes=notes,
    )


def least_bytes(shape: Maps, pixels: int) -> int:
    """Values and results, and six entries of a weight and a vertex for each pixel."""
    return shape.images * pixels * (2 * 4 * shape.channels + 6 * 8)


def maps(shape: Maps, number: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Photos uint8 [B, 3, H, W] and probabilities [B, K, H, W], different for each number."""
    generator = torch.Generator().manual_seed(1000 * shape.channels + number)
    low = torch.randn(shape.images, shape.channels, 9, 12, generator=generator)
    scores = torch.nn.functional.interpolate(low, (height, width), mode="bicubic")
    values = (2 * scores).softmax(1) if shape.channels > 1 else scores.sigmoid()
    return photos.batch(number * shape.images, shape.images, height, width), values


def by_public_module(image: Tensor, values: Tensor, *, sigma_rgb: float, sigma_xy: float) -> Tensor:
    """The public module's results [B, K, H, W]."""
    batch, channels, height, width = values.shape
    out = np.zeros(values.numel(), np.float32)
    flat = (image.float().numpy().reshape(-1), values.numpy().reshape(-1), out)
    if batch == 1:  # its batched function would leave torch with one thread
        public_module.bilateralfilter(*flat, height, width, sigma_rgb, sigma_xy)
    else:
        public_module.bilateralfilter_batch(
            *flat, batch, channels, height, width, sigma_rgb, sigma_xy
        )
    return torch.from_numpy(out).view(values.shape)
