"""Images of unequal sizes in one pass of a convolutional network, each with the result that it has alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from wsss_fast.nets.inference import Convolution

CELL = 16  # px; sides of a canvas are multiples of it, and so of the strides of all our classifiers


class UnequalMaps:
    """`net.maps` of images of unequal sizes, [3, h_i, w_i] each.

    The images lie in the upper left corners of one batch of canvases. A convolution sees zeros outside of a lone image; so
    what lies outside of the images is set to zero before every padded convolution and pooling. That is exact for networks of
    centred, zero-padded convolutions, of poolings over values >= 0, and of what acts on single pixels (batch-norm on stored
    statistics, ReLU, sums). It is not where a padded layer begins with a batch-norm, as in ResNet-38 prepared for inference.
    Whether it is for this network, is tried once on noise; if not, only images of one size share a pass.

    Args:
        net: has `maps(images [B, 3, H, W]) -> [B, C, h, w]`; in eval mode.
        device: of the network.
    """

    def __init__(self, net: nn.Module, device: torch.device | str = "cpu"):
        self.net, self.device = net, torch.device(device)
        self._sizes: list[tuple[int, int]] | None = None
        self._canvas, self._inside = (0, 0), {}
        self.exact = self._tried()

    def together(self, sizes: Sequence[tuple[int, int]], limit: int, cell: int = 2 * CELL) -> list[list[int]]:
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
        return [group[start:start + limit] for group in found.values() for start in range(0, len(group), limit)]

    def __call__(self, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Batches [n_i, 3, h_i, w_i] -> their maps [n_i, C, ceil(h_i / stride), ceil(w_i / stride)], all in one pass."""
        sizes = [tuple(image.shape[-2:]) for image in images]
        if len(set(sizes)) == 1:
            maps = self.net.maps(torch.cat(list(images)).contiguous(memory_format=torch.channels_last))
            return list(maps.split([len(image) for image in images]))
        height, width = (-(-max(side) // CELL) * CELL for side in zip(*sizes, strict=True))
        canvas = torch.zeros(sum(map(len, images)), 3, height, width, device=self.device)
        canvas = canvas.contiguous(memory_format=torch.channels_last)
        start = 0
        for image, (h, w) in zip(images, sizes, strict=True):
            canvas[start:start + len(image), :, :h, :w] = image
            start += len(image)
        each = [size for size, image in zip(sizes, images, strict=True) for _ in range(len(image))]
        with self._zeros_outside(each, (height, width)):
            maps = self.net.maps(canvas)
        stride = height // maps.shape[2]
        parts = maps.split([len(image) for image in images])
        return [part[..., :-(-h // stride), :-(-w // stride)] for part, (h, w) in zip(parts, sizes, strict=True)]

    @contextlib.contextmanager
    def _zeros_outside(self, sizes: list[tuple[int, int]], canvas: tuple[int, int]) -> Iterator[None]:
        self._sizes, self._canvas, self._inside = sizes, canvas, {}
        handles = [m.register_forward_pre_hook(self._clear) for m in self.net.modules() if _looks_around(m)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _clear(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        # In place: where the same map also goes around the layer, its outside does not matter either.
        x = inputs[0]
        size = tuple(x.shape[-2:])
        if size not in self._inside:
            if any(whole % part for whole, part in zip(self._canvas, size, strict=True)):
                raise RuntimeError(f"maps of {size} do not divide a canvas of {self._canvas}")
            ends = [torch.tensor([-(-s[axis] // (self._canvas[axis] // size[axis])) for s in self._sizes], device=x.device)
                    for axis in (0, 1)]
            rows, columns = (torch.arange(n, device=x.device)[None] < end[:, None] for n, end in zip(size, ends, strict=True))
            self._inside[size] = (rows[:, None, :, None] & columns[:, None, None, :]).to(x.dtype)
        x.mul_(self._inside[size].to(x.dtype))

    @torch.inference_mode()
    def _tried(self) -> bool:
        """Whether two images of noise have together the maps that each has alone."""
        generator = torch.Generator().manual_seed(0)
        images = [torch.randn(1, 3, *size, generator=generator).to(self.device) for size in ((37, 75), (46, 50))]
        with torch.autocast(self.device.type, enabled=False):
            alone = [self.net.maps(image) for image in images]
            try:
                together = self(images)
            except RuntimeError:  # the sizes inside of this network are no whole parts of the canvas
                return False
        return all(a.shape == b.shape and bool((a - b).abs().max() <= 1e-4 * a.abs().max())
                   for a, b in zip(alone, together, strict=True))


def _looks_around(module: nn.Module) -> bool:
    """Whether the layer pads what it sees."""
    padding = getattr(module, "padding", 0)
    return isinstance(module, (nn.Conv2d, Convolution, nn.MaxPool2d)) and padding not in (0, (0, 0), "valid")
