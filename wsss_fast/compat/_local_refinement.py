"""What the modules PAR and PAMR share: dtypes, sizes, and the buffers of their checkpoints."""

from collections.abc import Sequence

import torch
from torch import Tensor

from wsss_fast import ops

RESIZED = ("masks", "image")


def refine(
    kind: str,
    image: Tensor,
    masks: Tensor,
    dilations: Sequence[int],
    iterations: int,
    resized: str = "masks",
) -> Tensor:
    """`ops.pixel_adaptive_refine` with the dtype that the public modules return.

    Args:
        resized: which of the two is resized to the size of the other one.
    """
    if resized == "image":
        image = torch.nn.functional.interpolate(
            image.to(torch.float32), masks.shape[2:], mode="bilinear", align_corners=True
        )
    out = ops.pixel_adaptive_refine(
        image, masks, dilations=dilations, iterations=iterations, kind=kind
    )
    if iterations == 0 or not image.is_floating_point():
        return out.to(masks.dtype)
    return out.to(torch.promote_types(image.dtype, masks.dtype))


def neighbour_kernel() -> Tensor:
    """[8, 1, 3, 3]: filters that select each neighbour, row by row without the centre.

    The public modules filter with them, so that their checkpoints have them; here they are only
    kept so that such checkpoints can be loaded and written.
    """
    return torch.eye(9).view(9, 1, 3, 3)[[0, 1, 2, 3, 5, 6, 7, 8]]
