"""Settings and inputs that the tests of dense_crf share."""

import numpy as np
import pytest
import torch
from PIL import Image

from wsss_fast.ops import unary_from_labels

AMN = dict(gaussian=(3.0, 3.0), bilateral=(50.0, 5.0, 10.0))
EPS = dict(gaussian=(3.0, 3.0), bilateral=(80.0, 13.0, 10.0))
DEEPLAB = dict(gaussian=(1.0, 3.0), bilateral=(67.0, 3.0, 4.0))
SPATIAL = dict(gaussian=(3.0, 3.0), bilateral=None)
APPEARANCE = dict(gaussian=None, bilateral=(20.0, 8.0, 5.0))
GRAY = dict(gaussian=((2.0, 5.0), 3.0), bilateral=((30.0, 12.0), 9.0, 6.0))
BANDS = dict(
    gaussian=(3.0, 2.0), bilateral=((20.0, 30.0), (20.0, 9.0, 30.0, 15.0, 50.0, 12.0), 6.0)
)
MANY_BANDS = dict(
    gaussian=(3.0, 2.0),
    bilateral=((20.0, 30.0), (20.0, 19.0, 30.0, 15.0, 50.0, 22.0, 40.0, 35.0, 60.0), 6.0),
)
COLOR = dict(gaussian=((4.0, 2.0), 3.0), bilateral=((40.0, 25.0), (5.0, 12.0, 8.0), 10.0))
SETTINGS = {
    "amn": AMN,
    "eps": EPS,
    "deeplab": DEEPLAB,
    "spatial": SPATIAL,
    "appearance": APPEARANCE,
}


def photo(name, height, width):
    data = pytest.importorskip("skimage.data")
    try:
        original = Image.fromarray(getattr(data, name)())
    except Exception as error:  # some photos are downloaded on first use
        pytest.skip(f"{name}: {error}")
    return np.array(original.resize((width, height), Image.Resampling.LANCZOS))  # [H, W, 3]


def smooth_unary(kind, labels, height, width):
    low = torch.randn(1, labels, 9, 12, generator=torch.Generator().manual_seed(labels)) * 2
    scores = torch.nn.functional.interpolate(low, (height, width), mode="bicubic")
    if kind == "soft":
        return -torch.log_softmax(scores, 1)
    return unary_from_labels(scores.argmax(1), labels, gt_prob=0.7)
