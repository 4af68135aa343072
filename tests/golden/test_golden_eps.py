"""EPS' saliency loss against outputs of the public code."""

import numpy as np
import pytest
import torch
from golden import FULL, golden

from wsss_fast.ops import saliency_loss


def stored(name):
    """Yield (file, prefix of outputs, prefix of inputs); some inputs serve several tau and lam."""
    file = golden(name)
    for key in file.files:
        if key.endswith("/loss"):
            case = key.removesuffix("/loss")
            yield file, case, case if f"{case}/cam" in file.files else case.rpartition("/")[0]


@pytest.mark.parametrize("name", ["eps_loss", "eps_loss_edge", "eps_loss_sizes"])
def test_saliency_loss(name):
    seen = 0
    for file, case, source in stored(name):
        cam, saliency, label = (
            torch.from_numpy(file[f"{source}/{key}"]) for key in ("cam", "saliency", "label")
        )
        cam.requires_grad_()
        tau, lam = (file[f"{case}/{key}"].item() for key in ("tau", "lam"))
        # The public code has the background's channel last.
        out = saliency_loss(cam.roll(1, 1), saliency, label, tau=round(tau, 6), lam=round(lam, 6))
        out.loss.backward()
        expected = [
            file[f"{case}/{key}"] for key in ("loss", "fg_map", "bg_map", "sal_pred", "grad")
        ]
        # The public bg_map is the complement of the background's map.
        found = (out.loss, out.foreground, 1 - out.background, out.estimate, cam.grad)
        for got, want in zip(found, expected, strict=True):
            np.testing.assert_allclose(
                got.detach().numpy(),
                want,
                rtol=1e-5,
                atol=2e-6 if want.ndim else 1e-7,
                err_msg=case,
            )
        seen += 1
    assert seen >= (4 if FULL else 1)
