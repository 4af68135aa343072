"""Few images, a model file of each network, and a folder of new photos."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch
from predicting import NETWORKS

from wsss_fast.nets.model_file import model_info, save_model


@pytest.fixture(scope="session")
def few(shapes):
    """Four tagged images of 64x64, the third without any tag."""
    few = shapes.only(shapes.ids[:4])
    tags = few.tags.copy()
    tags[2] = 0
    return dataclasses.replace(few, tags=tags)


@pytest.fixture(scope="session")
def models(few, tmp_path_factory):
    """Folder with a model file of random weights for each network, whose masks have several labels.

    `plain/` has their weights alone.
    """
    folder = tmp_path_factory.mktemp("models")
    (folder / "plain").mkdir()
    for name, (make, recipe, options) in NETWORKS.items():
        torch.manual_seed(1)
        net = make(len(few.classes), backbone="small", **options)
        if name == "seg":  # else all pixels have the same label
            weight = torch.nn.init.normal_(net.aspp.weight, std=3.0).data
            weight -= weight.mean(dim=(2, 3, 4), keepdim=True)
        info = model_info(name, few.classes, recipe, backbone="small", **options)
        save_model(net, folder / f"{name}.safetensors", info)
        torch.save(net.state_dict(), folder / "plain" / f"{name}.pth")
    return folder


@pytest.fixture(scope="session")
def photos(few, tmp_path_factory):
    """Folder of the photos, and tags.csv beside it."""
    folder = tmp_path_factory.mktemp("new") / "photos"
    folder.mkdir()
    lines = ["file,class"]
    for id, tags in zip(few.ids, few.tags, strict=True):
        shutil.copy(few.images[id], folder)
        names = [few.classes[c] for c in np.flatnonzero(tags)]
        lines.append(f"{few.images[id].name},{';'.join(names)}")
    (folder.parent / "tags.csv").write_text("\n".join(lines) + "\n")
    return folder
