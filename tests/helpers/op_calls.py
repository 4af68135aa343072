"""A call of every operator, with its gradients, for tests of what holds for all of them."""

import dataclasses
from collections.abc import Callable

import torch

from wsss_fast import ops


@dataclasses.dataclass(frozen=True)
class OpCall:
    """An operator on images of a few pixels.

    Attributes:
        name: its name.
        make: (batch, height, width, generator) -> its tensors, on the CPU.
        call: tensors -> results, with the gradients of the first tensors.
        of_images: whether each image has results of its own, as the first dimension.
    """

    name: str
    make: Callable
    call: Callable
    of_images: bool = True

    def inputs(self, seed, batch=2, size=(9, 11)):
        return self.make(batch, *size, torch.Generator().manual_seed(seed))

    def __call__(self, tensors):
        return [t for t in self.call(*tensors) if t is not None]


def with_gradients(function, count):
    """The function's results with the gradients of its first tensors, by other values than 1."""

    def call(*tensors):
        leaves = [t.detach().requires_grad_() for t in tensors[:count]]
        results = function(*leaves, *tensors[count:])
        results = [results] if isinstance(results, torch.Tensor) else list(results)
        grads = torch.autograd.grad(results[0].square().sum(), leaves)
        return [*(r.detach() for r in results), *grads]

    return call


def photos(b, h, w, g):
    return torch.randint(0, 256, (b, 3, h, w), generator=g).byte()


def patches(b, h, w, g):
    """Labels 0..3 at twice the size, some of them ignored."""
    labels = torch.randint(0, 5, (b, 2 * h, 2 * w), generator=g).byte()
    labels[labels == 4] = 255
    labels.view(b, -1)[:, 0] = 1  # at least one is known
    return labels


def head(b, h, w, g):
    weight = torch.randn(2, 4, 16, 3, 3, generator=g)
    scale, bias = torch.rand(b, 16, generator=g), torch.randn(2, 4, generator=g)
    return torch.randn(b, 16, h, w, generator=g), scale, weight, bias


def tags(b, g):
    present = torch.rand(b, 3, generator=g) < 0.4
    present[:, 0] = True
    return present.long()


def lattice_filter(features, values):
    return ops.permutohedral_filter(features.flatten(0, 1), values.flatten(0, 1)).view(values.shape)


def regularised(b, h, w, g):
    """Probabilities, an image, its region and labels, some of them unknown."""
    labels = torch.randint(0, 4, (b, h, w), generator=g).byte()
    labels[labels == 3] = 255
    labels.view(b, -1)[:, 0] = 255  # at least one is unknown
    probabilities = torch.rand(b, 4, h, w, generator=g).softmax(1)
    return probabilities, photos(b, h, w, g), torch.rand(b, h, w, generator=g), labels


def energy(probabilities, image, roi, labels):
    """The loss, which is positive for a weight below 0."""
    return ops.dense_energy_loss(image, probabilities, roi, labels, weight=-0.01)


def filters(values, image):
    """By a lattice that is stored, and by one that is built for the call."""
    stored = ops.bilateral_filter(ops.BilateralLattice(image, sxy=20.0, srgb=9.0), values)
    with torch.no_grad():
        return stored, ops.bilateral_filter(image, values, sigma_rgb=9.0, sigma_xy=20.0)


def crf_of_lattice(image, unary):
    return [ops.dense_crf(ops.BilateralLattice(image, sxy=50.0, srgb=5.0), unary, iterations=1)]


def refined(masks, image):
    return ops.pixel_adaptive_refine(image, masks, dilations=[1, 3], iterations=2)


def maps_of_photos(b, h, w, g):
    return torch.rand(b, 3, h, w, generator=g), photos(b, h, w, g)


def views(*tensors):
    found = ops.merge_maps(tensors, [(0, 2)] * (len(tensors[0]) // 2), (13, 17), kind="softmax")
    return [torch.stack([image[k] for image in found]) for k in range(2)]


CALLS = (
    OpCall(
        "dense_crf",
        lambda b, h, w, g: (photos(b, h, w, g), 3 * torch.rand(b, 2, 3, h, w, generator=g)),
        lambda image, unary: [ops.dense_crf(image, unary, iterations=3)],
    ),
    OpCall(
        "permutohedral_filter",
        lambda b, h, w, g: (
            torch.rand(b, h * w, 3, generator=g),
            torch.rand(b, h * w, 2, generator=g),
        ),
        lambda features, values: [lattice_filter(features, values)],
        of_images=False,  # all points share a lattice
    ),
    OpCall(
        "dense_crf of a lattice",
        lambda b, h, w, g: (photos(b, h, w, g), 3 * torch.rand(b, 1, 3, h, w, generator=g)),
        crf_of_lattice,
    ),
    OpCall("bilateral_filter", maps_of_photos, with_gradients(filters, 1)),
    OpCall("pixel_adaptive_refine", maps_of_photos, with_gradients(refined, 1)),
    OpCall("dense_energy_loss", regularised, with_gradients(energy, 1), of_images=False),
    OpCall(
        "label_conditioned_logits",
        head,
        with_gradients(lambda *tensors: ops.label_conditioned_logits(*tensors, [1, 2]), 1),
    ),
    OpCall(
        "label_conditioned_activation",
        head,
        lambda *tensors: [
            ops.label_conditioned_activation(*tensors, [1, 2], size=(7, 15), activation="softmax")
        ],
    ),
    *(
        OpCall(
            f"{name}, {resize} resized",
            lambda b, h, w, g: (torch.randn(b, 4, h, w, generator=g), patches(b, h, w, g)),
            with_gradients(
                lambda logits, labels, name=name, resize=resize: getattr(ops, name)(
                    logits, labels, resize=resize, smoothing=0.1
                ),
                1,
            ),
            of_images=False,
        )
        for name in ("pixel_cross_entropy", "pixel_bce")
        for resize in ("labels", "logits")
    ),
    OpCall(
        "saliency_loss",
        lambda b, h, w, g: (
            torch.randn(b, 4, h, w, generator=g),
            torch.rand(b, 1, 2 * h, 2 * w, generator=g),
            tags(b, g),
        ),
        with_gradients(ops.saliency_loss, 1),
        of_images=False,
    ),
    OpCall(
        "aamr_loss",
        lambda b, h, w, g: (
            torch.randn(b, 4, h, w, generator=g),
            torch.rand(b, 1, 2 * h, 2 * w, generator=g),
            torch.rand(b, 2 * h, 2 * w, generator=g),
        ),
        with_gradients(lambda *tensors: ops.aamr_loss(*tensors), 1),
        of_images=False,
    ),
    OpCall(
        "random_walk",
        lambda b, h, w, g: (
            torch.rand(b, 2, h, w, generator=g),
            torch.rand(b, h, w, generator=g),
        ),
        lambda maps, edge: [ops.random_walk(maps, edge, steps=5)],
    ),
    OpCall(
        "image_views",
        lambda b, h, w, g: (photos(b, h, w, g).permute(0, 2, 3, 1).contiguous(),),
        lambda image: ops.image_views(image, [0.5, 1.5], mirror=False),
    ),
    OpCall(
        "merge_maps",
        lambda b, h, w, g: tuple(
            torch.rand(2 * b, 3, *size, generator=g) for size in ((3, 4), (5, 7))
        ),
        views,
    ),
)
