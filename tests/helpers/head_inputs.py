"""Heads of many shapes for the tests of label_conditioned_logits."""

import torch

# name: (B, C, h, w), K, k, dilations, scaled
CASES = {
    "amn": ((2, 5, 9, 11), 4, 3, (1, 2, 4), True),
    # Except for the centres, only a few taps stay on the map.
    "deeplab": ((1, 3, 8, 7), 21, 3, (6, 12, 18, 24), False),
    "plain_head": ((2, 4, 5, 5), 3, 1, (1,), False),
    "summed_plain_heads": ((2, 4, 5, 5), 3, 1, (1, 2), True),
    "equal_dilations": ((2, 3, 5, 6), 2, 3, (2, 2, 1), True),
    "one_class_one_pixel": ((1, 1, 1, 1), 1, 3, (2,), True),
    "coco": ((1, 2, 6, 4), 81, 3, (1, 6), True),
    "one_row": ((2, 2, 1, 9), 2, 3, (1, 3), True),
    "one_column": ((2, 2, 9, 1), 2, 3, (1, 3), False),
    "empty_batch": ((0, 3, 4, 4), 2, 3, (1,), True),
    "huge_dilation": ((1, 2, 4, 4), 2, 3, (1000,), True),
}
# Real sizes, several bands of rows; the labels of the second are processed in two parts.
LARGE = {
    "amn": ((2, 384, 32, 32), 21, 3, (6, 12, 18, 24), True),
    "coco": ((2, 1024, 20, 24), 81, 3, (1, 2, 6), True),
    "deeplab": ((2, 256, 41, 41), 21, 3, (6, 12, 18, 24), False),
    "plain_head": ((2, 512, 32, 32), 20, 1, (1,), True),
    "small": ((3, 72, 13, 15), 5, 3, (1, 6, 12), True),
}
ORDERS = [torch.contiguous_format, torch.channels_last]
# Of the largest value: about one rounding.
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}


def make(case, dtype=torch.float64, device="cpu", requires_grad=False):
    shape, num_labels, k, dilations, scaled = case
    generator = torch.Generator().manual_seed(0)
    sizes = [
        shape,
        shape[:2],
        (len(dilations), num_labels, shape[1], k, k),
        (len(dilations), num_labels),
    ]
    tensors = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    tensors = [t.to(device=device, dtype=dtype).requires_grad_(requires_grad) for t in tensors]
    if not scaled:
        tensors[1] = None
    return (*tensors, dilations)


def step(function, tensors, dilations, upstream):
    """The logits and the gradients of all given tensors, for an upstream gradient."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    out = function(*leaves, dilations)
    out.backward(upstream.to(out))
    return [out.detach(), *(t.grad for t in leaves if t is not None)]
