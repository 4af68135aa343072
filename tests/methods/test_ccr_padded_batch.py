"""Images of unequal sizes in one forward pass."""

import numpy as np
import pytest
import torch
from ccr_inputs import CPU, SCALES, TAGS, NotLocal, classifier, photos, response_maps

from benchmarks import ccr_direct
from wsss_fast import nets
from wsss_fast.ccr.erasing import ErasingOptions
from wsss_fast.ccr.padded_batch import PaddedBatch
from wsss_fast.nets import inference


@pytest.fixture
def with_amx(monkeypatch):
    """Use the AMX convolution: its kernel, or its reference where there is none."""
    monkeypatch.setattr(inference, "is_profitable", lambda: True)


@pytest.mark.parametrize("optimized", ["no", "yes", "amx"])
@pytest.mark.parametrize("backbone", ["small", "resnet50", "resnet38"])
@torch.inference_mode()
def test_images_of_unequal_sizes_have_the_maps_of_each_alone(backbone, optimized, with_amx):
    net = classifier(backbone=backbone)
    if optimized != "no":
        net = nets.optimize_for_inference(net, CPU, amx=optimized == "amx")
    batch = PaddedBatch(net)
    # Padded layers of the optimized ResNet-38 begin with a batch-norm.
    assert batch.exact == (optimized != "yes" or backbone != "resnet38")
    if not batch.exact:
        return
    generator = torch.Generator().manual_seed(3)
    images = [
        torch.randn(n, 3, h, w, generator=generator)
        for n, h, w in ((2, 33, 50), (1, 48, 17), (2, 1, 9))
    ]
    copies = [image.clone() for image in images]
    for image, before, maps in zip(images, copies, batch(images), strict=True):
        alone = net.maps(before)
        torch.testing.assert_close(maps, alone, rtol=1e-4, atol=1e-4 * float(alone.max()))
        assert torch.equal(image, before)
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_network_that_is_not_local_is_not_exact_but_has_the_same_maps():
    torch.manual_seed(0)
    net, images = NotLocal().eval(), photos(3)
    assert not PaddedBatch(net).exact
    results = response_maps(net, images, TAGS[:3], ErasingOptions(scales=SCALES), batch_size=8)
    for image, tags, maps in zip(images, TAGS, results, strict=False):
        expected = ccr_direct.maps(net, image, np.array(tags), scales=SCALES)
        np.testing.assert_allclose(maps.high_res, expected, atol=1e-4)


def test_groups_have_every_image_once_and_at_most_the_limit():
    sizes = [(33, 40), (34, 41), (64, 64), (35, 47), (33, 65), (64, 64)]
    groups = PaddedBatch(classifier()).group(sizes, 2)
    assert sorted(i for group in groups for i in group) == list(range(6))
    assert max(map(len, groups)) == 2
    equal_only = PaddedBatch(NotLocal().eval()).group(sizes, 8)
    assert sorted(map(sorted, equal_only)) == [[0], [1], [2, 5], [3], [4]]
