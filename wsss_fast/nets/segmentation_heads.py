"""Heads of segmentation networks: functions that make modules, features [B, D, h, w] -> logits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from wsss_fast.ops import label_conditioned_logits


class Aspp(nn.Module):
    """Sum of dilated 3x3 convolutions with bias (atrous spatial pyramid pooling of DeepLabV2).

    Args:
        channels: channels of the features.
        num_outputs: channels of the logits.
        dilations: dilations of the convolutions, in cells of the feature map.
    """

    def __init__(self, channels: int, num_outputs: int, dilations: Sequence[int]):
        super().__init__()
        self.dilations = tuple(dilations)
        self.weight = nn.Parameter(torch.empty(len(self.dilations), num_outputs, channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(len(self.dilations), num_outputs))
        nn.init.normal_(self.weight, std=0.01)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """features [B, D, h, w] -> logits [B, K, h, w]."""
        return label_conditioned_logits(features, None, self.weight, self.bias, self.dilations)


class DeepAspp(nn.Module):
    """DeepLabV2's pyramid on VGG16: the sum of branches of three convolutions.

    A branch: 3x3 with its dilation, ReLU, dropout 0.5, 1x1, ReLU, dropout 0.5, 1x1 (fc6 to fc8). As
    in PengtaoJiang/L2G, `deeplab_vgg_v2.py`; EPS' own code of this network is not public.

    Args:
        channels, num_outputs, dilations: as for `Aspp`.
        width: channels between the convolutions.
    """

    def __init__(
        self, channels: int, num_outputs: int, dilations: Sequence[int], width: int = 1024
    ):
        super().__init__()
        for i, dilation in enumerate(dilations):
            branch = nn.Sequential(
                _conv3x3(channels, width, dilation),
                nn.ReLU(inplace=True),
                nn.Dropout(0.5),
                nn.Conv2d(width, width, 1),
                nn.ReLU(inplace=True),
                nn.Dropout(0.5),
                nn.Conv2d(width, num_outputs, 1),
            )
            for module in branch:
                if isinstance(module, nn.Conv2d):
                    normal(module)
            self.add_module(f"c{i}", branch)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """features [B, D, h, w] -> logits [B, K, h, w]."""
        first, *others = (branch(features) for branch in self.children())
        return sum(others, start=first)


def fc8(channels: int, num_outputs: int) -> nn.Sequential:
    """The last layer of DeepLab-LargeFOV, a 1x1 convolution; N(0, 0.01), as in the public code."""
    return nn.Sequential(OrderedDict(fc8=normal(nn.Conv2d(channels, num_outputs, 1))))


def large_fov(channels: int, num_outputs: int, width: int, dilation: int) -> nn.Sequential:
    """LargeFOV on ResNet-101: two convolutions without bias and a third one, without dropout.

    As in PengtaoJiang/OAA, `examples/seg/exp2`; Caffe's fillers xavier and msra.
    """
    fc6 = _conv3x3(channels, width, dilation, bias=False)
    fc7 = nn.Conv2d(width, width, 1, bias=False)
    last = nn.Conv2d(width, num_outputs, 1)
    for conv in (fc6, fc7):
        nn.init.kaiming_uniform_(conv.weight, nonlinearity="linear")  # +- sqrt(3 / inputs)
    nn.init.kaiming_normal_(last.weight)
    nn.init.zeros_(_bias(last))
    return nn.Sequential(
        OrderedDict(
            fc6=fc6,
            relu6=nn.ReLU(inplace=True),
            fc7=fc7,
            relu7=nn.ReLU(inplace=True),
            fc8=last,
        )
    )


def seam(
    channels: int, num_outputs: int, width: int, dilation: int, momentum: float
) -> nn.Sequential:
    """DeepLabV1's head for SEAM's pseudo-masks, whose batch-norms use batch statistics in training.

    As in YudeWang/semantic-segmentation-codebase, `lib/net/deeplabv1.py`: none of its groups of
    parameters has the affine ones of batch-norms, so they are not trained here either.
    """
    conv1 = _conv3x3(channels, width, dilation, bias=False)
    conv2 = nn.Conv2d(width, width, 1, bias=False)
    last = nn.Conv2d(width, num_outputs, 1)
    for conv in (conv1, conv2, last):
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    norms = [nn.BatchNorm2d(width, momentum=momentum) for _ in range(2)]
    return nn.Sequential(
        OrderedDict(
            conv1=conv1,
            bn1=norms[0].requires_grad_(False),
            relu1=nn.ReLU(inplace=True),
            conv2=conv2,
            bn2=norms[1].requires_grad_(False),
            relu2=nn.ReLU(inplace=True),
            dropout=nn.Dropout(0.5),
            conv3=last,
        )
    )


def mctformer(channels: int, num_outputs: int, width: int, dilation: int) -> nn.Sequential:
    """Two dilated 3x3 convolutions, as in xulianuwa/MCTformer, `seg/network/resnet38_seg.py`."""
    conv1 = _conv3x3(channels, width, dilation)
    conv2 = _conv3x3(width, num_outputs, dilation)
    for conv in (conv1, conv2):
        nn.init.xavier_uniform_(conv.weight)
    return nn.Sequential(OrderedDict(conv1=conv1, relu1=nn.ReLU(inplace=True), conv2=conv2))


def conv1x1(channels: int, num_outputs: int) -> nn.Sequential:
    """A single 1x1 convolution with torch's initial weights, as in kazuto1011's `deeplabv1.py`."""
    return nn.Sequential(OrderedDict(fc=nn.Conv2d(channels, num_outputs, 1)))


def normal(conv: nn.Conv2d) -> nn.Conv2d:
    """Fill a convolution with N(0, 0.01), and its bias with 0; returns it."""
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(_bias(conv))
    return conv


def _bias(conv: nn.Conv2d) -> torch.Tensor:
    assert conv.bias is not None
    return conv.bias


def _conv3x3(channels: int, width: int, dilation: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation, bias=bias)
