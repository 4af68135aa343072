"""Maps of one image by EPS' and the CAM classifiers' networks, against a plain loop over its views.

Images are 512x384 pixels, in scales 0.5 to 2 with mirror images, unless the row says otherwise;
weights and images are random, of 20 classes 2 are present. eager is the public procedure: one view
at a time, the maps of all classes resized to the image, multiplied by the label, mirrored back,
summed, divided by their maximum. The roofline is the multiply-adds of the convolutions in float32.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wsss_fast import cam, eps, nets
from wsss_fast.bench.harness.roofline import Roofline, matmul
from wsss_fast.bench.harness.suite import EAGER, OURS, Implementation, Input, Suite
from wsss_fast.engine.runtime import Runtime
from wsss_fast.stages.activate import Views, ViewsToMaps

CLASSES = 20
_PRESENT = (3, 11)  # classes of the image
_ERROR = 1e-5  # of the largest value, 1; a float32 network's own rounding is about 1e-6


@dataclasses.dataclass(frozen=True)
class Method:
    """A method's network and how its maps are computed.

    Attributes:
        network: returns the network.
        view: (network, images [B, 3, h, w]) -> maps of the classes [B, C, h', w'].
        views_to_maps: the method's function from views to maps, given the network.
        amx: as the method's `infer` calls `nets.optimize_for_inference`.
    """

    network: Callable[[], Any]
    view: Callable[[Any, Tensor], Tensor]
    views_to_maps: Callable[[Any], ViewsToMaps]
    amx: bool = False


@dataclasses.dataclass(frozen=True)
class Pictures:
    """A method, the size (H, W) of the image in pixels, and the scales of its views."""

    method: str
    size: tuple[int, int] = (384, 512)
    scales: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)


METHODS = {
    "eps": Method(
        lambda: nets.eps_resnet38(CLASSES),
        lambda net, x: net(x)[1].softmax(dim=1)[:, 1:],
        eps.views_to_maps,
        amx=True,
    ),
    "cam38": Method(
        lambda: nets.cam_resnet38(CLASSES),
        lambda net, x: net.maps(x),
        lambda net: cam.views_to_maps(net, cam.RECIPES["resnet38"].align),
    ),
    "cam50": Method(
        lambda: nets.cam_resnet50(CLASSES), lambda net, x: net.maps(x), cam.views_to_maps
    ),
}
ROWS = {
    "eps_quick": ("EPS, 256x192, 2 views", Pictures("eps", (192, 256), (1.0,))),
    "cam_resnet50": ("CAM ResNet-50, 8 views", Pictures("cam50")),
    "eps_half": ("EPS, 4 views to 1x", Pictures("eps", scales=(0.5, 1.0))),
    "eps_resnet38": ("EPS ResNet-38, 8 views", Pictures("eps")),
    "cam_resnet38": ("CAM ResNet-38, 8 views", Pictures("cam38")),
}


def suite() -> Suite:
    return Suite(
        name="inference",
        op="amx_conv2d",
        title="Maps of one image of 512x384, float32",
        rows={key: text for key, (text, _) in ROWS.items()},
        quick=("eps_quick",),
        make=lambda key, number: make(ROWS[key][1], number),
        tiny=lambda key: make(dataclasses.replace(ROWS[key][1], size=(16, 24), scales=(1.0,)), 0),
        implementations=lambda key: implementations(ROWS[key][1]),
        limits={"error": _ERROR},
        roofline=lambda key: least_products(ROWS[key][1]),
    )


def make(pictures: Pictures, number: int) -> Input:
    """The image's size, and its views with their mirror images, [2, 3, h, w] for each scale.

    The image has smooth colours and noise, of unit variance.
    """
    generator = torch.Generator().manual_seed(number)
    height, width = pictures.size
    low = torch.randn(1, 3, height // 16, width // 16, generator=generator)
    image = nn.functional.interpolate(low, (height, width), mode="bicubic")
    image = image + 0.3 * torch.randn(image.shape, generator=generator)
    scaled = [
        nn.functional.interpolate(image, (round(height * s), round(width * s)), mode="bilinear")
        for s in pictures.scales
    ]
    views = tuple(
        torch.cat([view, view.flip(-1)]).contiguous(memory_format=torch.channels_last)
        for view in scaled
    )
    return (torch.tensor(pictures.size), *views)


def implementations(pictures: Pictures) -> dict[str, Implementation]:
    """Ours and the plain loop."""
    method = METHODS[pictures.method]

    def ours(size: Tensor, *views: Tensor) -> Tensor:
        device = views[0].device
        views_to_maps = method.views_to_maps(_optimized(pictures.method, device))
        height, width = size.tolist()
        given = Views(("image",), _tags(device)[None], views, (height, width))
        with torch.inference_mode():
            return torch.from_numpy(views_to_maps(given)[0].high_res)

    def eager(size: Tensor, *views: Tensor) -> Tensor:
        return plain_loop(method, _network(pictures.method, views[0].device), size, views)

    return {OURS: Implementation(ours), EAGER: Implementation(eager)}


@torch.no_grad()
def plain_loop(method: Method, net: nn.Module, size: Tensor, views: tuple[Tensor, ...]) -> Tensor:
    """The public procedure: maps [P, H, W] of the P present classes."""
    tags = _tags(views[0].device)
    summed = []
    for scale in views:
        for mirrored in (False, True):
            maps = method.view(net, scale[int(mirrored)][None].contiguous())
            maps = nn.functional.interpolate(
                maps, tuple(size.tolist()), mode="bilinear", align_corners=False
            )[0]
            maps = maps * tags[:, None, None]
            summed.append(maps.flip(-1) if mirrored else maps)
    total = torch.stack(summed).sum(dim=0)
    return (total / (total.amax(dim=(1, 2), keepdim=True) + 1e-5))[tags > 0]


def _tags(device: torch.device) -> Tensor:
    present = torch.tensor(_PRESENT, device=device)
    return torch.zeros(CLASSES, device=device).index_fill_(0, present, 1.0)


@functools.lru_cache(maxsize=1)
def _network(method: str, device: torch.device) -> nn.Module:
    """The method's network with random weights that keep activations near 1."""
    generator = torch.Generator().manual_seed(0)
    net = METHODS[method].network().eval().requires_grad_(False)
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            around = 1.0 if name.endswith(("running_var", "weight")) else 0.0
            value.copy_(
                noise / value[0].numel() ** 0.5
                if value.dim() == 4
                else around + 0.1 * (noise.abs() if name.endswith("running_var") else noise)
            )
    return net.to(device)


@functools.lru_cache(maxsize=1)
def _optimized(method: str, device: torch.device) -> nn.Module:
    net = METHODS[method].network()
    net.load_state_dict(_network(method, device).state_dict())
    _network.cache_clear()  # or eager's weights would count as memory of ours
    return nets.optimize_for_inference(
        net, Runtime(device, 0, 0, torch.float32), amx=METHODS[method].amx
    )


@functools.cache
def least_products(pictures: Pictures) -> Roofline:
    """Multiply-adds of all convolutions, padding included.

    The plain call is a product of the size of the deepest stage's.
    """
    total = 0.0

    def count(module: nn.Conv2d, _: tuple, out: Tensor) -> None:
        nonlocal total
        total += 2.0 * out.numel() * module.weight[0].numel()

    method = METHODS[pictures.method]
    with torch.device("meta"):
        net = method.network().eval()
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(count)
        for scale in pictures.scales:
            method.view(net, torch.zeros(2, 3, *(round(side * scale) for side in pictures.size)))
    return dataclasses.replace(matmul(2048, 2048, 2048), work=total)
