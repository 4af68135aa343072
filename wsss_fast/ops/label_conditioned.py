"""Label-conditioned logits and activation: the heads of AMN, DeepLabV2 and a CAM classifier."""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import reference
from ._arguments import (
    FLOATING,
    argument_error,
    check_device,
    is_dense,
    is_floating,
    is_integer,
)
from ._library import call, can_inspect_values, define
from .resized_activation import ACTIVATIONS, resized_activation

MAX_SIDE = 2**20
_TENSORS = "Tensor features, Tensor? scale, Tensor weight, Tensor bias, int[] dilations"


def _reference_backward(
    grad, features, scale, weight, bias, dilations, need_features, need_weight, tf32=False
):
    wide = _sum_dtype(features)
    scale = None if scale is None else scale.to(wide)
    grads = reference.label_conditioned_logits_backward(
        grad.to(wide), features.to(wide), scale, weight.to(wide), dilations
    )
    needed = need_features, need_weight, need_weight, True
    of_features, *others = (
        g.to(features.dtype) if needs else features.new_empty(0)
        for g, needs in zip(grads, needed, strict=True)
    )
    if need_features:
        of_features = of_features.contiguous(memory_format=_order(features))
    return of_features, *others


def _order(features: Tensor) -> torch.memory_format:
    """The order of the features in memory, which is that of their gradient."""
    last = torch.channels_last
    if features.is_contiguous() or not features.is_contiguous(memory_format=last):
        return torch.contiguous_format
    return last


def _sum_dtype(features: Tensor) -> torch.dtype:
    return torch.float32 if features.dtype.itemsize == 2 else features.dtype


def _fake(features, scale, weight, bias, dilations, tf32=False):
    return features.new_empty(features.shape[0], weight.shape[1], *features.shape[-2:])


def _fake_backward(
    grad, features, scale, weight, bias, dilations, need_features, need_weight, tf32=False
):
    needed = need_weight and scale is not None, need_weight, True
    sums = (
        t.new_empty(t.shape) if needs else features.new_empty(0)
        for t, needs in zip((scale, weight, bias), needed, strict=True)
    )
    if not need_features:
        return features.new_empty(0), *sums
    return torch.empty_like(features, memory_format=_order(features)), *sums


def _reference(features, scale, weight, bias, dilations, tf32=False):
    wide = _sum_dtype(features)
    scale = None if scale is None else scale.to(wide)
    out = reference.label_conditioned_logits(
        features.to(wide), scale, weight.to(wide), bias.to(wide), dilations
    )
    return out.to(features.dtype).contiguous()


# Gradients that are not needed are empty: the first, or the second and third.
_backward_op = define(
    f"label_conditioned_logits_backward(Tensor grad, {_TENSORS}, bool need_features, "
    "bool need_weight, bool tf32=False) -> (Tensor, Tensor, Tensor, Tensor)",
    reference=_reference_backward,
    fake=_fake_backward,
)


def _setup_context(ctx, inputs, output):
    *tensors, ctx.dilations, ctx.tf32 = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, grad):
    tensors = ctx.saved_tensors
    needs_features, needs_scale, needs_weight, *_ = ctx.needs_input_grad
    sums = needs_scale or needs_weight
    grads = call(
        _backward_op,
        grad.contiguous(),
        *tensors,
        ctx.dilations,
        needs_features,
        sums,
        ctx.tf32,
    )
    needed = zip(grads, ctx.needs_input_grad[:4], strict=True)
    return *(g if needs else None for g, needs in needed), None, None


# features [B, C, h, w], scale [B, C] or None, weight [R, K, C, k, k], bias [R, K]
# -> logits [B, K, h, w]
_op = define(
    f"label_conditioned_logits({_TENSORS}, bool tf32=False) -> Tensor",
    reference=_reference,
    fake=_fake,
    backward=_backward,
    once=False,  # the gradient is an op, which refuses
    setup_context=_setup_context,
)


def label_conditioned_logits(
    features: Tensor,
    scale: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    dilations: Sequence[int],
    *,
    classes: Tensor | None = None,
) -> Tensor:
    """Class scores from a sum of dilated convolutions of features scaled by the image's labels.

        logits[b, k] = sum_r (conv_{dilation r}(features[b] * scale[b], weight[r, k]) + bias[r, k])

    with zero padding, so that the size is kept. One branch with a 1x1 kernel is a plain head; four
    with 3x3 kernels are AMN's; without scale, DeepLabV2's.

    Computed as one matrix product of all distinct taps that stay on the map (AMN: 33 at 32x32, 17
    at 16x16) with the features, and shifted additions. Neither scaled features nor patches are
    stored: in addition to results the CPU holds up to 6 MiB of weights twice (backward: three
    times); CUDA holds a few copies of the weights, and groups images so that all else stays below
    half of the features, but at least one image with all its taps (backward, if the features need
    no gradient: a copy of the features). On both, features in channels-last order are read, and
    their gradient is written, in that order.

    Half precisions are summed in float32. On CUDA, float32 products use TF32 where torch's
    convolutions (`torch.backends.cudnn.conv.fp32_precision`) or its matrix products do; a compiled
    graph keeps the setting it was compiled with.

    Differentiable in features, scale, weight and bias, once. An infinite or NaN weight of a tap
    that nowhere meets the map has no effect; such features or weights may make gradients NaN in
    more places than in PyTorch.

    Args:
        features: [B, C, h, w] floating point, h and w >= 1.
        scale: [B, C], one factor for each channel, or None for 1.
        weight: [R, K, C, k, k], k = 1 or 3; of the features' dtype, or both follow autocast.
        bias: [R, K].
        dilations: R integers >= 1, in cells of the map.
        classes: int64 [P], the rows of K to compute (at inference, the present classes), or None
            for all.

    Returns:
        [B, K, h, w], or [B, P, h, w] with `classes`, of the features' dtype.

    Raises:
        ValueError: a wrong argument, with its name and value.

    Source: AMN (CVPR 2022), eq. 3-4; the head is DeepLabV2's (Chen et al. 2018).

    >>> features, weight = torch.ones(1, 2, 3, 3), torch.ones(1, 1, 2, 3, 3)
    >>> scale, bias = torch.tensor([[1.0, 2.0]]), torch.zeros(1, 1)
    >>> label_conditioned_logits(features, scale, weight, bias, [1])
    tensor([[[[12., 18., 12.],
              [18., 27., 18.],
              [12., 18., 12.]]]])
    """
    return _logits("label_conditioned_logits", features, scale, weight, bias, dilations, classes)


def label_conditioned_activation(
    features: Tensor,
    scale: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    dilations: Sequence[int],
    *,
    size: tuple[int, int] | None = None,
    classes: Tensor | None = None,
    activation: str = "softmax",
) -> Tensor:
    """`label_conditioned_logits`, resized bilinearly and activated: the form used at inference.

    In addition to the result only the small logits are in memory. Differentiable where
    `label_conditioned_logits` is.

    Args:
        features, scale, weight, bias, dilations, classes: as for `label_conditioned_logits`.
        size: (H, W) of the result, each in 1..2^20, bilinear with align_corners False; None keeps
            the map's size.
        activation: "softmax" over the computed classes, or "sigmoid".

    Returns:
        [B, K, H, W] in 0..1, of the features' dtype.

    Raises:
        ValueError: a wrong argument, with its name and value.
    """
    op = "label_conditioned_activation"
    if activation not in ACTIVATIONS:
        raise argument_error(op, "activation", activation, f"one of {ACTIVATIONS}")
    if size is not None and not (
        isinstance(size, Sequence)
        and len(size) == 2
        and all(is_integer(side) and 1 <= side <= MAX_SIDE for side in size)
    ):
        raise argument_error(op, "size", size, f"(H, W), both integers >= 1, at most {MAX_SIDE}")
    logits = _logits(op, features, scale, weight, bias, dilations, classes)
    height, width = logits.shape[2:] if size is None else size
    return resized_activation(logits, (height, width), activation)


def _logits(
    op: str,
    features: Tensor,
    scale: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    dilations: Sequence[int],
    classes: Tensor | None,
) -> Tensor:
    _check_tensors(op, features, scale, weight, bias)
    _check_dilations(op, dilations, weight.shape[0])
    _check_classes(op, classes, weight.shape[1])
    check_device(op, "features", features, scale=scale, weight=weight, bias=bias, classes=classes)
    autocast = _autocast(features)
    for name, tensor in (("scale", scale), ("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.dtype != features.dtype and not autocast:
            raise ValueError(
                f"{op}: features is {features.dtype} but {name} is {tensor.dtype}; they must agree"
            )
    if classes is not None:
        weight, bias = weight.index_select(1, classes), bias.index_select(1, classes)
    if autocast:
        dtype = torch.get_autocast_dtype(features.device.type)
        features, weight, bias = features.to(dtype), weight.to(dtype), bias.to(dtype)
        scale = None if scale is None else scale.to(dtype)
    tf32 = features.is_cuda and features.dtype == torch.float32 and _convolutions_use_tf32()
    return call(_op, features, scale, weight, bias, list(dilations), tf32)


def _convolutions_use_tf32() -> bool:
    """Whether float32 convolutions on a GPU may use TF32, unlike torch's matrix products.

    Products that torch computes follow its setting for them without being asked.
    """
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    precision = cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    allowed = cudnn.is_available() and cudnn.enabled and precision == "tf32"
    return allowed and products.fp32_precision != "tf32"


# What `torch.compiler.assume_constant_result` does, without importing torch._dynamo, which would
# nearly double the time to import this package.
_convolutions_use_tf32._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _autocast(features: Tensor) -> bool:
    """Whether autocast is on for the features' device; never on "meta", which has none."""
    kind = features.device.type
    # The dynamo of torch 2.10 and 2.11 cannot trace `is_autocast_available`.
    available = (
        kind != "meta" if torch.compiler.is_compiling() else torch.amp.is_autocast_available(kind)
    )
    return available and torch.is_autocast_enabled(kind)


def _check_tensors(
    op: str, features: Tensor, scale: Tensor | None, weight: Tensor, bias: Tensor
) -> None:
    if not is_floating(features, 4) or 0 in features.shape[2:]:
        raise argument_error(op, "features", features, f"{FLOATING} [B, C, h, w], h and w >= 1")
    if (
        not is_floating(weight, 5)
        or weight.shape[-1] != weight.shape[-2]
        or weight.shape[-1] not in (1, 3)
        or 0 in weight.shape
    ):
        wanted = f"{FLOATING} [R, K, C, k, k] with k = 1 or 3, R, K and C >= 1"
        raise argument_error(op, "weight", weight, wanted)
    if weight.shape[2] != features.shape[1]:
        raise ValueError(
            f"{op}: features is {list(features.shape)} but weight is {list(weight.shape)}; "
            "C must match"
        )
    if scale is not None:
        if not is_floating(scale):
            raise argument_error(op, "scale", scale, f"{FLOATING} [B, C] or None")
        if scale.shape != features.shape[:2]:
            raise ValueError(
                f"{op}: features is {list(features.shape)} but scale is {list(scale.shape)}; "
                "must be [B, C]"
            )
    if not is_floating(bias):
        raise argument_error(op, "bias", bias, f"{FLOATING} [R, K]")
    if bias.shape != weight.shape[:2]:
        raise ValueError(
            f"{op}: weight is {list(weight.shape)} but bias is {list(bias.shape)}; must be [R, K]"
        )


def _check_dilations(op: str, dilations: Sequence[int], branches: int) -> None:
    if (
        not isinstance(dilations, Sequence)
        or len(dilations) != branches
        or not all(is_integer(dilation) and dilation >= 1 for dilation in dilations)
    ):
        raise argument_error(op, "dilations", dilations, f"R={branches} integers >= 1")


def _check_classes(op: str, classes: Tensor | None, num_labels: int) -> None:
    if classes is None:
        return
    if (
        not is_dense(classes)
        or classes.dim() != 1
        or classes.dtype != torch.int64
        or len(classes) == 0
    ):
        raise argument_error(op, "classes", classes, "int64 [P], P >= 1")
    if can_inspect_values(classes):
        low, high = (int(v) for v in classes.aminmax())
        if low < 0 or high >= num_labels:
            raise ValueError(f"{op}: classes is in {low}..{high}; must be in 0..{num_labels - 1}")
