"""Classifiers, photos and views for tests of CCR's response maps."""

import copy
import functools

import numpy as np
import torch
from torch import nn

from wsss_fast import ccr, nets
from wsss_fast.ccr.padded_batch import PaddedBatch
from wsss_fast.data.transforms import normalise, resize_image
from wsss_fast.engine.runtime import resolve_runtime
from wsss_fast.stages.activate import Views

SCALES = (1.0, 0.5, 1.5)
TAGS = [[1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1]]
CPU = resolve_runtime("cpu", 0, 0, "fp32", prefer_bf16=False)


def classifier(classes=4, backbone="small"):
    """A copy: to initialise the weights takes longer than the forward passes of a test."""
    return copy.deepcopy(_classifier(classes, backbone))


@functools.cache
def _classifier(classes, backbone):
    torch.manual_seed(0)
    make = nets.cam_resnet38 if backbone == "resnet38" else nets.cam_resnet50
    net = make(classes, backbone=backbone).eval()
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        # Batch-norms that shift, so that zero padding differs from what is outside of an image.
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(0.3 * torch.randn(module.num_features, generator=generator))
            module.bias.data.copy_(0.3 * torch.randn(module.num_features, generator=generator))
    return net


class NotLocal(nn.Module):
    """Subtracts the mean over the image, so images of unequal sizes cannot share a pass."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 8, padding=1)

    def maps(self, images):
        features = self.conv(images)
        return (features - features.mean(dim=(2, 3), keepdim=True)).relu()


def photos(count, height=61, width=75):
    """Smooth random colours, uint8 [count, height, width, 3]."""
    generator = torch.Generator().manual_seed(2)
    coarse = torch.randn(count, 3, 6, 6, generator=generator)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    return (128 + 90 * smooth).clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def views_of(images, tags, scales):
    stack, size = [], images[0].shape[:2]
    for scale in scales:
        sides = [max(1, int(np.round(side * scale))) for side in size]
        resized = [resize_image(image, *sides) for image in images]
        batch = torch.from_numpy(np.stack([normalise(image) for image in resized]))
        stack.append(torch.cat([batch, batch.flip(-1)]))
    ids = tuple(str(i) for i in range(len(images)))
    return Views(ids, torch.tensor(tags, dtype=torch.float32), tuple(stack), size)


@torch.inference_mode()
def response_maps(net, images, tags, erasing, on_rounds=lambda rounds: None, **fields):
    """CCR's maps of images of one size."""
    recipe = ccr.Recipe(erasing=erasing, **fields)
    to_maps = ccr.views_to_maps(PaddedBatch(net), lambda i: images[int(i)], recipe, on_rounds)
    return to_maps(views_of(images, tags, erasing.scales))
