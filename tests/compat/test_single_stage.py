"""A training script as single-stage projects write them runs when its imports are changed."""

import importlib
import sys
import types
from pathlib import Path

import pytest
import torch

from wsss_fast.compat.par import refine_cams_with_bkg_v2
from wsss_fast.ops import reference

SOURCES = Path(__file__).parent / "single_stage"
# Import lines of the script, and what they become.
CHANGES = {
    "from bilateralfilter import": "from wsss_fast.compat.bilateralfilter import",
    "from model.PAR import": "from wsss_fast.compat.par import",
    "from utils.camutils import": "from wsss_fast.compat.par import",
}
LOSSES = {
    "from utils.losses import DenseEnergyLoss, get_energy_loss, segmentation_loss": (
        "from utils.losses import segmentation_loss\n"
        "from wsss_fast.compat.regularised import DenseEnergyLoss, get_energy_loss"
    )
}


@pytest.fixture
def run_script(tmp_path, monkeypatch):
    """Run the script's `main` with some import lines changed, and modules that it finds."""

    def run(name, changes, modules=()):
        folder = tmp_path / name
        for source in SOURCES.rglob("*.py"):
            lines = source.read_text().splitlines()
            for old, new in changes.items():
                lines = [
                    new + line.removeprefix(old) if line.startswith(old) else line for line in lines
                ]
            target = folder / source.relative_to(SOURCES)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text("\n".join(lines) + "\n")
        for module in ("train", "utils", "utils.losses"):
            monkeypatch.delitem(sys.modules, module, raising=False)
        for module, members in dict(modules).items():
            found = types.ModuleType(module)
            vars(found).update(members)
            monkeypatch.setitem(sys.modules, module, found)
        monkeypatch.syspath_prepend(folder)
        return importlib.import_module("train").main()

    return run


def filter_by_reference(images, ins, outs, n, k, h, w, sigma_rgb, sigma_xy):
    image, values = (torch.from_numpy(a).view(n, -1, h, w) for a in (images, ins))
    found = reference.bilateral_filter(
        image, values.double(), sigma_rgb=sigma_rgb, sigma_xy=sigma_xy
    )
    outs[:] = found.float().flatten().numpy()


class ReferencePAR(torch.nn.Module):
    def __init__(self, dilations, num_iter):
        super().__init__()
        self.options = {"dilations": dilations, "iterations": num_iter, "kind": "par"}

    def forward(self, images, masks):
        return reference.pixel_adaptive_refine(images, masks, **self.options)


def test_training_with_changed_imports(run_script):
    # The unchanged script finds modules that compute by plain PyTorch.
    modules = {
        "bilateralfilter": {"bilateralfilter": None, "bilateralfilter_batch": filter_by_reference},
        "model.PAR": {"PAR": ReferencePAR},
        "model": {},
        "utils.camutils": {"refine_cams_with_bkg_v2": refine_cams_with_bkg_v2},
    }
    expected = run_script("unchanged", {}, modules)
    for name, changes in (("filter", CHANGES), ("losses", {**CHANGES, **LOSSES})):
        found = run_script(name, changes)
        for (loss, energy, label, grad), (loss_, energy_, label_, grad_) in zip(
            found, expected, strict=True
        ):
            assert loss == pytest.approx(loss_, rel=1e-4)
            assert energy == pytest.approx(energy_, rel=1e-4)
            assert torch.equal(label, label_)
            torch.testing.assert_close(grad, grad_, rtol=0, atol=1e-3 * grad_.abs().max().item())
        first, last = found[0], found[-1]
        assert last[0] < 0.8 * first[0] and last[1] < first[1] < 0  # total, energy
        assert {0, 255} < set(last[2].unique().tolist())
