"""Networks for inference: batch-norms folded into convolutions, ReLUs and sums fused with them."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from wsss_fast.engine.runtime import Runtime
from wsss_fast.nets.resnet import Bottleneck, ResNet
from wsss_fast.nets.small import SmallBlock, SmallResNet
from wsss_fast.nets.wide_resnet38 import Unit, WideResNet38
from wsss_fast.ops.amx_conv2d import (
    BLOCK,
    amx_conv2d,
    is_profitable,
    is_supported,
    pack,
)

Net = TypeVar("Net", bound=nn.Module)


def optimize_for_inference(net: Net, where: Runtime, *, amx: bool = False) -> Net:
    """Convert a network for inference on the runtime's device: the same outputs, less time, memory.

    Modifies `net` in place; it can no longer be trained or saved as weights. Batch-norms on stored
    statistics are folded into the convolution before them; those at the start of a pre-activated
    unit become one multiply-add with their ReLU. With torch's convolutions, in channels_last, maps
    agree to 2e-6 of the largest value (measured).

    Args:
        net: a network of this package, with its weights.
        where: device and dtype; with bfloat16, autocast chooses the convolutions' dtype.
        amx: in float32, on a CPU with AMX tiles, use `ops.amx_conv2d` where it is faster. Logits
            then differ by 3e-5 of the largest value; EPS' maps by 9e-6 with random weights, a CAM
            classifier's by 2e-5 to 4e-5, which is why only EPS and CCR use it.

    Returns:
        `net`.
    """
    net = net.to(where.device).eval().requires_grad_(False)
    amx = amx and where.device.type == "cpu" and where.dtype == torch.float32 and is_profitable()
    _convert_children(net, amx)
    return net


def _convert_children(module: nn.Module, amx: bool) -> None:
    if isinstance(module, nn.Sequential):
        _fuse_sequence(module, amx)
    for name, child in list(module.named_children()):
        converted = _converted(child, amx)
        if converted is not None:
            setattr(module, name, converted)
        else:
            _convert_ends(child, amx)
            _convert_children(child, amx)


def _fuse_sequence(sequence: nn.Sequential, amx: bool) -> None:
    """Fuse every convolution of a sequence with the batch-norm and the ReLU right behind it."""
    modules = list(sequence.named_children())
    for i, (name, conv) in enumerate(modules):
        if not isinstance(conv, nn.Conv2d):
            continue
        behind = modules[i + 1 : i + 3]
        norm = behind[0][1] if behind else None
        after = norm if isinstance(norm, nn.BatchNorm2d) else None
        behind = behind[1:] if after is not None else behind
        relu = bool(behind) and isinstance(behind[0][1], nn.ReLU)
        setattr(sequence, name, Convolution(conv, after=after, relu=relu, amx=amx))
        for used, _ in modules[i + 1 : i + 1 + (after is not None) + relu]:
            setattr(sequence, used, nn.Identity())


def _converted(child: nn.Module, amx: bool) -> nn.Module | None:
    """The replacement of a module as a whole, or None."""
    if isinstance(child, (Bottleneck, SmallBlock)):
        return _PostActivated(child, amx)
    if isinstance(child, Unit):
        return _PreActivated(child, amx)
    if isinstance(child, nn.Conv2d):
        return Convolution(child, amx=amx)
    return None


def _convert_ends(backbone: nn.Module, amx: bool) -> None:
    """Convert the batch-norms at the ends of a backbone, outside of its blocks."""
    # By name: the attributes change their type.
    if isinstance(backbone, (ResNet, SmallResNet)):
        first = Convolution(backbone.conv1, after=backbone.bn1, relu=True, amx=amx)
        replaced = {"conv1": first, "bn1": nn.Identity(), "relu": nn.Identity()}
    elif isinstance(backbone, WideResNet38):
        # The last unit's sum is only used by the last batch-norm, so that both of its terms can be
        # normalised before they are added.
        unit = backbone.stage7[-1]
        assert isinstance(unit, Unit)
        backbone.stage7[-1] = _PreActivated(unit, amx, last=backbone.bn)
        replaced = {"bn": nn.Identity(), "relu": nn.Identity()}
    else:
        return
    for name, module in replaced.items():
        setattr(backbone, name, module)


def _affine(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Batch-norm on stored statistics as a factor and a summand for each channel, float64 [C]."""
    if norm.running_var is None or norm.running_mean is None:
        raise ValueError("a batch-norm without stored statistics cannot be folded")
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def _is_amx_profitable(weight: torch.Tensor, normalised: bool) -> bool:
    """Whether a weight [K, C, k, k] has enough products for the AMX convolution to be faster.

    It processes channels and filters in blocks of 32: for three channels, or a few classes, it
    would mostly multiply zeros. And the cost of splitting each number of a map must be outweighed
    by the products that use it (measured: 51 products are not enough, 85 are). Where the map is
    normalised first, torch has to write it once more as well.
    """
    filters, channels = weight.shape[:2]
    return min(filters, channels) >= BLOCK and (
        normalised or weight.numel() >= 80 * (filters + channels)
    )


class Convolution(nn.Module):
    """relu(after(conv(relu(before(x)))) + residual); norms, ReLUs and residual where given.

    Args:
        conv: the convolution; not kept.
        before: batch-norm whose ReLU is the convolution's input.
        after: batch-norm of the result.
        shifted: add the shift of `after`; False where another term of a sum adds it.
        relu: apply a ReLU to the result.
        amx: use `ops.amx_conv2d` where it is supported and faster.

    Attributes:
        amx: whether `ops.amx_conv2d` is used.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    scale: torch.Tensor | None
    shift: torch.Tensor | None

    def __init__(
        self,
        conv: nn.Conv2d,
        *,
        before: nn.BatchNorm2d | None = None,
        after: nn.BatchNorm2d | None = None,
        shifted: bool = True,
        relu: bool = False,
        amx: bool = False,
    ):
        super().__init__()
        dtype, weight = conv.weight.dtype, conv.weight.detach().double()
        bias = None if conv.bias is None else conv.bias.detach().double()
        if after is not None:
            scale, shift = _affine(after)
            weight = weight * scale[:, None, None, None]
            added = shift if shifted else torch.zeros_like(shift)
            bias = added if bias is None else bias * scale + added
        self.relu, self.stride, self.dilation = relu, conv.stride, conv.dilation
        # As numbers: nn.Conv2d also knows paddings by name, which no network here has.
        self.padding = tuple(int(side) for side in conv.padding)
        self.groups = conv.groups
        same = (conv.kernel_size[0] // 2 * conv.dilation[0],) * 2 == self.padding
        self.amx = (
            amx
            and is_supported(weight)
            and _is_amx_profitable(weight, before is not None)
            and conv.groups == 1
            and same
            and conv.padding_mode == "zeros"
            and len({*conv.stride}) == len({*conv.dilation}) == 1
        )
        # Three parts: two are faster by less than a tenth, and move CCR's maps up to three times as
        # far from float32's.
        packed = (
            pack(weight, parts=3)
            if self.amx
            else weight.to(dtype).contiguous(memory_format=torch.channels_last)
        )
        self.filters = len(weight)
        self.register_buffer("weight", packed)
        self.register_buffer("bias", None if bias is None else bias.to(dtype))
        affine = (None, None) if before is None else (v.to(dtype) for v in _affine(before))
        for name, value in zip(("scale", "shift"), affine, strict=True):
            self.register_buffer(name, value)

    def forward(
        self,
        x: torch.Tensor,
        residual: torch.Tensor | None = None,
        inside: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """x [B, C, H, W], residual [B, K, H', W'] or None -> [B, K, H', W'].

        Neither input is changed. `inside` is that of `ops.amx_conv2d`, only allowed with `amx`.
        """
        if self.amx:
            return amx_conv2d(
                x,
                self.weight,
                self.filters,
                scale=self.scale,
                shift=self.shift,
                bias=self.bias,
                residual=residual,
                inside=inside,
                stride=self.stride[0],
                dilation=self.dilation[0],
                relu=self.relu,
            )
        if self.scale is not None and self.shift is not None:
            x = torch.addcmul(self.shift[:, None, None], x, self.scale[:, None, None]).relu_()
        out = F.conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )
        out = out if residual is None else out.add_(residual)
        return out.relu_() if self.relu else out


class _PostActivated(nn.Module):
    """A block whose convolutions are followed by batch-norms; its last ReLU comes after the sum."""

    def __init__(self, block: Bottleneck | SmallBlock, amx: bool):
        super().__init__()
        count = sum(name.startswith("conv") for name, _ in block.named_children())
        self.convolutions = nn.ModuleList(
            Convolution(
                getattr(block, f"conv{i}"), after=getattr(block, f"bn{i}"), relu=True, amx=amx
            )
            for i in range(1, count + 1)
        )
        self.downsample = None
        if block.downsample is not None:
            conv, norm = block.downsample
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            self.downsample = Convolution(conv, after=norm, amx=amx)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        for convolution in self.convolutions[:-1]:
            x = convolution(x)
        return self.convolutions[-1](x, shortcut)


class _PreActivated(nn.Module):
    """A unit whose first batch-norm and ReLU come before its convolutions.

    Each later batch-norm is folded into the convolution before it. `last` is the batch-norm (with
    its ReLU) of the unit's sum, if nothing else uses that.
    """

    def __init__(self, unit: Unit, amx: bool, last: nn.BatchNorm2d | None = None):
        super().__init__()
        if last is not None and unit.shortcut is None:
            raise ValueError(
                "a batch-norm after a unit can only be folded if the shortcut is a convolution"
            )
        norms = [getattr(unit, f"bn{i}") for i in range(2, unit.count + 1)]
        self.convolutions = nn.ModuleList(
            Convolution(
                getattr(unit, f"conv{i}"),
                before=unit.bn1 if i == 1 else None,
                after=after,
                relu=after is not None,
                amx=amx,
            )
            for i, after in enumerate([*norms, last], 1)
        )
        self.shortcut = None
        if unit.shortcut is not None:
            self.shortcut = Convolution(
                unit.shortcut, before=unit.bn1, after=last, shifted=False, amx=amx
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        for convolution in self.convolutions[:-1]:
            x = convolution(x)
        return self.convolutions[-1](x, shortcut)
