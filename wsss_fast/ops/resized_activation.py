"""Logits resized bilinearly, then softmax or sigmoid, with no other array of the result's size."""

import torch
from torch import Tensor

from . import reference
from ._library import call, define

ACTIVATIONS = ("softmax", "sigmoid")


def _reference(logits, size, softmax):
    return reference.resized_activation(logits, tuple(size), ACTIVATIONS[not softmax]).contiguous()


def _fake(logits, size, softmax):
    return logits.new_empty(*logits.shape[:2], *size)


def _reference_backward(grad, result, size, softmax):
    of_activation = grad - (grad * result).sum(1, keepdim=True) if softmax else grad * (1 - result)
    shape = *result.shape[:2], *size
    return torch.ops.aten.upsample_bilinear2d_backward(
        of_activation * result, result.shape[2:], shape, False
    ).contiguous()


def _fake_backward(grad, result, size, softmax):
    return result.new_empty(*result.shape[:2], *size)


# The op is for inference, so its gradient on the CPU is left to PyTorch. CUDA has a kernel, since
# torch's own upsample_bilinear2d_backward adds with float atomics: two runs would differ.
_backward_op = define(
    "resized_activation_backward(Tensor grad, Tensor result, int[] size, bool softmax) -> Tensor",
    reference=_reference_backward,
    fake=_fake_backward,
)


def _setup_context(ctx, inputs, output):
    logits, _, ctx.softmax = inputs
    ctx.size = list(logits.shape[2:])
    ctx.save_for_backward(output)


def _backward(ctx, grad):
    return call(_backward_op, grad, *ctx.saved_tensors, ctx.size, ctx.softmax), None, None


# logits [B, K, h, w] -> [B, K, H, W]
_op = define(
    "resized_activation(Tensor logits, int[] size, bool softmax) -> Tensor",
    reference=_reference,
    fake=_fake,
    backward=_backward,
    once=False,  # the gradient is an op, which refuses
    setup_context=_setup_context,
)


def resized_activation(logits: Tensor, size: tuple[int, int], activation: str) -> Tensor:
    """Softmax over K, or sigmoid, of logits resized bilinearly with align_corners False.

    Differentiable, once. The caller checks the arguments.

    Args:
        logits: [B, K, h, w] floating point.
        size: (H, W) of the result.
        activation: one of `ACTIVATIONS`.

    Returns:
        [B, K, H, W] of the logits' dtype.
    """
    return call(_op, logits, list(size), activation == "softmax")
