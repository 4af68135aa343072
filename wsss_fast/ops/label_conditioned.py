"""Label-conditioned logits and activation: the heads of AMN, DeepLabV2 and a CAM classifier in one op."""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import reference
from ._library import define
from .resized_activation import ACTIVATIONS, resized_activation

_TENSORS = "Tensor features, Tensor? scale, Tensor weight, Tensor bias, int[] dilations"


def _reference_backward(grad, features, scale, weight, bias, dilations, need_features, need_weight):
    grads = reference.label_conditioned_logits_backward(grad, features, scale, weight, dilations)
    needed = need_features, need_weight, need_weight, True
    return tuple(g if needs else g.new_empty(0) for g, needs in zip(grads, needed, strict=True))


def _fake(features, scale, weight, bias, dilations):
    return features.new_empty(features.shape[0], weight.shape[1], *features.shape[-2:])


def _fake_backward(grad, features, scale, weight, bias, dilations, need_features, need_weight):
    needed = need_features, need_weight and scale is not None, need_weight, True
    return tuple(
        t.new_empty(t.shape) if needs else features.new_empty(0)
        for t, needs in zip((features, scale, weight, bias), needed, strict=True)
    )


def _reference(features, scale, weight, bias, dilations):
    return reference.label_conditioned_logits(features, scale, weight, bias, dilations).contiguous()


# Of the four gradients the first, and the second and third, are empty when they are not needed.
_backward_op = define(
    f"label_conditioned_logits_backward(Tensor grad, {_TENSORS}, bool need_features, bool need_weight) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    reference=_reference_backward,
    fake=_fake_backward,
)


def _setup_context(ctx, inputs, output):
    *tensors, ctx.dilations = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, grad):
    tensors = ctx.saved_tensors
    needs_features, needs_scale, needs_weight, *_ = ctx.needs_input_grad
    grads = _backward_op(
        grad.contiguous(), *tensors, ctx.dilations, needs_features, needs_scale or needs_weight
    )
    return *(
        g if needs else None for g, needs in zip(grads, ctx.needs_input_grad[:4], strict=True)
    ), None


# features [B, C, h, w], scale [B, C] or None, weight [R, K, C, k, k], bias [R, K] -> logits [B, K, h, w]
_op = define(
    f"label_conditioned_logits({_TENSORS}) -> Tensor",
    reference=_reference,
    fake=_fake,
    backward=_backward,
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
    """Class scores of features whose channels are scaled by the image's labels, through a sum of dilated convolutions.

    logits[b, k] = sum_r ( conv_{dilation r}(features[b] * scale[b], weight[r, k]) + bias[r, k] ), zero padding, so that
    the size is kept. One branch with k = 1 is a plain head; four with k = 3 are AMN's; without scale, DeepLabV2's.

    Computed as one matrix product of all distinct taps that stay on the map (AMN: 33 at 32x32, 17 at 16x16) with the
    features, and shifted additions. Neither scaled features nor patches are made: beside results the CPU holds up to
    6 MiB of weights twice (backward: three times); CUDA groups images so as to stay below a quarter of the features,
    but takes at least one image with all its taps. Half precisions are summed in float32.

    Args:
        features: [B, C, h, w] floating.
        scale: [B, C], one factor a channel, or None for 1.
        weight: [R, K, C, k, k], k = 1 or 3; its dtype is the features', or both follow autocast.
        bias: [R, K].
        dilations: R numbers >= 1, in cells of the map.
        classes: int64 [P], rows of K to compute (the present ones, at inference), or None for all.

    Returns:
        [B, K, h, w], or [B, P, h, w] with `classes`, of the features' dtype.

    Differentiable in features, scale, weight and bias, once.
    Raises ValueError, naming the argument and what it got.
    Source: AMN (CVPR 2022), eq. 3-4; the head is DeepLabV2's (Chen et al. 2018).

    >>> features, weight = torch.ones(1, 2, 3, 3), torch.ones(1, 1, 2, 3, 3)
    >>> label_conditioned_logits(features, torch.tensor([[1.0, 2.0]]), weight, torch.zeros(1, 1), [1])
    tensor([[[[12., 18., 12.],
              [18., 27., 18.],
              [12., 18., 12.]]]])
    """
    _check(features, scale, weight, bias, dilations, classes)
    if classes is not None:
        weight, bias = weight.index_select(1, classes), bias.index_select(1, classes)
    if _autocast(features):
        dtype = torch.get_autocast_dtype(features.device.type)
        features, weight, bias = features.to(dtype), weight.to(dtype), bias.to(dtype)
        scale = None if scale is None else scale.to(dtype)
    return _op(features, scale, weight, bias, list(dilations))


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

    ExtraLoss the result only the small logits are in memory.

    Args:
        features, scale, weight, bias, dilations, classes: as for `label_conditioned_logits`.
        size: (H, W) of the result, bilinear with align_corners False; None keeps the map's size.
        activation: "softmax" over the computed classes, or "sigmoid".

    Returns:
        [B, K, H, W] in 0..1, of the features' dtype.

    Differentiable where `label_conditioned_logits` is. Raises ValueError, naming the argument and what it got.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"label_conditioned_activation: activation is {activation!r}; must be one of {ACTIVATIONS}"
        )
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"label_conditioned_activation: size is {size}; must be (H, W), both >= 1")
    logits = label_conditioned_logits(features, scale, weight, bias, dilations, classes=classes)
    return resized_activation(logits, logits.shape[2:] if size is None else size, activation)


def _autocast(features: Tensor) -> bool:
    """Whether autocast is on for the features' device; never for one that has none, as "meta"."""
    kind = features.device.type
    # The dynamo of torch 2.10 and 2.11 cannot trace `is_autocast_available`.
    available = (
        kind != "meta" if torch.compiler.is_compiling() else torch.amp.is_autocast_available(kind)
    )
    return available and torch.is_autocast_enabled(kind)


def _check(features, scale, weight, bias, dilations, classes) -> None:
    op = "label_conditioned_logits"
    if features.dim() != 4 or not features.is_floating_point():
        raise ValueError(
            f"{op}: features is {features.dtype} {list(features.shape)}; must be floating [B, C, h, w]"
        )
    if (
        weight.dim() != 5
        or weight.shape[-1] != weight.shape[-2]
        or weight.shape[-1] not in (1, 3)
        or 0 in weight.shape
    ):
        raise ValueError(
            f"{op}: weight is {list(weight.shape)}; must be [R, K, C, k, k] with k = 1 or 3, none empty"
        )
    if weight.shape[2] != features.shape[1]:
        raise ValueError(
            f"{op}: features is {list(features.shape)} but weight is {list(weight.shape)}; C must match"
        )
    if scale is not None and scale.shape != features.shape[:2]:
        raise ValueError(
            f"{op}: features is {list(features.shape)} but scale is {list(scale.shape)}; must be [B, C]"
        )
    if bias.shape != weight.shape[:2]:
        raise ValueError(
            f"{op}: weight is {list(weight.shape)} but bias is {list(bias.shape)}; must be [R, K]"
        )
    if len(dilations) != weight.shape[0] or any(d < 1 for d in dilations):
        raise ValueError(
            f"{op}: dilations is {list(dilations)}; must be R={weight.shape[0]} numbers >= 1"
        )
    for name, tensor in (
        ("scale", scale),
        ("weight", weight),
        ("bias", bias),
        ("classes", classes),
    ):
        if tensor is not None and tensor.device != features.device:
            raise ValueError(
                f"{op}: features is on {features.device} but {name} is on {tensor.device}"
            )
    autocast = _autocast(features)
    for name, tensor in (("scale", scale), ("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.dtype != features.dtype and not autocast:
            raise ValueError(
                f"{op}: features is {features.dtype} but {name} is {tensor.dtype}; they must agree"
            )
    if classes is None:
        return
    if classes.dim() != 1 or classes.dtype != torch.int64 or len(classes) == 0:
        raise ValueError(
            f"{op}: classes is {classes.dtype} {list(classes.shape)}; must be int64 [P], P >= 1"
        )
    # On other devices a look at the values would wait for the device.
    if classes.device.type == "cpu" and not torch.compiler.is_compiling():
        low, high = (int(v) for v in classes.aminmax())
        if low < 0 or high >= weight.shape[1]:
            raise ValueError(
                f"{op}: classes is in {low}..{high}; must be in 0..{weight.shape[1] - 1}"
            )
