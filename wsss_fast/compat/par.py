"""PAR of AFA, ToCo, SeCo and WeCLIP, and the functions around it; only the import changes.

from wsss_fast.compat.par import PAR, refine_cams_with_bkg_v2
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from . import _local_refinement as local

__all__ = ["PAR", "refine_cams_with_bkg_v2", "refine_cams_with_cls_label"]

_Boxes = Sequence[Sequence[int]] | Tensor


class PAR(torch.nn.Module):
    """Pixel-adaptive refinement, with the public constructor and state dict.

    In contrast to the public module, images get no gradient: one that requires a gradient is an
    error.

    Args:
        dilations: distances of the neighbours in pixels.
        num_iter: number of iterations.
        resized: "masks" are resized to the image, or, as in WeCLIP, the "image" to the masks.

    >>> images, masks = torch.rand(1, 3, 8, 8), torch.rand(1, 2, 4, 4)
    >>> PAR([1, 2], num_iter=3)(images, masks).shape
    torch.Size([1, 2, 8, 8])
    """

    kernel: Tensor

    def __init__(self, dilations: Sequence[int], num_iter: int, *, resized: str = "masks"):
        super().__init__()
        if resized not in local.RESIZED:
            raise ValueError(f"PAR: resized is {resized!r}; must be one of {local.RESIZED}")
        self.dilations, self.num_iter, self.resized = dilations, num_iter, resized
        self.register_buffer("kernel", local.neighbour_kernel())

    def forward(self, imgs: Tensor, masks: Tensor) -> Tensor:
        """Refine masks [B, K, h, w] by images [B, C, H, W] of any range.

        Returns:
            [B, K, H, W], or [B, K, h, w] if the image is resized, of the dtype that results from
            the two; computed in float32.
        """
        return local.refine("par", imgs, masks, self.dilations, self.num_iter, self.resized)


@torch.no_grad()
def refine_cams_with_bkg_v2(
    ref_mod: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    cams: Tensor,
    cls_labels: Tensor,
    high_thre: float,
    low_thre: float,
    ignore_index: int,
    img_box: _Boxes,
    down_scale: int = 2,
) -> Tensor:
    """Labels of class activation maps that are refined at a smaller size (ToCo, SeCo).

    The background gets a constant score. With `high_thre` as that score, refined background is
    unknown; where it is background with `low_thre`, too, the label is 0.

    Args:
        ref_mod: called as ref_mod(images, maps). For a `PAR` of this module, both background scores
            are refined in one call.
        images: [B, C, H, W].
        cams: [B, classes, H, W] scores in 0..1.
        cls_labels: [B, classes], not 0 for the classes that are present.
        high_thre, low_thre: background scores.
        ignore_index: label of unknown pixels.
        img_box: for each image rows and columns (y0, y1, x0, x1) of what is not padding; the rest
            is unknown.
        down_scale: factor by which images and maps are reduced.

    Returns:
        [B, H, W] float32: 0, class + 1, or `ignore_index`.

    Raises:
        ValueError: images and cams of different sizes, or too small to be reduced.
    """
    size = images.shape[2:]
    reduced = [side // down_scale for side in size]
    if cams.shape[2:] != size or min(reduced) < 1:
        raise ValueError(
            f"refine_cams_with_bkg_v2: images is {list(images.shape)} but cams is "
            f"{list(cams.shape)}; H and W must match and be at least {down_scale}"
        )
    small_images = _resize(images, reduced)
    label = torch.full((len(images), *size), ignore_index, dtype=torch.float32, device=cams.device)
    for i, (rows, columns) in _boxes(img_box):
        present = cls_labels[i].nonzero()[:, 0]
        scores = _resize(cams[i : i + 1, present], reduced) if len(present) else None
        keys = torch.cat([present.new_zeros(1), present + 1])
        refined = _refined_scores(ref_mod, small_images[i : i + 1], scores, (high_thre, low_thre))
        # On the CPU, max finds the first of the largest ones eight times as fast as argmax.
        high, low = (
            keys[_resize(r, size)[0, :, rows, columns].max(0).indices].to(label.dtype)
            for r in refined
        )
        unknown = torch.where(low == 0, 0.0, float(ignore_index))
        label[i, rows, columns] = torch.where(high == 0, unknown, high)
    return label


def _refined_scores(
    ref_mod: Callable[[Tensor, Tensor], Tensor],
    image: Tensor,
    scores: Tensor | None,
    backgrounds: tuple[float, ...],
) -> list[Tensor]:
    """Refined softmax of one image's scores [1, K, h, w] with each of the background scores."""
    maps = []
    for value in backgrounds:
        background = image.new_full((1, 1, *image.shape[2:]), value, dtype=torch.float32)
        parts = [background] if scores is None else [background, scores]
        maps.append(torch.cat(parts, 1).softmax(1))
    if isinstance(ref_mod, PAR):  # refines each map on its own, with the same weights
        return list(ref_mod(image, torch.cat(maps, 1)).split([m.shape[1] for m in maps], 1))
    return [ref_mod(image, m) for m in maps]


def refine_cams_with_cls_label(
    ref_mod: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    labels: Tensor,
    cams: Tensor,
    img_box: _Boxes,
) -> Tensor:
    """Class activation maps refined at half the size within each image's box (AFA).

    Differentiable in cams if `ref_mod` is.

    Args:
        ref_mod: called as ref_mod(images, maps), such as a `PAR`.
        images: [B, C, H, W].
        labels: [B, K], not 0 for the maps that are refined.
        cams: [B, K, H, W].
        img_box: for each image rows and columns (y0, y1, x0, x1), at least 2 of each.

    Returns:
        [B, K, H, W]: 0 outside of the boxes, and for other maps.

    Raises:
        ValueError: a box that is smaller.
    """
    refined = torch.zeros_like(cams)
    for i, (rows, columns) in _boxes(img_box):
        image = images[i : i + 1, :, rows, columns]
        size = image.shape[2:]
        if min(size) < 2:
            raise ValueError(
                f"refine_cams_with_cls_label: box {i} has {size[0]} rows and {size[1]} columns; "
                "must have at least 2 of each"
            )
        present = labels[i].nonzero()[:, 0]
        if not len(present):
            continue
        found = ref_mod(
            _resize(image, [side // 2 for side in size]), cams[i : i + 1, present, rows, columns]
        )
        refined[i, present, rows, columns] = _resize(found, size)[0]
    return refined


def _boxes(img_box: _Boxes) -> Iterator[tuple[int, tuple[slice, slice]]]:
    for i, box in enumerate(img_box):
        y0, y1, x0, x1 = (int(v) for v in box)
        yield i, (slice(y0, y1), slice(x0, x1))


def _resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    return torch.nn.functional.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)
