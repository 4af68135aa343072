"""Fixtures that tests of several methods share."""

import pytest
import torch

from wsss_fast import nets
from wsss_fast.data import write_labels


@pytest.fixture(scope="session")
def true_masks(shapes, tmp_path_factory):
    """Folder of pseudo-masks that are the true masks."""
    folder = tmp_path_factory.mktemp("masks")
    for id in shapes.ids:
        write_labels(folder / f"{id}.png", shapes.mask(id))
    return folder


@pytest.fixture(scope="session")
def classifier_weights(shapes, tmp_path_factory):
    """Random weights of a small CAM classifier."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("classifier") / "weights.pth"
    nets.save_weights(nets.cam_resnet50(len(shapes.classes), backbone="small"), path)
    return path
