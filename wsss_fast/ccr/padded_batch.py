"""Images of unequal sizes in one forward pass, with the results that each would have alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from wsss_fast import nets
from wsss_fast.nets.inference import Convolution

# Sides of a canvas are multiples of this number of pixels, and so of all classifiers' strides.
CELL = 16

Size = tuple[int, int]


class PaddedBatch:
    """`net.maps` of images of unequal sizes, [3, h_i, w_i] each.

    The images lie in the upper left corners of one batch of canvases. A convolution of a single
    image sees zeros outside of it, so what lies outside of the images is set to zero before every
    padded convolution and pooling, or is treated as zero by `ops.amx_conv2d`.

    The result is exact for networks of centred, zero-padded convolutions, of poolings over values
    >= 0, and of operations on single pixels (batch-norm with stored statistics, ReLU, sums). It is
    not if a padded layer of torch begins with a batch-norm, as in ResNet-38 after
    `nets.optimize_for_inference` without a matrix unit. Whether it is exact for this network is
    tested once on noise; if not, only images of one size share a pass.

    Args:
        net: classifier with `maps(images [B, 3, H, W]) -> [B, C, h, w]`, in eval mode.
        device: device of the network.

    Attributes:
        exact: whether images of unequal sizes can share a pass.
    """

    def __init__(self, net: nets.CamNet, device: torch.device | str = "cpu"):
        self.net, self.device = net, torch.device(device)
        self._padded = [module for module in net.modules() if _is_padded(module)]
        # State of a forward pass: the canvas, sizes of the images in it, and by the size of the
        # network's maps, sizes of the images in them and masks of the images.
        self._canvas: torch.Tensor | None = None
        self._sizes: list[Size] = []
        self._inside: dict[Size, torch.Tensor] = {}
        self._masks: dict[Size, torch.Tensor] = {}
        self.exact = self._is_exact()

    def group(self, sizes: Sequence[Size], limit: int, cell: int = 2 * CELL) -> list[list[int]]:
        """Group images that should share a pass, since a common canvas wastes little.

        Args:
            sizes: size (h, w) of each image.
            limit: largest number of images per pass.
            cell: size multiple in pixels: images share a pass if their sizes are equal when rounded
                up to multiples of it. A small value wastes less of a canvas; a large one gives
                fewer shapes, each of which a convolution library has to prepare for.

        Returns:
            Indices of the images of each group.
        """
        if not self.exact:
            cell = 1
        groups: dict[Size, list[int]] = {}
        for i, (height, width) in enumerate(sizes):
            groups.setdefault((-(-height // cell), -(-width // cell)), []).append(i)
        return [
            group[start : start + limit]
            for group in groups.values()
            for start in range(0, len(group), limit)
        ]

    def __call__(self, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Class activation maps, all in one pass.

        Args:
            images: batches [n_i, 3, h_i, w_i].

        Returns:
            Maps of each batch, [n_i, C, ceil(h_i / stride), ceil(w_i / stride)].
        """
        sizes = [_size(image) for image in images]
        counts = [len(image) for image in images]
        if len(set(sizes)) == 1:
            batch = torch.cat(list(images)).contiguous(memory_format=torch.channels_last)
            return list(self.net.maps(batch).split(counts))
        height, width = (-(-max(side) // CELL) * CELL for side in zip(*sizes, strict=True))
        canvas = torch.empty(
            sum(counts), 3, height, width, device=self.device, memory_format=torch.channels_last
        ).zero_()
        start = 0
        for image, (h, w) in zip(images, sizes, strict=True):
            canvas[start : start + len(image), :, :h, :w] = image
            start += len(image)
        each = [size for size, n in zip(sizes, counts, strict=True) for _ in range(n)]
        with self._hooks(each, canvas):
            maps = self.net.maps(canvas)
        stride = height // maps.shape[2]
        return [
            part[..., : -(-h // stride), : -(-w // stride)]
            for part, (h, w) in zip(maps.split(counts), sizes, strict=True)
        ]

    @contextlib.contextmanager
    def _hooks(self, sizes: list[Size], canvas: torch.Tensor) -> Iterator[None]:
        """Hooks of the padded layers during a pass."""
        self._canvas, self._sizes, self._inside, self._masks = canvas, sizes, {}, {}
        handles = [
            module.register_forward_pre_hook(self._pass_inside, with_kwargs=True)
            if isinstance(module, Convolution) and module.amx
            else module.register_forward_pre_hook(self._zero_outside)
            for module in self._padded
        ]
        try:
            yield
        finally:
            self._canvas = None
            for handle in handles:
                handle.remove()

    def _pass_inside(
        self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return inputs, {**named, "inside": self._sizes_inside(inputs[0])}

    def _zero_outside(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        # In place. A shortcut around the layer uses the same map, of which only the inside matters.
        x = inputs[0]
        if x is self._canvas:
            return
        size = _size(x)
        if size not in self._masks:
            rows, columns = (
                torch.arange(n, device=x.device)[None] < end[:, None]
                for n, end in zip(size, self._sizes_inside(x).to(x.device).T, strict=True)
            )
            self._masks[size] = (rows[:, None, :, None] & columns[:, None, None, :]).to(x.dtype)
        x.mul_(self._masks[size].to(x.dtype))

    def _sizes_inside(self, x: torch.Tensor) -> torch.Tensor:
        """Height and width of each image in maps [B, C, h, w] of the canvas, int64 [B, 2]."""
        size = _size(x)
        if size not in self._inside:
            assert self._canvas is not None  # during a pass
            canvas = _size(self._canvas)
            if any(whole % part for whole, part in zip(canvas, size, strict=True)):
                raise RuntimeError(f"maps of {size} do not divide a canvas of {canvas}")
            down, across = (whole // part for whole, part in zip(canvas, size, strict=True))
            self._inside[size] = torch.tensor(
                [(-(-h // down), -(-w // across)) for h, w in self._sizes]
            )
        return self._inside[size]

    @torch.inference_mode()
    def _is_exact(self) -> bool:
        """Whether two images of noise have the same maps together as each alone."""
        generator = torch.Generator().manual_seed(0)
        images = [
            torch.randn(1, 3, *size, generator=generator).to(self.device)
            for size in ((37, 75), (46, 50))
        ]
        with torch.autocast(self.device.type, enabled=False):
            alone = [self.net.maps(image) for image in images]
            try:
                together = self(images)
            except RuntimeError:  # sizes of maps inside of this network do not divide the canvas
                return False
        return all(
            a.shape == b.shape and bool((a - b).abs().max() <= 1e-4 * a.abs().max())
            for a, b in zip(alone, together, strict=True)
        )


def _size(images: torch.Tensor) -> Size:
    return images.shape[-2], images.shape[-1]


def _is_padded(module: nn.Module) -> bool:
    """Whether the layer pads its input."""
    padding = getattr(module, "padding", 0)
    spatial = isinstance(module, (nn.Conv2d, Convolution, nn.MaxPool2d))
    return spatial and padding not in (0, (0, 0), "valid")
