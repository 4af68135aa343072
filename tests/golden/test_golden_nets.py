"""Networks of IRN, DeepLabV2 and EPS, and names of all checkpoints, against the public code."""

import json

import pytest
import torch
from golden import GOLDEN, filled, golden, needs_full_golden, public_keys, public_state
from torch.testing import assert_close

from wsss_fast import nets
from wsss_fast.data.transforms import subtract_mean
from wsss_fast.nets.names import from_mxnet, from_public

NETWORKS = {
    "amn_resnet50_cam": lambda: nets.cam_resnet50(20),
    "amn_resnet50_amn": lambda: nets.amn_resnet50(20),
    "amn_coco14_resnet50_cam": lambda: nets.cam_resnet50(80),
    "amn_coco14_resnet50_amn": lambda: nets.amn_resnet50(80),
    "eps_resnet38_eps_21": lambda: nets.eps_resnet38(20),
    "eps_resnet38_eps_81": lambda: nets.eps_resnet38(80),
    "eps_resnet38_cls_20": lambda: nets.cam_resnet38(20),
    "ccr_resnet38_cls": lambda: nets.cam_resnet38(20),
    "irn_resnet50_irn": nets.irn_resnet50,
    "deeplabv2_resnet101_msc_21": lambda: nets.deeplabv2_resnet101(20),
}


def stored(file, name):
    return torch.from_numpy(file[name])


@needs_full_golden
@torch.inference_mode()
def test_irn_network():
    file, net = golden("irn_net"), filled(nets.irn_resnet50(), "irn_resnet50_irn")
    edge, displacement = net(stored(file, "img"))
    assert_close(edge, stored(file, "edge_out"), rtol=0, atol=1e-4)
    assert_close(displacement, stored(file, "dp_out"), rtol=0, atol=1e-4)
    assert net.mean_displacement.abs().min() > 0  # so that subtracting it was tested


@needs_full_golden
@torch.inference_mode()
def test_deeplab_network():
    file = golden("deeplab_net")
    net = filled(nets.deeplabv2_resnet101(20), "deeplabv2_resnet101_msc_21")
    images = stored(file, "input_scaled")
    assert_close(net(images), stored(file, "out_eval"), rtol=0, atol=1e-4)
    assert_close(net.aspp(net.backbone(images)), stored(file, "out_base"), rtol=0, atol=1e-4)
    names = ("train_out_1", "train_out_05", "train_out_075", "train_out_max")
    for ours, name in zip(net.train()(images), names, strict=True):
        assert_close(ours, stored(file, name), rtol=0, atol=1e-4, msg=name)


@needs_full_golden
@torch.inference_mode()
def test_eps_network_and_its_features():
    file, net = golden("eps_net"), filled(nets.eps_resnet38(20), "eps_resnet38_eps_21")
    seen = {}
    watched = {
        "conv4": net.backbone.stage5[0].bn1,
        "conv5": net.backbone.stage6[0].bn1,
        "conv6": net.backbone.bn,
    }
    for name, module in watched.items():
        module.register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: output.relu()})
        )
    scores, maps = net(stored(file, "img"))
    # The public code has the background last.
    assert_close(maps.roll(-1, 1), stored(file, "cam"), rtol=0, atol=1e-4)
    assert_close(scores, stored(file, "pred")[:, :-1], rtol=0, atol=1e-4)
    for name, features in seen.items():
        assert_close(
            features.mean(dim=(2, 3)), stored(file, f"{name}_mean"), rtol=0, atol=1e-4, msg=name
        )
    assert list(seen["conv6"].shape) == file["conv6_shape"].tolist()


@needs_full_golden
@torch.inference_mode()
def test_eps_network_of_coco():
    file, net = golden("eps_net_coco81"), filled(nets.eps_resnet38(80), "eps_resnet38_eps_81")
    scores, maps = net(stored(golden("eps_net"), "img")[:1])
    assert_close(maps.roll(-1, 1), stored(file, "cam"), rtol=0, atol=1e-4)
    assert_close(scores, stored(file, "pred")[:, :-1], rtol=0, atol=1e-4)


@needs_full_golden
@torch.inference_mode()
def test_eps_classifier():
    file, net = golden("eps_cls_net"), filled(nets.cam_resnet38(20), "eps_resnet38_cls_20")
    assert_close(net(stored(file, "img")), stored(file, "logit"), rtol=0, atol=1e-4)
    assert_close(net.maps(stored(file, "img")), stored(file, "forward_cam"), rtol=0, atol=1e-4)


def test_every_name_of_the_mxnet_file():
    """MXNet's names lead to the same parameters as the public PyTorch names that they stand for."""
    names = json.loads((GOLDEN / "keys/eps_mxnet_name_map.json").read_text())["map"]
    shapes = {k: v["shape"] for k, v in public_keys("eps_resnet38_eps_21")["canonical"].items()}
    arrays = {
        f"{'aux' if '_moving_' in mx else 'arg'}:{mx}": torch.zeros(shapes[public]) + i
        for i, (mx, (public,)) in enumerate(names.items())
    }
    public = {public: torch.zeros(shapes[public]) + i for i, (public,) in enumerate(names.values())}
    ours = from_mxnet({**arrays, "arg:linear1000_weight": torch.zeros(1)})
    expected = from_public(public)
    assert ours.keys() == expected.keys() and all(torch.equal(ours[k], expected[k]) for k in ours)
    with torch.device("meta"):
        backbone = nets.eps_resnet38(20).backbone.state_dict()
    assert {f"backbone.{k}" for k in backbone if not k.endswith("num_batches_tracked")} == set(ours)


@needs_full_golden
def test_deeplab_normalisation():
    file = golden("deeplab_net")
    ours = torch.from_numpy(subtract_mean(file["img_u8"]))[None]
    assert_close(ours, stored(file, "img_bgr_meansub"), rtol=0, atol=2e-5)


@torch.inference_mode()
def test_deeplab_sizes():
    file = golden("deeplab_net")
    with torch.device("meta"):
        net = nets.deeplabv2_resnet101(20).train()
    for row in file["feature_sizes_in_1_05_075"].tolist():
        outputs = net(torch.zeros(1, 3, row[0], row[0], device="meta"))
        assert [x.shape[-1] for x in outputs] == [*row[1:], row[1]]


@pytest.mark.parametrize("name", NETWORKS)
def test_names_of_the_public_checkpoint_both_ways(name):
    state = public_state(name)
    net = nets.load_weights(
        NETWORKS[name](), {f"module.{k}": v for k, v in state.items()}, complete=True
    )
    back = nets.public_state_dict(net)
    entries = public_keys(name)["state_dict"]
    assert back.keys() == entries.keys()
    for key, entry in entries.items():
        assert list(back[key].shape) == entry["shape"], key
        assert back[key].dtype == getattr(torch, entry["dtype"]), key
        assert torch.equal(back[key], state[key]), key
