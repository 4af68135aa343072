"""Images of unequal sizes in one pass of a convolutional network, each with the result that it has alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from wsss_fast.nets.inference import Convolution

CELL = 16  # px; sides of a canvas are multiples of it, and so of the strides of all our classifiers


class PaddedBatch:
    """`net.maps` of images of unequal sizes, [3, h_i, w_i] each.

    The images lie in the upper left corners of one batch of canvases. A convolution sees zeros outside of a lone image; so
    what lies outside of the images is set to zero before every padded convolution and pooling, or taken as zero by
    `ops.amx_conv2d`. That is exact for networks of centred, zero-padded convolutions, of poolings over values >= 0, and of
    what acts on single pixels (batch-norm on stored statistics, ReLU, sums). It is not where a padded layer of torch's begins
    with a batch-norm, as in ResNet-38 optimize_for_inference for inference without a matrix unit. Whether it is for this network, is tried
    once on noise; if not, only images of one size share a pass.

    Args:
        net: has `maps(images [B, 3, H, W]) -> [B, C, h, w]`; in eval mode.
        device: of the network.
    """

    def __init__(self, net: nn.Module, device: torch.device | str = "cpu"):
        self.net, self.device = net, torch.device(device)
        self._padded = [module for module in net.modules() if _looks_around(module)]
        self._canvas: torch.Tensor | None = None
        self._sizes, self._inside, self._masks = [], {}, {}
        self.exact = self._tried()

    def together(
        self, sizes: Sequence[tuple[int, int]], limit: int, cell: int = 2 * CELL
    ) -> list[list[int]]:
        """Which images should share a pass: indices of at most `limit` whose canvas wastes little.

        Args:
            sizes: (h, w) of each image.
            limit: images a pass.
            cell: px; sizes that are equal when rounded up to multiples of it share a pass. Small cells waste less of a canvas,
                large ones make fewer shapes, each of which costs a convolution library a start.
        """
        if not self.exact:
            cell = 1
        found: dict[tuple[int, int], list[int]] = {}
        for i, (height, width) in enumerate(sizes):
            found.setdefault((-(-height // cell), -(-width // cell)), []).append(i)
        return [
            group[start : start + limit]
            for group in found.values()
            for start in range(0, len(group), limit)
        ]

    def __call__(self, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Batches [n_i, 3, h_i, w_i] -> their maps [n_i, C, ceil(h_i / stride), ceil(w_i / stride)], all in one pass."""
        sizes = [tuple(image.shape[-2:]) for image in images]
        if len(set(sizes)) == 1:
            maps = self.net.maps(
                torch.cat(list(images)).contiguous(memory_format=torch.channels_last)
            )
            return list(maps.split([len(image) for image in images]))
        height, width = (-(-max(side) // CELL) * CELL for side in zip(*sizes, strict=True))
        canvas = torch.empty(
            sum(map(len, images)),
            3,
            height,
            width,
            device=self.device,
            memory_format=torch.channels_last,
        ).zero_()
        start = 0
        for image, (h, w) in zip(images, sizes, strict=True):
            canvas[start : start + len(image), :, :h, :w] = image
            start += len(image)
        each = [size for size, image in zip(sizes, images, strict=True) for _ in range(len(image))]
        with self._zeros_outside(each, canvas):
            maps = self.net.maps(canvas)
        stride = height // maps.shape[2]
        parts = maps.split([len(image) for image in images])
        return [
            part[..., : -(-h // stride), : -(-w // stride)]
            for part, (h, w) in zip(parts, sizes, strict=True)
        ]

    @contextlib.contextmanager
    def _zeros_outside(self, sizes: list[tuple[int, int]], canvas: torch.Tensor) -> Iterator[None]:
        self._canvas, self._sizes, self._inside, self._masks = canvas, sizes, {}, {}
        handles = [
            m.register_forward_pre_hook(self._bound, with_kwargs=True)
            if isinstance(m, Convolution) and m.split
            else m.register_forward_pre_hook(self._clear)
            for m in self._padded
        ]
        try:
            yield
        finally:
            self._canvas = None
            for handle in handles:
                handle.remove()

    def _bound(self, module: Convolution, inputs: tuple, named: dict) -> tuple[tuple, dict]:
        return inputs, {**named, "inside": self._ends(inputs[0])}

    def _clear(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        # In place: where the same map also goes around the layer, its outside does not matter either.
        x = inputs[0]
        if x is self._canvas:
            return
        size = tuple(x.shape[-2:])
        if size not in self._masks:
            rows, columns = (
                torch.arange(n, device=x.device)[None] < end[:, None]
                for n, end in zip(size, self._ends(x).to(x.device).T, strict=True)
            )
            self._masks[size] = (rows[:, None, :, None] & columns[:, None, None, :]).to(x.dtype)
        x.mul_(self._masks[size].to(x.dtype))

    def _ends(self, x: torch.Tensor) -> torch.Tensor:
        """Height and width of each image in maps [B, C, h, w] of the canvas, int64 [B, 2]."""
        size = tuple(x.shape[-2:])
        if size not in self._inside:
            canvas = tuple(self._canvas.shape[-2:])
            if any(whole % part for whole, part in zip(canvas, size, strict=True)):
                raise RuntimeError(f"maps of {size} do not divide a canvas of {canvas}")
            down, across = (whole // part for whole, part in zip(canvas, size, strict=True))
            self._inside[size] = torch.tensor(
                [(-(-h // down), -(-w // across)) for h, w in self._sizes]
            )
        return self._inside[size]

    @torch.inference_mode()
    def _tried(self) -> bool:
        """Whether two images of noise have together the maps that each has alone."""
        generator = torch.Generator().manual_seed(0)
        images = [
            torch.randn(1, 3, *size, generator=generator).to(self.device)
            for size in ((37, 75), (46, 50))
        ]
        with torch.autocast(self.device.type, enabled=False):
            alone = [self.net.maps(image) for image in images]
            try:
                together = self(images)
            except (
                RuntimeError
            ):  # the sizes inside of this network are no whole parts of the canvas
                return False
        return all(
            a.shape == b.shape and bool((a - b).abs().max() <= 1e-4 * a.abs().max())
            for a, b in zip(alone, together, strict=True)
        )


def _looks_around(module: nn.Module) -> bool:
    """Whether the layer pads what it sees."""
    padding = getattr(module, "padding", 0)
    return isinstance(module, (nn.Conv2d, Convolution, nn.MaxPool2d)) and padding not in (
        0,
        (0, 0),
        "valid",
    )
