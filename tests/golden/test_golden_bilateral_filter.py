"""bilateral_filter and its drop-in against outputs of the public module `bilateralfilter`."""

import numpy as np
import pytest
import torch
from golden import cases, golden

from wsss_fast.compat.bilateralfilter import bilateralfilter, bilateralfilter_batch
from wsss_fast.ops import BilateralLattice, bilateral_filter, reference

CASES = cases("bilateral_filter")


@pytest.fixture(scope="module")
def stored():
    return golden("bilateral_filter")


def assert_equal(ours, expected):
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


@pytest.mark.filterwarnings("ignore:.*levels are usually 0..255")  # one case spans 0..1
@pytest.mark.parametrize("case", CASES)
def test_equals_stored_results(stored, case):
    image, values, out = (stored[f"{case}/{name}"] for name in ("image", "values", "out"))
    sigma_rgb, sigma_xy = (float(stored[f"{case}/sigma_{name}"]) for name in ("rgb", "xy"))
    maps = torch.from_numpy(values).float()
    levels = torch.from_numpy(image).float()
    if levels.dim() == 3:
        levels, maps = levels[None], maps[None]
    found = [
        bilateral_filter(levels, maps, sigma_rgb=sigma_rgb, sigma_xy=sigma_xy),
        BilateralLattice(levels, sigma_xy, sigma_rgb).filter(maps),
        reference.bilateral_filter(levels, maps, sigma_rgb=sigma_rgb, sigma_xy=sigma_xy),
        bilateral_filter(levels, maps.double(), sigma_rgb=sigma_rgb, sigma_xy=sigma_xy),
    ]
    for ours in found:
        assert_equal(ours.reshape(out.shape).numpy(), out)

    batch, channels, height, width = maps.shape
    flat = np.zeros(out.size, np.float32)
    sizes = (height, width, sigma_rgb, sigma_xy)
    arrays = (image.reshape(-1), values.reshape(-1), flat)
    assert bilateralfilter_batch(*arrays, batch, channels, *sizes) is None
    assert_equal(flat.reshape(out.shape), out)
    if batch == 1:
        flat[:] = -1
        assert bilateralfilter(*arrays, *sizes) is None
        assert_equal(flat.reshape(out.shape), out)
