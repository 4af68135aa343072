"""Names of parameters in public checkpoints: tables of prefixes, for `nets.names`."""

from __future__ import annotations

from collections.abc import Mapping

from wsss_fast.nets.deeplab import DeepLab, DeepLabV2
from wsss_fast.nets.heads import AmnNet, CamNet, EpsNet
from wsss_fast.nets.irn import IrnNet
from wsss_fast.nets.resnet import CaffeResNet101, ResNet50
from wsss_fast.nets.vgg16 import DEPTHS, Vgg16
from wsss_fast.nets.wide_resnet38 import WideResNet38

Prefixes = dict[str, tuple[str, ...]]  # own prefix -> public prefixes


def _resnet50(copies: Mapping[str, tuple[int, int]]) -> Prefixes:
    """Backbone of the AMN repository's networks.

    `copies` maps a module to the stage and the position in it where the module is repeated.
    """
    return {
        f"backbone.{name}.": (
            f"resnet50.{name}.",
            f"stage{stage}.{position}.",
            f"backbone.{stage - 1}.{position}.",
        )
        for name, (stage, position) in copies.items()
    }


_STEM_WITH_LAYER1 = _resnet50(
    {
        "conv1": (1, 0),
        "bn1": (1, 1),
        "layer1": (1, 4),
        "layer2": (2, 0),
        "layer3": (3, 0),
        "layer4": (4, 0),
    }
)
_STEM_ALONE = _resnet50(
    {
        "conv1": (1, 0),
        "bn1": (1, 1),
        "layer1": (2, 0),
        "layer2": (3, 0),
        "layer3": (4, 0),
        "layer4": (5, 0),
    }
)

_IRN_HEADS = {
    **{f"edge.{i}.": (f"fc_edge{i + 1}.", f"edge_layers.{i}.") for i in range(5)},
    "edge_out.": ("fc_edge6.", "edge_layers.5."),
    **{f"displacement.{i}.": (f"fc_dp{i + 1}.", f"dp_layers.{i}.") for i in range(5)},
    "displacement_up.": ("fc_dp6.", "dp_layers.5."),
    "displacement_out.": ("fc_dp7.", "dp_layers.6."),
    "mean_displacement": (
        "mean_shift.running_mean",
        "fc_dp7.4.running_mean",
        "dp_layers.6.4.running_mean",
    ),
}

_BOTTLENECK = {
    "conv1": "reduce.conv",
    "bn1": "reduce.bn",
    "conv2": "conv3x3.conv",
    "bn2": "conv3x3.bn",
    "conv3": "increase.conv",
    "bn3": "increase.bn",
    "downsample.0": "shortcut.conv",
    "downsample.1": "shortcut.bn",
}
_CAFFE_RESNET101: Prefixes = {
    "backbone.conv1.": ("base.layer1.conv1.conv.",),
    "backbone.bn1.": ("base.layer1.conv1.bn.",),
    **{
        f"backbone.layer{stage}.{i}.{own}.": (f"base.layer{stage + 1}.block{i + 1}.{public}.",)
        for stage, blocks in enumerate((3, 4, 23, 3), 1)
        for i in range(blocks)
        for own, public in _BOTTLENECK.items()
    },
}

_UNITS = {2: 3, 3: 3, 4: 6, 5: 3, 6: 1, 7: 1}  # residual units of each stage of ResNet-38
_BRANCHES = {2: ("2a", "2b1"), 3: ("2a", "2b1", "2b2")}  # names of their convolutions
_RESNET38_UNITS = [(stage, i) for stage, count in _UNITS.items() for i in range(count)]
_RESNET38: Prefixes = {
    "backbone.conv1.": ("conv1a.",),
    "backbone.bn.": ("bn7.",),
    **{
        f"backbone.stage{stage}.{i}.{own}.": (f"b{stage}{f'_{i}' if i else ''}.{public}.",)
        for stage, i in _RESNET38_UNITS
        for own, public in (
            ("shortcut", "conv_branch1"),
            *(
                (f"{kind}{n}", f"{kind}_branch{branch}")
                for kind in ("bn", "conv")
                for n, branch in enumerate(_BRANCHES[2 if stage < 6 else 3], 1)
            ),
        )
    },
}

_VGG16 = [
    (stage, i) for stage, depth in enumerate(DEPTHS, 1) for i in range(1, depth + 1)
]  # numbers of its convolutions
# rulixiang/deeplab-pytorch, DeepLabV1_LargeFOV.py
_VGG16_LARGEFOV: Prefixes = {
    **{f"backbone.layers.conv{stage}_{i}.": (f"block_{stage}.conv{i}.",) for stage, i in _VGG16},
    "backbone.layers.fc6.": ("conv6.",),
    "backbone.layers.fc7.": ("conv7.",),
    "largefov.fc8.": ("conv8.",),
}
# PengtaoJiang/L2G, deeplab_vgg_v2.py: positions in two sequences, with poolings between.
_L2G_POSITIONS = (*((1, n) for n in (0, 1, 3, 4, 6, 7, 8, 10, 11, 12)), *((2, n) for n in range(3)))
_VGG16_ASPP: Prefixes = {
    **{
        f"backbone.layers.conv{stage}_{i}.": (f"base.layer{part}.{position}.0.",)
        for (stage, i), (part, position) in zip(_VGG16, _L2G_POSITIONS, strict=True)
    },
    **{f"aspp.c{i}.": (f"base.aspp.c{i}.",) for i in range(4)},
}
# YudeWang/semantic-segmentation-codebase, deeplabv1.py
_SEAM: Prefixes = {
    **{own: tuple(f"backbone.{name}" for name in public) for own, public in _RESNET38.items()},
    "seam.conv1.": ("conv_fov.",),
    "seam.bn1.": ("bn_fov.",),
    "seam.conv2.": ("conv_fov2.",),
    "seam.bn2.": ("bn_fov2.",),
    "seam.conv3.": ("cls_conv.",),
}
# xulianuwa/MCTformer, seg/network/resnet38_seg.py
_MCTFORMER: Prefixes = {
    **_RESNET38,
    "mctformer.conv1.": ("fc8_seg_conv1.",),
    "mctformer.conv2.": ("fc8_seg_conv2.",),
}

# By network, backbone and, of DeepLab, head.
PREFIXES: dict[tuple[type, type, str | None], Prefixes] = {
    (CamNet, ResNet50, None): {**_STEM_WITH_LAYER1, "head.": ("classifier.", "newly_added.0.")},
    (CamNet, WideResNet38, None): {**_RESNET38, "head.": ("fc8.",)},
    (EpsNet, WideResNet38, None): _RESNET38,
    (AmnNet, ResNet50, None): {
        **_STEM_WITH_LAYER1,
        "label_scale.": ("label_enc.", "newly_added.1."),
    },
    (IrnNet, ResNet50, None): {**_STEM_ALONE, **_IRN_HEADS},
    (DeepLabV2, CaffeResNet101, "aspp"): _CAFFE_RESNET101,
    (DeepLab, CaffeResNet101, "conv1x1"): {**_CAFFE_RESNET101, "conv1x1.fc.": ("base.fc.",)},
    (DeepLabV2, Vgg16, "aspp"): _VGG16_ASPP,
    (DeepLab, Vgg16, "largefov"): _VGG16_LARGEFOV,
    (DeepLab, WideResNet38, "seam"): _SEAM,
    (DeepLab, WideResNet38, "mctformer"): _MCTFORMER,
}
# Other names, which are read, but not written: own prefix by public one. Those of `vgg16_20M.pth`,
# Caffe's, as jiwoon-ahn/psa and visinf/1-stage-wseg convert them.
READ_ONLY = {
    **{f"conv{stage}_{i}.": f"backbone.layers.conv{stage}_{i}." for stage, i in _VGG16},
    **{f"fc{n}.": f"backbone.layers.fc{n}." for n in (6, 7)},
}
# VGG16 in one torch sequence, as torchvision's: position to public prefix.
VGG16_POSITIONS = {
    **dict(
        zip(
            (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
            (f"block_{stage}.conv{i}." for stage, i in _VGG16),
            strict=True,
        )
    ),
    # Without a name before the number, as PoolNet's vgg16_20M.pth, the average pooling is left out;
    # wangleihitcs/DeepLab-V1-PyTorch has it, and the last layer.
    31: "conv6.",
    34: "conv7.",
    32: "conv6.",
    35: "conv7.",
    38: "conv8.",
}
# EPS' head has the name of a classifier's, but one map more: the background's, which is the last
# one in public checkpoints and the first one here.
EPS_HEAD = ("map_head.weight", "fc8.weight")
# MXNet's names for the same ResNet-38, trained on ImageNet.
MXNET_SUFFIXES = {
    "weight": "weight",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_var": "running_var",
}
MXNET_PREFIXES = {
    "conv1a": "conv1a",
    "bn7": "bn7",
    **{
        f"{kind}{stage}{f'b{i}' if i else 'a'}_branch{branch}": (
            f"b{stage}{f'_{i}' if i else ''}.{public}_branch{branch}"
        )
        for stage, i in _RESNET38_UNITS
        for kind, public in (("res", "conv"), ("bn", "bn"))
        for branch in ("1", *_BRANCHES[2 if stage < 6 else 3])
    },
}
# One tensor here, one convolution for each dilation in public checkpoints.
STACKED: dict[type, Prefixes] = {
    AmnNet: {
        name: (f"classifier.1.c{{}}.{name}", f"newly_added.0.1.c{{}}.{name}")
        for name in ("weight", "bias")
    },
    DeepLabV2: {f"aspp.{name}": (f"base.aspp.c{{}}.{name}",) for name in ("weight", "bias")},
}
# A classifier of ImageNet, and constants stored by IRN's training module.
UNUSED: tuple[str, ...] = ("resnet50.fc.", "path_indices", "disp_target")
