"""Segmentation networks of the published rows against plain PyTorch; sizes and wrong values."""

import functools

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from wsss_fast import InputError, nets
from wsss_fast.engine.optimizers import Sgd, backbone_and_head
from wsss_fast.nets import segmentation_heads as heads
from wsss_fast.nets.resnet import ResNet
from wsss_fast.nets.vgg16 import Vgg16
from wsss_fast.nets.wide_resnet38 import WideResNet38

CLASSES, OUTPUTS = 3, 4


class Plain(nn.Module):
    """A network written out; `body` and `head` are trained at different rates."""

    def __init__(self, body, head, frozen=()):
        super().__init__()
        self.body, self.head, self.frozen = body, head, frozen

    def forward(self, images):
        return self.head(self.body(images))


def conv(channels, width, kernel, dilation=1, stride=1, bias=True):
    pad = dilation * (kernel // 2)
    return nn.Conv2d(channels, width, kernel, stride, pad, dilation, bias=bias)


def plain_vgg16(a, b, c, d, e, ceil_mode):
    down = functools.partial(nn.MaxPool2d, 3, 2, 1, ceil_mode=ceil_mode)
    same, relu = functools.partial(nn.MaxPool2d, 3, 1, 1), nn.ReLU
    return [
        *(conv(3, a, 3), relu(), conv(a, a, 3), relu(), down()),
        *(conv(a, b, 3), relu(), conv(b, b, 3), relu(), down()),
        *(conv(b, c, 3), relu(), conv(c, c, 3), relu(), conv(c, c, 3), relu(), down()),
        *(conv(c, d, 3), relu(), conv(d, d, 3), relu(), conv(d, d, 3), relu(), same()),
        *(conv(d, e, 3, 2), relu(), conv(e, e, 3, 2), relu(), conv(e, e, 3, 2), relu(), same()),
    ]


def vgg16_largefov():
    net = nets.DeepLab(Vgg16((3, 4, 5, 6, 7), 8), CLASSES, "largefov", heads.fc8(8, OUTPUTS))
    fc6 = [nn.AvgPool2d(3, 1, 1), conv(7, 8, 3, 12), nn.ReLU(), nn.Dropout(0.5)]
    fc7 = [conv(8, 8, 1), nn.ReLU(), nn.Dropout(0.5)]
    body = nn.Sequential(*plain_vgg16(3, 4, 5, 6, 7, True), *fc6, *fc7)
    return net, Plain(body, nn.Sequential(conv(8, OUTPUTS, 1)))


class Sum(nn.ModuleList):
    def forward(self, x):
        return sum(branch(x) for branch in self)


def vgg16_aspp():
    pyramid = heads.DeepAspp(7, OUTPUTS, (2, 4), width=5)
    net = nets.DeepLabV2(Vgg16((3, 4, 5, 6, 7), ceil_mode=False), CLASSES, pyramid, ())
    branches = Sum(
        nn.Sequential(
            *(conv(7, 5, 3, dilation), nn.ReLU(), nn.Dropout(0.5)),
            *(conv(5, 5, 1), nn.ReLU(), nn.Dropout(0.5), conv(5, OUTPUTS, 1)),
        )
        for dilation in (2, 4)
    )
    return net, Plain(nn.Sequential(*plain_vgg16(3, 4, 5, 6, 7, False)), branches)


class Bottleneck(nn.Module):
    def __init__(self, channels, width, stride, dilation):
        super().__init__()
        bare = functools.partial(conv, bias=False)
        self.main = nn.Sequential(
            *(bare(channels, width, 1, stride=stride), nn.BatchNorm2d(width), nn.ReLU()),
            *(bare(width, width, 3, dilation), nn.BatchNorm2d(width), nn.ReLU()),
            *(bare(width, 4 * width, 1), nn.BatchNorm2d(4 * width)),
        )
        self.shortcut = nn.Sequential(
            bare(channels, 4 * width, 1, stride=stride), nn.BatchNorm2d(4 * width)
        )

    def forward(self, x):
        return torch.relu(self.main(x) + self.shortcut(x))


def resnet101(head_name, head, plain_head):
    """ResNet-101's layout with one block a stage, and 2 channels instead of 64."""
    body = ResNet((1, 1, 1, 1), (1, 2, 1, 1), (1, 1, 2, 4), caffe=True, width=2)
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    stem = [nn.Conv2d(3, 2, 7, 2, 3, bias=False), nn.BatchNorm2d(2), nn.ReLU()]
    plain = nn.Sequential(
        *(*stem, nn.MaxPool2d(3, 2, 1, ceil_mode=True), Bottleneck(2, 2, 1, 1)),
        *(Bottleneck(8, 4, 2, 1), Bottleneck(16, 8, 1, 2), Bottleneck(32, 16, 1, 4)),
    )
    return nets.DeepLab(body, CLASSES, head_name, head), Plain(plain, plain_head, frozen=[plain])


def resnet101_largefov():
    head = heads.large_fov(64, OUTPUTS, width=6, dilation=12)
    plain = nn.Sequential(
        *(conv(64, 6, 3, 12, bias=False), nn.ReLU()),
        *(conv(6, 6, 1, bias=False), nn.ReLU(), conv(6, OUTPUTS, 1)),
    )
    return resnet101("largefov", head, plain)


def resnet101_conv1x1():
    return resnet101("conv1x1", heads.conv1x1(64, OUTPUTS), conv(64, OUTPUTS, 1))


class Unit(nn.Module):
    def __init__(self, widths, kernels, stride=1, dilations=(1, 1), dropout=0.0):
        super().__init__()
        middle = nn.BatchNorm2d(widths[0])
        layers = []
        for i, (channels, width, kernel, dilation) in enumerate(
            zip(widths, widths[1:], kernels, dilations, strict=False)
        ):
            step = stride if i == 0 else 1
            if i:
                layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.Dropout2d(dropout)]
            layers.append(conv(channels, width, kernel, dilation, step, bias=False))
        self.first, self.main = middle, nn.Sequential(*layers)
        self.shortcut = None
        if stride > 1 or widths[0] != widths[-1]:
            self.shortcut = conv(widths[0], widths[-1], 1, stride=stride, bias=False)

    def forward(self, x):
        activated = torch.relu(self.first(x))
        return self.main(activated) + (x if self.shortcut is None else self.shortcut(activated))


def plain_resnet38():
    three, bottle = functools.partial(Unit, kernels=(3, 3)), (1, 3, 1)
    return nn.Sequential(
        conv(3, 1, 3, bias=False),
        *(three((1, 2, 2), stride=2), three((2, 2, 2)), three((2, 2, 2))),
        *(three((2, 4, 4), stride=2), three((4, 4, 4)), three((4, 4, 4))),
        *(three((4, 8, 8), stride=2), *(three((8, 8, 8)) for _ in range(5))),
        three((8, 8, 16), dilations=(1, 2)),
        *(three((16, 8, 16), dilations=(2, 2)) for _ in range(2)),
        Unit((16, 8, 16, 32), bottle, dilations=(1, 4, 1), dropout=0.3),
        Unit((32, 16, 32, 64), bottle, dilations=(1, 4, 1), dropout=0.5),
        *(nn.BatchNorm2d(64), nn.ReLU()),
    )


def resnet38_seam():
    """Batch statistics in the whole network; the affine parameters of batch-norms stay."""
    body = WideResNet38(frozen=(), batch_statistics=True, width=1)
    head = heads.seam(64, OUTPUTS, width=5, dilation=12, momentum=3e-4)
    plain = nn.Sequential(
        *(conv(64, 5, 3, 12, bias=False), nn.BatchNorm2d(5), nn.ReLU()),
        *(conv(5, 5, 1, bias=False), nn.BatchNorm2d(5), nn.ReLU()),
        *(nn.Dropout(0.5), conv(5, OUTPUTS, 1)),
    )
    written = Plain(plain_resnet38(), plain)
    for module in written.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 3e-4
            module.requires_grad_(False)
    return nets.DeepLab(body, CLASSES, "seam", head), written


def resnet38_mctformer():
    body = WideResNet38(frozen=("conv1",), width=1)
    head = heads.mctformer(64, OUTPUTS, width=5, dilation=12)
    plain = nn.Sequential(conv(64, 5, 3, 12), nn.ReLU(), conv(5, OUTPUTS, 3, 12))
    written = Plain(plain_resnet38(), plain)
    written.frozen = [written.body]
    written.body[0].requires_grad_(False)
    return nets.DeepLab(body, CLASSES, "mctformer", head), written


NETWORKS = [
    vgg16_largefov,
    vgg16_aspp,
    resnet101_largefov,
    resnet101_conv1x1,
    resnet38_seam,
    resnet38_mctformer,
]


@pytest.mark.parametrize("make", NETWORKS, ids=lambda make: make.__name__)
def test_three_steps_as_in_plain_pytorch(make):
    """Weights and statistics after three SGD steps at the published rates and decays."""
    torch.manual_seed(0)
    net, plain = (one.double() for one in make())
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if "running_mean" in name or name.endswith("bias"):
                value.normal_(std=0.1)
            elif "running_var" in name:
                value.uniform_(0.5, 2)
    ours, theirs = net.state_dict(), plain.state_dict()
    assert [v.shape for v in ours.values()] == [v.shape for v in theirs.values()]
    plain.load_state_dict(dict(zip(theirs, ours.values(), strict=True)))
    start = {k: v.clone() for k, v in ours.items()}
    net.train()
    plain.train()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d) and plain.frozen:
            module.eval()
            module.requires_grad_(False)
    lr, decay = 0.02, 5e-4
    optimizer = Sgd(weight_decay=decay, momentum=0.9, caffe_biases=True)(
        backbone_and_head(net, lr, 10)
    )
    groups = [
        {
            "params": [
                p
                for k, p in part.named_parameters()
                if p.requires_grad and k.endswith("bias") == is_bias
            ],
            "lr": rate * lr,
            "weight_decay": 0.0 if is_bias else decay,
        }
        for part, is_bias, rate in (
            (plain.body, False, 1),
            (plain.body, True, 2),
            (plain.head, False, 10),
            (plain.head, True, 20),
        )
    ]
    written = torch.optim.SGD([g for g in groups if g["params"]], momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    for step in range(3):
        images = torch.randn(2, 3, 34, 41, generator=generator, dtype=torch.float64)
        found = []
        for network, update in ((net, optimizer), (plain, written)):
            torch.manual_seed(step)  # of dropout
            logits = network(images)
            logits = logits[0] if isinstance(logits, list) else logits
            labels = torch.arange(logits[:, 0].numel()).reshape(logits[:, 0].shape) % 7 % OUTPUTS
            update.zero_grad()
            nn.functional.cross_entropy(logits, labels).backward()
            update.step()
            found.append(logits.detach())
        assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)
    changed = 0
    for (name, value), want in zip(
        net.state_dict().items(), plain.state_dict().values(), strict=True
    ):
        assert_close(value, want, rtol=1e-9, atol=1e-9, msg=name)
        changed += not torch.equal(value, start[name])
    assert changed >= sum(p.requires_grad for p in net.parameters())


PUBLISHED = [
    (backbone, head)
    for backbone, found in nets.SEGMENTATION_HEADS.items()
    if backbone != "small"
    for head in found
]


@pytest.fixture(scope="module")
def published():
    """Every published pair at full size, without values."""
    with torch.device("meta"):
        return {
            pair: nets.deeplab(20, backbone=pair[0], head=pair[1], scales=()) for pair in PUBLISHED
        }


# Parameters of the heads: 3x3, 1x1, 1x1 with biases where the public code has them, 21 outputs.
HEADS = {
    ("resnet101", "aspp"): 4 * (2048 * 9 + 1) * 21,
    ("resnet101", "largefov"): 2048 * 9 * 1024 + 1024 * 1024 + 1025 * 21,
    ("resnet101", "conv1x1"): 2049 * 21,
    ("vgg16", "aspp"): 4 * ((512 * 9 + 1) * 1024 + 1025 * 1024 + 1025 * 21),
    ("vgg16", "largefov"): 1025 * 21,
    ("resnet38", "seam"): 4096 * 9 * 512 + 512 * 512 + 2 * 2 * 512 + 513 * 21,
    ("resnet38", "mctformer"): (4096 * 9 + 1) * 512 + (512 * 9 + 1) * 21,
}
# torchvision's VGG16 without its classifier, and with fc6 and fc7 as 3x3 and 1x1 convolutions.
BACKBONES = {
    "vgg16 aspp": 14_714_688,
    "vgg16 largefov": 14_714_688 + (512 * 9 + 1) * 1024 + 1025 * 1024,
    "resnet101": 42_500_160,
}


def test_published_sizes(published):
    assert published.keys() == HEADS.keys()
    for (backbone, head), net in published.items():
        total = sum(p.numel() for p in net.parameters())
        own = sum(p.numel() for p in net.backbone.parameters())
        assert total - own == HEADS[backbone, head], (backbone, head)
        assert own == BACKBONES.get(f"{backbone} {head}", BACKBONES.get(backbone, own))
        assert {name.split(".")[0] for name, _ in net.named_parameters()} == {"backbone", head}
        (logits,) = net.train()(torch.zeros(1, 3, 321, 257, device="meta"))
        assert logits.shape == (1, 21, 41, 33)
    for head, cells in (("aspp", 5), ("largefov", 6)):  # PyTorch and Caffe round sizes differently
        (logits,) = published["vgg16", head](torch.zeros(1, 3, 34, 34, device="meta"))
        assert logits.shape[-2:] == (cells, cells)


def test_what_is_frozen_as_published(published):
    for (backbone, head), net in published.items():
        names = [name for name, p in net.named_parameters() if not p.requires_grad]
        norms = {k for k, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
        others = {k for k in names if k.rpartition(".")[0] not in norms}
        assert others == ({"backbone.conv1.weight"} if head == "mctformer" else set())
        assert len(names) - len(others) == 2 * len(norms)
        training = {m.training for m in net.train().modules() if isinstance(m, nn.BatchNorm2d)}
        assert training == ({head == "seam"} if backbone != "vgg16" else set())


@torch.no_grad()
def test_a_single_scale_gives_its_logits_once():
    images = torch.randn(1, 3, 32, 40)
    for head in nets.SEGMENTATION_HEADS["small"]:
        net = nets.deeplab(CLASSES, backbone="small", head=head, scales=()).eval()
        logits = net(images)
        assert logits.shape == (1, OUTPUTS, 4, 5)
        net.training = True  # of this module only, so that statistics stay
        assert [x.tolist() for x in net(images)] == [logits.tolist()]
        several = nets.deeplab(CLASSES, backbone="small", head=head, scales=(0.5,)).train()
        assert [x.shape[-2:] for x in several(images)] == [(4, 5), (2, 3), (4, 5)]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (dict(backbone="resnet50"), "backbone: got 'resnet50', must be one of resnet101, vgg16, "),
        (dict(backbone="vgg16", head="seam"), "must be one of aspp, largefov with backbone vgg16"),
        (dict(backbone="resnet38"), "head: got 'aspp', must be one of seam, mctformer with"),
        (dict(head="fcn"), "head: got 'fcn', must be one of aspp, largefov, conv1x1 with"),
        (dict(scales=(0.5, -1.0)), r"scales: got \(0\.5, -1\.0\), must be finite numbers > 0"),
    ],
)
def test_wrong_values_are_one_line(options, problem):
    with torch.device("meta"), pytest.raises(InputError, match=problem) as raised:
        nets.deeplab(20, **options)
    assert "\n" not in str(raised.value)
