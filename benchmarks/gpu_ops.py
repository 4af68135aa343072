"""Every op on tiny inputs, forward and backward, on a GPU and compared with the CPU.

    compute-sanitizer --tool memcheck --error-exitcode 9 \\
        python benchmarks/gpu_ops.py [--device cuda] [--only NAME ...]

Prints one line per op and dtype, and a line that starts with "| " for each case that differs or
fails; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import inspect
import itertools
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.gpu_case import (  # noqa: E402
    Case,
    ToDevice,
    generator,
    leaf,
    with_gradients,
)
from benchmarks.gpu_regularised import (  # noqa: E402
    bilateral_filter,
    dense_energy_loss,
    pixel_adaptive_refine,
)
from wsss_fast import ops  # noqa: E402

# Largest allowed difference, relative to the largest expected value. Half precisions are rounded
# once, since both devices sum in float32.
LIMITS = {torch.float32: 2e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}
FLOATS = (torch.float32, torch.bfloat16)
# The same for what rounds more: factors to the 10 bits of TF32; Q, which sums to 1, to float16.
ROUGHER = {"label_conditioned_tf32": 5e-3, "dense_crf_float16": 5e-2}


def refined(image: Tensor, unary: Tensor, options: dict, to: ToDevice) -> list[Tensor]:
    return [ops.dense_crf(to(image), to(unary), iterations=2, **options)]


def dense_crf() -> Iterator[Case]:
    """Label counts around every specialised width; sets, batches, each term alone, gray images."""
    both = {"gaussian": (3.0, 3.0), "bilateral": (20.0, 9.0, 5.0)}
    shapes = [
        (1, 1, labels, 7, 9)
        for labels in (1, 2, 3, 4, 5, 8, 9, 16, 17, 21, 32, 33, 64, 65, 81, 128, 129, 256)
    ]
    shapes += [
        (3, 2, 3, 9, 14),
        (2, 1, 21, 17, 19),
        (1, 2, 5, 1, 7),
        (1, 1, 2, 20, 33),
        (1, 3, 1, 1, 1),
    ]
    for number, shape in enumerate(shapes):
        g = generator(number)
        image = torch.randint(0, 256, (shape[0], 3, *shape[-2:]), generator=g, dtype=torch.uint8)
        unary = 3 * torch.rand(shape, generator=g)
        alone = [both | {"bilateral": None}, both | {"gaussian": None}]
        for terms in (both, *(alone if shape in shapes[-5:] else ())):
            yield "dense_crf", torch.float32, functools.partial(refined, image, unary, terms)
    # Absent labels, whose energies are equal, are one channel.
    for number, (shape, present) in enumerate((((2, 1, 21, 13, 15), 4), ((1, 2, 81, 9, 7), 1))):
        g = generator(number)
        image = torch.randint(0, 256, (shape[0], 3, *shape[-2:]), generator=g, dtype=torch.uint8)
        unary = torch.full(shape, 5.0)
        unary[:, :, :present] = 3 * torch.rand(unary[:, :, :present].shape, generator=g)
        yield "dense_crf_merged", torch.float32, functools.partial(refined, image, unary, {})
        if "precision" in inspect.signature(ops.dense_crf).parameters:
            half = functools.partial(refined, image, unary, {"precision": "float16"})
            yield "dense_crf_float16", torch.float32, half
    g = generator(99)
    gray = torch.randint(0, 256, (1, 1, 8, 9), generator=g).float()
    unary = torch.rand(1, 3, 8, 9, generator=g)
    yield "dense_crf", torch.float32, lambda to: [ops.dense_crf(to(gray), to(unary), iterations=2)]
    rgb = torch.randint(0, 256, (1, 3, 8, 9), generator=g).float()

    def backward(to: ToDevice) -> list[Tensor]:
        energies = leaf(to(unary))
        return with_gradients(ops.dense_crf(to(rgb), energies, **both, iterations=2), energies)

    yield "dense_crf_backward", torch.float32, backward


def lattice() -> Iterator[Case]:
    """The filter and its transpose over 1 to 8 dimensions, with its gradient."""
    sizes = ((37, 1, 1), (40, 2, 4), (33, 3, 3), (101, 5, 21), (64, 5, 81), (33, 8, 3), (1, 2, 1))
    for n, d, c in sizes:
        g = generator(n + d)
        features, values = 4 * torch.rand(n, d, generator=g), torch.rand(n, c, generator=g)

        def both(
            to: ToDevice, features: Tensor = features, values: Tensor = values
        ) -> list[Tensor]:
            built, v = ops.PermutohedralLattice(to(features)), leaf(to(values))
            return [*with_gradients(built.filter(v), v), built.filter(v.detach(), transpose=True)]

        yield "permutohedral_filter", torch.float32, both


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether float32 convolutions may round their factors to TF32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def logits_of_heads(
    to: ToDevice, inputs: tuple, dilations: list, *, last: bool = False, rounded: bool = False
) -> list[Tensor]:
    """Logits and all gradients; `last`: of features in channels_last format."""
    tensors = [t if t is None else to(t) for t in inputs]
    if last:
        tensors[0] = tensors[0].to(memory_format=torch.channels_last)
    tensors = [t if t is None else leaf(t) for t in tensors]
    with tf32(rounded):
        result = ops.label_conditioned_logits(*tensors, dilations)
        return with_gradients(result, *(t for t in tensors if t is not None))


def activation_of_heads(
    to: ToDevice, inputs: tuple, dilations: list, activation: str, size: tuple | None
) -> list[Tensor]:
    """An activation, of two classes at one of the sizes, and the gradient of the features."""
    tensors = [t if t is None else to(t) for t in inputs]
    tensors[0] = leaf(tensors[0])
    classes = to(torch.tensor([3, 0])) if size == (5, 4) else None
    out = ops.label_conditioned_activation(
        *tensors, dilations, size=size, classes=classes, activation=activation
    )
    return with_gradients(out, tensors[0])


def heads() -> Iterator[Case]:
    """1x1 and 3x3 kernels, with and without scale and class subset; logits and activations.

    Activations are resized to a larger and a smaller size. Features have the usual and the
    channels_last format; their sizes are odd, and multiples of 16 as matrix units want them.
    """
    kernels = ((1, [1], False), (1, [1], True), (3, [1, 2, 6], True), (3, [6, 12, 18, 24], False))
    shapes = ((3, 40, 9, 11), 5), ((2, 64, 16, 16), 21)
    for dtype in (*FLOATS, torch.float16):
        for (k, dilations, scaled), (shape, labels) in itertools.product(kernels, shapes):
            g = generator(k)
            features = torch.randn(shape, generator=g).to(dtype)
            scale = torch.rand(shape[:2], generator=g).to(dtype) if scaled else None
            weight = 0.1 * torch.randn(len(dilations), labels, shape[1], k, k, generator=g)
            bias = torch.randn(len(dilations), labels, generator=g).to(dtype)
            inputs = features, scale, weight.to(dtype), bias
            logits = functools.partial(logits_of_heads, inputs=inputs, dilations=dilations)
            yield "label_conditioned_logits", dtype, logits
            last = functools.partial(logits, last=True)
            yield "label_conditioned_channels_last", dtype, last
            if dtype == torch.float32:
                yield "label_conditioned_tf32", dtype, functools.partial(logits, rounded=True)
            if labels > 5:
                continue
            for activation, size in (("softmax", (20, 31)), ("sigmoid", (5, 4)), ("softmax", None)):
                activated = functools.partial(
                    activation_of_heads,
                    inputs=inputs,
                    dilations=dilations,
                    activation=activation,
                    size=size,
                )
                yield "resized_activation", dtype, activated


def pixel_losses() -> Iterator[Case]:
    """Cross-entropy and BCE: labels or logits resized, balanced by batch or image or not.

    Logits are enlarged by whole and other factors, from one pixel, along one side, and reduced.
    """
    sizes = (((2, 21, 5, 7), (33, 40)), ((1, 3, 4, 4), (4, 4)), ((1, 81, 3, 3), (17, 9)))
    sizes += (((2, 5, 6, 5), (48, 40)), ((1, 256, 2, 3), (16, 5)), ((3, 4, 1, 1), (9, 70)))
    sizes += (((1, 2, 9, 8), (5, 3)), ((1, 21, 3, 2), (1, 130)))
    for dtype in FLOATS:
        for number, (shape, size) in enumerate(sizes):
            g = generator(number)
            z = torch.randn(shape, generator=g).to(dtype)
            label_dtype = torch.int64 if number == 1 else torch.uint8
            labels = torch.randint(0, shape[1], (shape[0], *size), generator=g).to(label_dtype)
            labels[torch.rand(labels.shape, generator=g) < 0.2] = 255
            present = torch.rand(shape[:2], generator=g) < 0.7
            for resize in ("labels", "logits"):
                for options in ({"smoothing": 0.1, "balance": True}, {"balance": "image"}, {}):

                    def loss(
                        to: ToDevice,
                        name: str,
                        z: Tensor = z,
                        labels: Tensor = labels,
                        resize: str = resize,
                        options: dict = options,
                        **more: Tensor,
                    ) -> list[Tensor]:
                        logits, op = leaf(to(z)), getattr(ops, name)
                        more = {key: to(value) for key, value in more.items()}
                        result = op(logits, to(labels), resize=resize, **options, **more)
                        return with_gradients(result, logits)

                    cross_entropy = functools.partial(loss, name="pixel_cross_entropy")
                    bce = functools.partial(loss, name="pixel_bce", present=present)
                    yield "pixel_cross_entropy", dtype, cross_entropy
                    yield "pixel_bce", dtype, bce


def map_losses() -> Iterator[Case]:
    """saliency_loss with every strategy, and aamr_loss; maps of the logits' size and larger."""
    sizes = (((2, 21, 7, 9), (29, 33)), ((1, 4, 12, 11), (12, 11)), ((1, 81, 3, 3), (3, 3)))
    for dtype in FLOATS:
        for shape, size in sizes:
            g = generator(sum(shape))
            z = (2 * torch.randn(shape, generator=g)).to(dtype)
            maps = torch.rand(shape[0], *size, generator=g)
            response = torch.rand(shape[0], *size, generator=g)
            tags = (torch.rand(shape[0], shape[1] - 1, generator=g) < 0.4).long()

            for options in (
                {},
                {"strategy": "naive"},
                {"strategy": "predefined", "background_classes": (2,)},
            ):

                def saliency(
                    to: ToDevice,
                    z: Tensor = z,
                    maps: Tensor = maps,
                    tags: Tensor = tags,
                    options: dict = options,
                ) -> list[Tensor]:
                    logits = leaf(to(z))
                    found = ops.saliency_loss(logits, to(maps), to(tags), **options)
                    terms = [found.foreground, found.background, found.estimate]
                    return [*with_gradients(found.loss, logits), *terms]

                yield "saliency_loss", dtype, saliency

            def aamr(
                to: ToDevice, z: Tensor = z, maps: Tensor = maps, response: Tensor = response
            ) -> list[Tensor]:
                logits = leaf(to(z))
                loss, region = ops.aamr_loss(
                    logits, to(maps), to(response), active=0.6, return_region=True
                )
                return [*with_gradients(loss, logits), region.float()]

            yield "aamr_loss", dtype, aamr


def random_walk() -> Iterator[Case]:
    """Radii from 1, which has no neighbours, to 9; one map and several, also in a batch."""
    for radius, shape in (
        (1, (3, 8, 9)),
        (2, (1, 5, 7)),
        (5, (3, 12, 11)),
        (5, (2, 5, 6, 9)),
        (9, (4, 13, 6)),
        (5, (1, 1, 1)),
    ):
        g = generator(radius)
        maps = torch.rand(shape, generator=g)
        edge = torch.rand(*shape[:-3], *shape[-2:], generator=g)

        def walk(
            to: ToDevice, maps: Tensor = maps, edge: Tensor = edge, radius: int = radius
        ) -> list[Tensor]:
            return [ops.random_walk(to(maps), to(edge), radius=radius, steps=6)]

        yield "random_walk", torch.float32, walk


def image_views() -> Iterator[Case]:
    """Sizes from one pixel on, up and down; with and without mirror images."""
    for dtype in FLOATS:
        for size, scales, mirror in (
            ((37, 50), (0.5, 1.0, 1.5, 2.0), True),
            ((1, 1), (1.0, 3.0), True),
            ((5, 130), (0.1, 0.73), False),
        ):
            photo = torch.randint(0, 256, (*size, 3), generator=generator(size[1])).byte()

            def views(
                to: ToDevice,
                photo: Tensor = photo,
                scales: tuple = scales,
                mirror: bool = mirror,
                dtype: torch.dtype = dtype,
            ) -> list[Tensor]:
                return ops.image_views(to(photo), scales, mirror=mirror, dtype=dtype)

            yield "image_views", dtype, views


def merge_maps() -> Iterator[Case]:
    """CAM's, AMN's and CCR's maps of two images, one of them without any channel."""
    for dtype in FLOATS:
        for number, (kind, align) in enumerate((("relative", 16), ("softmax", 1), ("sum", 1))):
            g, size = generator(number), (37, 50)
            grids = (2, 3), (3, 4), (5, 7)
            views = [torch.rand(4, 6, *grid, generator=g).to(dtype) for grid in grids]
            masks = [torch.rand(2, *grid, generator=g) < 0.5 for grid in ((10, 13), size)]

            def merged(
                to: ToDevice,
                views: list = views,
                masks: list = masks,
                kind: str = kind,
                align: int = align,
            ) -> list[Tensor]:
                found = ops.merge_maps(
                    [*map(to, views)],
                    [[4, 0, 2], []],
                    (37, 50),
                    kind=kind,
                    align=align,
                    foreground=(to(masks[0]), to(masks[1])) if kind == "softmax" else None,
                )
                return [tensor for maps in found for tensor in maps if tensor.numel()]

            yield "merge_maps", dtype, merged


CASES = (
    *(dense_crf, lattice, heads, pixel_losses, map_losses, random_walk),
    *(image_views, merge_maps, bilateral_filter, dense_energy_loss, pixel_adaptive_refine),
)


def difference(got: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """The largest difference of any result, relative to its largest expected value; may be NaN."""
    worst = 0.0
    for a, b in zip(got, expected, strict=True):
        a, b = a.detach().cpu().double(), b.detach().double()
        error = ((a - b).abs().max() / b.abs().max().clamp_min(1e-3)).item() if b.numel() else 0.0
        worst = error if not error <= worst else worst  # NaN replaces every number
    return worst


def main() -> int:
    groups = [f.__name__ for f in CASES]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", type=torch.device)
    parser.add_argument("--only", nargs="*", choices=groups, help="groups of ops; default: all")
    options = parser.parse_args()
    # TF32 would round float32 to 10 bits.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    errors: dict[tuple[str, torch.dtype], list[float]] = {}
    wrong, start = 0, time.perf_counter()
    for group in CASES:
        if options.only and group.__name__ not in options.only:
            continue
        for number, (name, dtype, call) in enumerate(group()):
            case = f"| {name} {dtype}, case {number} of {group.__name__}:"
            try:
                error = difference(call(lambda t: t.to(options.device)), call(lambda t: t))
            except Exception as problem:  # the other cases are still worth running
                print(case, f"{type(problem).__name__}: {str(problem)[:160]}", flush=True)
                wrong += 1
                continue
            errors.setdefault((name, dtype), []).append(error)
            if not error <= ROUGHER.get(name, LIMITS[dtype]):
                print(case, f"differs by {error:.2g}", flush=True)
                wrong += 1
    for (name, dtype), values in errors.items():
        largest = f"largest relative difference {max(values):.1e}"
        print(f"{name:<26}{str(dtype):<16}{len(values):>4} cases, {largest}")
    count, names = sum(map(len, errors.values())), {name for name, _ in errors}
    seconds = time.perf_counter() - start
    print(f"| {count} cases of {len(names)} ops, {wrong} wrong, {seconds:.1f} s", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
