"""Stages on a GPU: nothing in them waits for it, and they give what a CPU gives."""

import dataclasses

import numpy as np
import pytest
import torch

from wsss_fast import amn, cam, eps, irn, nets, seeds, seg
from wsss_fast.engine import stream
from wsss_fast.maps import load_maps
from wsss_fast.readers.label_maps import read_labels
from wsss_fast.stages.crf import Crf

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
COMMON = {"backbone": "small", "precision": "fp32"}


@pytest.fixture(scope="module")
def given(shapes, tmp_path_factory):
    """Weights of all networks, and the maps and seeds that a CPU computes."""
    out, classes = tmp_path_factory.mktemp("given"), len(shapes.classes)
    torch.manual_seed(0)
    networks = {
        "cam": nets.cam_resnet50(classes, backbone="small"),
        "amn": nets.amn_resnet50(classes, backbone="small"),
        "eps": nets.eps_resnet38(classes, backbone="small"),
        "irn": nets.irn_resnet50(backbone="small"),
        "seg": seg.network(shapes, "small", seg.RECIPES["small"]),
    }
    for name, net in networks.items():
        nets.save_weights(net, out / f"{name}.pth")
    cam.infer(shapes, out / "cam.pth", out, device="cpu", **COMMON)
    seeds.make(shapes, out / "cam/maps", out, crf=None)
    return out


def run(stage, shapes, given, out, device):
    """The folder of a stage's results."""
    options = {**COMMON, "device": device}
    if stage == "cam":
        return cam.infer(shapes, given / "cam.pth", out, **options).maps
    if stage == "amn":
        return amn.infer(shapes, given / "amn.pth", out, seeds=given / "seeds", **options).maps
    if stage == "eps":
        return eps.infer(shapes, given / "eps.pth", out, **options).maps
    if stage == "irn":
        recipe = dataclasses.replace(irn.RECIPES["small"], steps=8)
        maps = given / "cam/maps"
        return irn.infer(shapes, given / "irn.pth", out, maps=maps, recipe=recipe, **options).maps
    if stage == "seg":
        return seg.infer(shapes, given / "seg.pth", out, crf=False, **options).predictions
    crf = Crf(iterations=2) if stage == "seeds+crf" else None
    return seeds.make(shapes, given / "cam/maps", out, crf=crf, device=device).folder


@pytest.mark.parametrize("stage", ["cam", "amn", "eps", "irn", "seg", "seeds", "seeds+crf"])
def test_cuda_never_waits(stage, shapes, given, tmp_path, monkeypatch):
    run(stage, shapes, given, tmp_path / "first", "cuda")  # loads kernels
    run_stream = stream.run

    def strict(*args):
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            run_stream(*args)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(stream, "run", strict)
    found = run(stage, shapes, given, tmp_path / "strict", "cuda")
    monkeypatch.undo()
    expected = run(stage, shapes, given, tmp_path / "cpu", "cpu")
    for id in shapes.ids:
        if (found / f"{id}.png").exists():
            pair = (read_labels(folder / f"{id}.png") for folder in (found, expected))
            assert np.not_equal(*pair).mean() < 0.02
        else:
            one, other = (load_maps(folder, id) for folder in (found, expected))
            np.testing.assert_array_equal(one.keys, other.keys)
            for name in ("strided", "high_res"):
                # The network's convolutions use TF32.
                np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=0.05)
