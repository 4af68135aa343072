"""The training step of each method for tests of the step itself."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from wsss_fast import amn, cam, ccr, eps, irn, nets, seg
from wsss_fast.amn import training as amn_training
from wsss_fast.cam import training as cam_training
from wsss_fast.ccr import training as ccr_training
from wsss_fast.engine.optimizers import backbone_and_head
from wsss_fast.eps import training as eps_training
from wsss_fast.irn import training as irn_training
from wsss_fast.maps import strided_size
from wsss_fast.seg import training as seg_training
from wsss_fast.stages.energy import Energy

CLASSES, SIDE, IMAGES = 3, 64, 4


class Training(NamedTuple):
    """What a method's `train` builds: its network, its step and its optimizer."""

    network: Callable[[], nn.Module]
    step: Callable
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]


def _scaled(recipe):
    return lambda net: recipe.optimizer(backbone_and_head(net, recipe.lr, recipe.head_lr_scale))


def _trainings(large: bool) -> dict[str, Training]:
    """Trainings of all methods with their published backbones or the small one.

    CCR's has the energy loss, too.
    """
    fifty, wide, deep = ("resnet50", "resnet38", "resnet101") if large else ["small"] * 3
    cams, amns, irns = cam.RECIPES[fifty], amn.RECIPES[fifty], irn.RECIPES[fifty]
    epss, segs, refined = eps.RECIPES[wide], seg.RECIPES[deep], ccr.REFINEMENTS[deep]
    if large:  # whose radius does not fit into the small crop
        irns = dataclasses.replace(irns, radius=irn.RECIPES["small"].radius)

    def segmentation():
        return nets.deeplabv2_resnet101(CLASSES, backbone=deep, scales=segs.scales)

    return {
        "cam": Training(
            lambda: nets.cam_resnet50(CLASSES, backbone=fifty), cam_training._step, _scaled(cams)
        ),
        "amn": Training(
            lambda: nets.amn_resnet50(CLASSES, backbone=fifty),
            amn_training._step(amns),
            lambda net: amns.optimizer(amn.parameter_groups(net, amns)),
        ),
        "irn": Training(
            lambda: nets.irn_resnet50(backbone=fifty),
            irn_training._step(irns),
            lambda net: irns.optimizer(irn.parameter_groups(net, irns)),
        ),
        "eps": Training(
            lambda: nets.eps_resnet38(CLASSES, backbone=wide),
            eps_training._step(epss),
            _scaled(epss),
        ),
        "seg": Training(segmentation, seg_training._step(segs), _scaled(segs)),
        "ccr": Training(
            segmentation,
            seg_training._step(
                dataclasses.replace(segs, energy=Energy(weight=1e-7)),
                ccr_training._extra_loss(refined),
            ),
            _scaled(segs),
        ),
    }


TRAININGS, PUBLISHED = _trainings(large=False), _trainings(large=True)


def batch(name: str, **options) -> dict[str, torch.Tensor]:
    """A batch of a method's training; `options` are those of torch's factory functions."""
    seeds = strided_size(SIDE, SIDE) if name == "irn" else (SIDE, SIDE)
    pixels = {
        "tags": lambda: torch.ones(IMAGES, CLASSES, **options),
        "saliency": lambda: torch.rand(IMAGES, 1, SIDE, SIDE, **options),
        "maps": lambda: torch.rand(IMAGES, 2, SIDE, SIDE, **options),
        "mask": lambda: _labels(SIDE, SIDE, options),
        "seed": lambda: _labels(*seeds, options),
    }
    parts = {
        "cam": ["tags"],
        "amn": ["seed", "tags"],
        "irn": ["seed"],
        "eps": ["saliency", "tags"],
        "seg": ["mask"],
        "ccr": ["mask", "maps"],
    }[name]
    image = torch.randn(IMAGES, 3, SIDE, SIDE, **options)
    return {"image": image, **{part: pixels[part]() for part in parts}}


def _labels(height: int, width: int, options: dict) -> torch.Tensor:
    return torch.randint(0, CLASSES + 1, (IMAGES, height, width), dtype=torch.uint8, **options)
