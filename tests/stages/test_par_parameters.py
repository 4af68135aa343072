"""PAR of the stages: reduced photos, strips, the range of the scores."""

import numpy as np
import pytest
import torch

from wsss_fast.stages import par as par_module
from wsss_fast.stages.par import Par

PHOTO = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (37, 21, 3), np.uint8))
SCORES = torch.rand(3, 37, 21, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["par", "pamr"])
def test_strips_change_nothing(monkeypatch, kind):
    par = Par(dilations=(1, 2), iterations=2)
    whole = par.apply(PHOTO, SCORES, kind)
    monkeypatch.setattr(par_module, "_STRIP", 21 * 12)
    torch.testing.assert_close(par.apply(PHOTO, SCORES, kind), whole, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["par", "pamr"])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_scores_keep_their_range(kind, scale):
    par = Par(dilations=(1, 3), iterations=4, scale=scale)
    constant = par.apply(PHOTO, torch.full((1, 37, 21), 0.3), kind)
    torch.testing.assert_close(constant, torch.full((1, 37, 21), 0.3), rtol=1e-5, atol=0)
    refined = par.apply(PHOTO, SCORES, kind)
    assert refined.shape == SCORES.shape
    assert SCORES.min() <= refined.min() and refined.max() <= SCORES.max()
    assert par.apply(PHOTO, SCORES[:0], kind).shape == (0, 37, 21)


def test_a_scale_reduces_photo_and_scores():
    par = Par(dilations=(1, 2), iterations=1, scale=0.5)

    def resized(maps, size):
        return torch.nn.functional.interpolate(maps[None], size, mode="bilinear")[0]

    photo = resized(PHOTO.permute(2, 0, 1).float(), (18, 10))
    small = Par(dilations=(1, 2), iterations=1).apply(
        photo.permute(1, 2, 0), resized(SCORES, (18, 10))
    )
    torch.testing.assert_close(par.apply(PHOTO, SCORES), resized(small, (37, 21)))
