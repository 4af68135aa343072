"""Labels are resized as by Pillow, saliency maps as by PyTorch's nearest, in all backends alike."""

import random

import numpy as np
import pytest
import torch
from op_testing import each_device
from PIL import Image

from wsss_fast.ops import aamr_loss, pixel_bce, pixel_cross_entropy, reference, saliency_loss
from wsss_fast.ops.reference.nearest import nearest, resized

# A cell's centre falls on the boundary of two pixels in each of these.
ON_BOUNDARIES = [(2, 6), (8, 6), (96, 9), (128, 8), (96, 72), (448, 336), (500, 375), (512, 384)]
EVERY_SMALL = [(old, new) for old in range(1, 41) for new in range(1, 41)]


def some_pairs(count):
    draw = random.Random(0)
    return [(draw.randint(1, 512), draw.randint(1, 512)) for _ in range(count)]


@pytest.mark.parametrize(
    "pairs", [ON_BOUNDARIES, EVERY_SMALL, some_pairs(600)], ids=["boundaries", "small", "random"]
)
def test_nearest_is_pillows(pairs):
    for old, new in pairs:
        labels = np.arange(old, dtype=np.int32)[None]
        expected = np.asarray(Image.fromarray(labels).resize((new, 1), Image.Resampling.NEAREST))
        np.testing.assert_array_equal(nearest(torch.from_numpy(labels), 1, new), expected)
        column = torch.from_numpy(labels.T.copy())
        np.testing.assert_array_equal(nearest(column, new, 1), expected.T)


@each_device
@pytest.mark.parametrize("op", [pixel_cross_entropy, pixel_bce])
def test_the_kernels_read_the_same_labels(op, device):
    generator = torch.Generator().manual_seed(0)
    for old, new in [*ON_BOUNDARIES, *EVERY_SMALL[::37], *some_pairs(20)]:
        labels = torch.randint(0, 3, (1, old, 3), generator=generator, dtype=torch.uint8)
        logits = torch.randn(1, 3, new, 2, generator=generator).to(device)
        for y, z in ((labels, logits), (labels.mT, logits.mT)):
            small = nearest(y, *z.shape[2:])
            assert torch.equal(op(z, y.to(device)), op(z, small.to(device))), (old, new)


@each_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saliency_is_resized_as_by_torch(dtype, device):
    generator = torch.Generator().manual_seed(0)
    for old, new in [*ON_BOUNDARIES, *EVERY_SMALL[::37], *some_pairs(20)]:
        saliency = torch.rand(1, 1, 3, old, generator=generator)
        small = torch.nn.functional.interpolate(saliency, (2, new), mode="nearest")
        logits = torch.randn(1, 3, 2, new, generator=generator, dtype=dtype).to(device)
        assert torch.equal(resized(saliency, logits.cpu()), small[:, 0].to(dtype))
        saliency, small, present = (t.to(device) for t in (saliency, small, torch.ones(1, 2)))
        for loss in (
            lambda s, z=logits, p=present: saliency_loss(z, s, p).loss,
            lambda s, z=logits: aamr_loss(z, s, s),
            lambda s, z=logits: reference.aamr_loss(z, s, s),
        ):
            assert torch.equal(loss(saliency), loss(small)), (old, new)
