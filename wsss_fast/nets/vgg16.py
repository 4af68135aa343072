"""VGG16 in the form of DeepLab-LargeFOV (Chen et al., ICLR 2015), of output stride 8."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn

from wsss_fast.nets.backbone import Backbone

DEPTHS = (2, 2, 3, 3, 3)  # convolutions of each stage
WIDTHS = (64, 128, 256, 512, 512)
FC_WIDTH = 1024


class Vgg16(Backbone):
    """VGG16 without its classifier: the last two poolings have stride 1, conv5 has dilation 2.

    Poolings are 3x3. Images are BGR in 0..255 minus the mean colour, see
    `data.transforms.subtract_mean`.

    Args:
        widths: channels of the five stages.
        fc_width: channels of fc6 (3x3, dilation 12) and fc7 (1x1), each with a ReLU and dropout,
            behind an average pooling; they are part of the pre-trained network and learn at the
            backbone's rate. None: the features are those of the last max-pooling.
        ceil_mode: poolings round sizes up, as in Caffe.
    """

    stride = 8
    frozen_statistics = True  # there is no batch-norm

    def __init__(
        self,
        widths: Sequence[int] = WIDTHS,
        fc_width: int | None = None,
        ceil_mode: bool = True,
    ):
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = 3
        for stage, (depth, width) in enumerate(zip(DEPTHS, widths, strict=True), 1):
            for i in range(1, depth + 1):
                layers[f"conv{stage}_{i}"] = _conv(channels, width, 3, 2 if stage == 5 else 1)
                layers[f"relu{stage}_{i}"] = nn.ReLU(inplace=True)
                channels = width
            stride = 2 if stage < 4 else 1
            layers[f"pool{stage}"] = nn.MaxPool2d(3, stride, 1, ceil_mode=ceil_mode)
        if fc_width is not None:
            layers["pool5a"] = nn.AvgPool2d(3, 1, 1)
            fc6, fc7 = _conv(channels, fc_width, 3, 12), _conv(fc_width, fc_width, 1)
            for n, conv in ((6, fc6), (7, fc7)):
                nn.init.normal_(conv.weight, std=0.01)  # PengtaoJiang/OAA, examples/seg/exp1
                layers[f"fc{n}"], layers[f"relu{n}"] = conv, nn.ReLU(inplace=True)
                layers[f"drop{n}"] = nn.Dropout(0.5)
            channels = fc_width
        self.layers = nn.Sequential(layers)
        self.out_channels = channels

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images [B, 3, H, W] -> features [B, out_channels, h, w]; H = 8 n + 1 gives h = n + 1."""
        return self.layers(images)


def _conv(channels: int, width: int, kernel: int, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (kernel // 2)
    conv = nn.Conv2d(channels, width, kernel, padding=padding, dilation=dilation)
    # For a start without weights, as rulixiang/deeplab-pytorch.
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv
