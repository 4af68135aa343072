"""Fixtures that tests of several methods share."""

import pytest
import torch

from wsss_fast import nets


@pytest.fixture(scope="session")
def classifier_weights(shapes, tmp_path_factory):
    """Random weights of a small CAM classifier."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("classifier") / "weights.pth"
    nets.save_weights(nets.cam_resnet50(len(shapes.classes), backbone="small"), path)
    return path
