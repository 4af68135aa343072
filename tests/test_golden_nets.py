"""IRN's and DeepLabV2's networks, and every public checkpoint's names, against the public implementations' stored data."""

import pytest
import torch
from golden import filled, golden, needs_golden, public_keys, public_state
from torch.testing import assert_close

from wsss_fast import nets

pytestmark = needs_golden

NETWORKS = {
    "amn_resnet50_cam": lambda: nets.cam_resnet50(20), "amn_resnet50_amn": lambda: nets.amn_resnet50(20),
    "amn_coco14_resnet50_cam": lambda: nets.cam_resnet50(80), "amn_coco14_resnet50_amn": lambda: nets.amn_resnet50(80),
    "irn_resnet50_irn": nets.irn_resnet50, "deeplabv2_resnet101_msc_21": lambda: nets.deeplabv2_resnet101(20),
}


def stored(file, name):
    return torch.from_numpy(file[name])


@torch.inference_mode()
def test_irn_network():
    file, net = golden("irn_net"), filled(nets.irn_resnet50(), "irn_resnet50_irn")
    edge, displacement = net(stored(file, "img"))
    assert_close(edge, stored(file, "edge_out"), rtol=0, atol=1e-4)
    assert_close(displacement, stored(file, "dp_out"), rtol=0, atol=1e-4)
    assert net.mean_displacement.abs().min() > 0  # so that subtracting it was tested


@torch.inference_mode()
def test_deeplab_network():
    file, net = golden("deeplab_net"), filled(nets.deeplabv2_resnet101(20), "deeplabv2_resnet101_msc_21")
    images = stored(file, "input_scaled")
    assert_close(net(images), stored(file, "out_eval"), rtol=0, atol=1e-4)
    assert_close(net.aspp(net.backbone(images)), stored(file, "out_base"), rtol=0, atol=1e-4)
    names = ("train_out_1", "train_out_05", "train_out_075", "train_out_max")
    for ours, name in zip(net.train()(images), names, strict=True):
        assert_close(ours, stored(file, name), rtol=0, atol=1e-4, msg=name)


@torch.inference_mode()
def test_deeplab_sizes_and_normalisation():
    from wsss_fast.data.transforms import subtract_mean
    file = golden("deeplab_net")
    assert_close(torch.from_numpy(subtract_mean(file["img_u8"]))[None], stored(file, "img_bgr_meansub"), rtol=0, atol=2e-5)
    with torch.device("meta"):
        net = nets.deeplabv2_resnet101(20).train()
    for row in file["feature_sizes_in_1_05_075"].tolist():
        outputs = net(torch.zeros(1, 3, row[0], row[0], device="meta"))
        assert [x.shape[-1] for x in outputs] == [*row[1:], row[1]]


@pytest.mark.parametrize("name", NETWORKS)
def test_names_of_the_public_checkpoint_both_ways(name):
    state = public_state(name)
    net = nets.load_weights(NETWORKS[name](), {f"module.{k}": v for k, v in state.items()}, complete=True)
    back = nets.public_state_dict(net)
    entries = public_keys(name)["state_dict"]
    assert back.keys() == entries.keys()
    for key, entry in entries.items():
        assert list(back[key].shape) == entry["shape"] and back[key].dtype == getattr(torch, entry["dtype"]), key
        assert torch.equal(back[key], state[key]), key
