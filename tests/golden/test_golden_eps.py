"""Against the stored outputs of EPS' public code; needs the reference data that is not part of this repository."""

import numpy as np
import pytest
import torch
from golden import golden, needs_golden

from wsss_fast.ops import saliency_loss

pytestmark = needs_golden


def stored(name):
    """Every (loss, input) of a file; some inputs serve several tau and lam."""
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
        # The public code keeps the background's channel last.
        tau, lam = (file[f"{case}/{key}"].item() for key in ("tau", "lam"))
        out = saliency_loss(cam.roll(1, 1), saliency, label, tau=round(tau, 6), lam=round(lam, 6))
        out.loss.backward()
        expected = [
            file[f"{case}/{key}"] for key in ("loss", "fg_map", "bg_map", "sal_pred", "grad")
        ]
        found = (
            out.loss,
            out.foreground,
            1 - out.background,
            out.estimate,
            cam.grad,
        )  # bg_map is what is not background
        for got, want in zip(found, expected, strict=True):
            np.testing.assert_allclose(
                got.detach().numpy(),
                want,
                rtol=1e-5,
                atol=2e-6 if want.ndim else 1e-7,
                err_msg=case,
            )
        seen += 1
    assert seen >= 4
