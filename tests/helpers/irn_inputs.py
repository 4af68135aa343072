"""Inputs of IRN's stages, from true masks."""

import numpy as np
import torch

from wsss_fast import irn, nets
from wsss_fast.maps import ClassMaps, save_maps
from wsss_fast.readers.label_maps import write_labels


def write_inputs(shapes, out):
    """Write seeds/ (the true masks), maps/ (brighter towards the right), cam.pth."""
    for id in shapes.ids:
        mask = shapes.mask(id)
        write_labels(out / "seeds" / f"{id}.png", mask)
        keys = np.flatnonzero(shapes.tags_of(id)) + 1
        slope = np.linspace(0.2, 1, mask.shape[1], dtype=np.float32)
        background = np.full(mask.shape, 0.5)
        scores = np.stack([background, *((mask == k) * slope for k in keys)])
        save_maps(out / "maps", id, ClassMaps(np.array([0, *keys]), scores[:, ::4, ::4]))
    torch.manual_seed(0)
    nets.save_weights(nets.cam_resnet50(len(shapes.classes), backbone="small"), out / "cam.pth")


def train(data, inputs, out, recipe, **options):
    return irn.train(
        data,
        out,
        seeds=inputs / "seeds",
        backbone="small",
        weights=inputs / "cam.pth",
        recipe=recipe,
        precision="fp32",
        **options,
    )
