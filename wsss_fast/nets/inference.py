"""Networks made ready for inference: batch-norms folded into convolutions, ReLUs and sums done where the result is written."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from wsss_fast.engine.runtime import Runtime
from wsss_fast.nets.resnet import Bottleneck, ResNet
from wsss_fast.nets.small import SmallBlock, SmallResNet
from wsss_fast.nets.wide_resnet38 import Unit, WideResNet38
from wsss_fast.ops.amx_conv2d import BLOCK, amx_conv2d, fits, pack, pays


def optimize_for_inference(net: nn.Module, where: Runtime, *, split: bool = False) -> nn.Module:
    """A network for inference only, on the runtime's device: the same outputs, less work and memory. `net` is used up.

    Batch-norms on stored statistics go into the convolution before them, those that open a pre-activated unit are one
    multiply-add with its ReLU. Convolutions are torch's, in channels_last: maps agree to 2e-6 of the largest (measured).

    Args:
        net: as `nets` makes it, with its weights.
        where: device and dtype; with bfloat16 convolutions are autocast's.
        split: in float32 on a CPU with a matrix unit, let `ops.amx_conv2d` do the convolutions. Logits then differ by 3e-5 of
            the largest; EPS' maps by 9e-6 with random weights, a CAM classifier's by 2e-5 to 4e-5, for which only CCR asks.
    """
    net = net.to(where.device).eval().requires_grad_(False)
    split = split and where.device.type == "cpu" and where.dtype == torch.float32 and pays()
    _replace(net, split)
    return net


def _replace(module: nn.Module, split: bool) -> None:
    for name, child in list(module.named_children()):
        made = _prepared(child, split)
        if made is not None:
            setattr(module, name, made)
        else:
            _open(child, split)
            _replace(child, split)


def _prepared(child: nn.Module, split: bool) -> nn.Module | None:
    """What takes the place of a module as a whole, or None."""
    if isinstance(child, (Bottleneck, SmallBlock)):
        return _PostActivated(child, split)
    if isinstance(child, Unit):
        return _PreActivated(child, split)
    if isinstance(child, nn.Conv2d):
        return Convolution(child, split=split)
    return None


def _open(backbone: nn.Module, split: bool) -> None:
    """The batch-norms at the ends of a backbone, outside of its blocks."""
    if isinstance(backbone, (ResNet, SmallResNet)):
        backbone.conv1 = Convolution(backbone.conv1, after=backbone.bn1, relu=True, split=split)
        backbone.bn1, backbone.relu = nn.Identity(), nn.Identity()
    elif isinstance(backbone, WideResNet38):
        # Only the last batch-norm sees the last unit's sum, so both of its terms can be normalised before they are added.
        backbone.stage7[-1] = _PreActivated(backbone.stage7[-1], split, last=backbone.bn)
        backbone.bn, backbone.relu = nn.Identity(), nn.Identity()


def _affine(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Batch-norm on stored statistics as a factor and a summand for each channel, float64 [C]."""
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    return scale, norm.bias.double() - norm.running_mean.double() * scale


def _worth(weight: torch.Tensor, normed: bool) -> bool:
    """Whether a weight [K, C, k, k] has enough products for the split convolution.

    It takes channels and filters by 32: of three, or of a few classes, it would mostly multiply zeros. And what it does to
    each number of a map must be paid by the products that it is part of (measured: 51 of them are not enough, 85 are).
    Where the map is normed first, torch must write it again as well.
    """
    filters, channels = weight.shape[:2]
    return min(filters, channels) >= BLOCK and (
        normed or weight.numel() >= 80 * (filters + channels)
    )


class Convolution(nn.Module):
    """relu( conv( relu(before(x)) ) through `after`, plus a residual ); norms and ReLUs where given.

    Args:
        conv: the convolution; not kept.
        before: batch-norm whose ReLU is convolved.
        after: batch-norm of the result.
        shifted: whether `after` adds its shift; no, where another term of the sum brings it.
        relu: whether a ReLU ends it.
        split: whether `ops.amx_conv2d` may do it.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        *,
        before: nn.BatchNorm2d | None = None,
        after: nn.BatchNorm2d | None = None,
        shifted: bool = True,
        relu: bool = False,
        split: bool = False,
    ):
        super().__init__()
        weight, bias = (
            conv.weight.detach().double(),
            None if conv.bias is None else conv.bias.detach().double(),
        )
        if after is not None:
            scale, shift = _affine(after)
            weight = weight * scale[:, None, None, None]
            kept = shift if shifted else torch.zeros_like(shift)
            bias = kept if bias is None else bias * scale + kept
        self.relu = relu
        self.stride, self.padding, self.dilation, self.groups = (
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
        )
        same = (conv.kernel_size[0] // 2 * conv.dilation[0],) * 2 == tuple(conv.padding)
        self.split = (
            split
            and fits(weight)
            and _worth(weight, before is not None)
            and conv.groups == 1
            and same
            and conv.padding_mode == "zeros"
            and len({*conv.stride}) == len({*conv.dilation}) == 1
        )
        # Three parts: two are no faster by more than a tenth, and bring CCR's maps up to three times as far from float32's.
        made = (
            pack(weight, parts=3)
            if self.split
            else weight.to(conv.weight.dtype).contiguous(memory_format=torch.channels_last)
        )
        self.filters = len(weight)
        self.register_buffer("weight", made)
        self.register_buffer("bias", None if bias is None else bias.to(conv.weight.dtype))
        affine = (
            (None, None) if before is None else (v.to(conv.weight.dtype) for v in _affine(before))
        )
        for name, value in zip(("scale", "shift"), affine, strict=True):
            self.register_buffer(name, value)

    def forward(
        self,
        x: torch.Tensor,
        residual: torch.Tensor | None = None,
        inside: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """x [B, C, H, W], residual [B, K, H', W'] or None -> [B, K, H', W']; neither is changed.

        `inside`, only where `split`: see there.
        """
        if self.split:
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
        if self.scale is not None:
            x = torch.addcmul(self.shift[:, None, None], x, self.scale[:, None, None]).relu_()
        out = F.conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )
        out = out if residual is None else out.add_(residual)
        return out.relu_() if self.relu else out


class _PostActivated(nn.Module):
    """A block whose convolutions are followed by batch-norms, the last ReLU behind the sum."""

    def __init__(self, block: Bottleneck | SmallBlock, split: bool):
        super().__init__()
        count = sum(name.startswith("conv") for name, _ in block.named_children())
        self.convolutions = nn.ModuleList(
            Convolution(
                getattr(block, f"conv{i}"), after=getattr(block, f"bn{i}"), relu=True, split=split
            )
            for i in range(1, count + 1)
        )
        self.downsample = None
        if block.downsample is not None:
            self.downsample = Convolution(
                block.downsample[0], after=block.downsample[1], split=split
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        for convolution in self.convolutions[:-1]:
            x = convolution(x)
        return self.convolutions[-1](x, shortcut)


class _PreActivated(nn.Module):
    """A unit whose first batch-norm and ReLU come before its convolutions; the later ones fold into the convolution before.

    `last` is the batch-norm (with its ReLU) of a sum that nothing else sees.
    """

    def __init__(self, unit: Unit, split: bool, last: nn.BatchNorm2d | None = None):
        super().__init__()
        if last is not None and unit.shortcut is None:
            raise ValueError(
                "a batch-norm behind a unit can only be folded into it where its shortcut is a convolution"
            )
        norms = [getattr(unit, f"bn{i}") for i in range(2, unit.count + 1)]
        self.convolutions = nn.ModuleList(
            Convolution(
                getattr(unit, f"conv{i}"),
                before=unit.bn1 if i == 1 else None,
                after=after,
                split=split,
                relu=after is not None,
            )
            for i, after in enumerate([*norms, last], 1)
        )
        self.shortcut = None
        if unit.shortcut is not None:
            self.shortcut = Convolution(
                unit.shortcut, before=unit.bn1, after=last, shifted=False, split=split
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        for convolution in self.convolutions[:-1]:
            x = convolution(x)
        return self.convolutions[-1](x, shortcut)
