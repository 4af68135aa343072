"""ResNet-38 with EPS' and a classifier's head, and MXNet's weight files; without golden data."""

import struct

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from wsss_fast import InputError, nets
from wsss_fast.readers.mxnet import read_params

TYPES = {"float32": 0, "float64": 1, "float16": 2, "uint8": 3, "int32": 4, "int8": 5, "int64": 6}


def params(arrays, version=2):
    """The bytes of an MXNet file, written from its format's description."""
    out = bytearray(struct.pack("<QQQ", 0x112, 0, len(arrays)))
    for array in arrays.values():
        if version == 2:
            out += struct.pack("<Ii", 0xF993FAC9, 0)
        elif version == 1:
            out += struct.pack("<I", 0xF993FAC8)
        out += struct.pack(f"<I{array.ndim}{'q' if version else 'I'}", array.ndim, *array.shape)
        out += struct.pack("<iii", 1, 0, TYPES[array.dtype.name]) + array.tobytes()
    out += struct.pack("<Q", len(arrays))
    for name in arrays:
        out += struct.pack("<Q", len(name)) + name.encode()
    return bytes(out)


SOME = {
    "arg:conv1a_weight": np.arange(6, dtype=np.float32).reshape(1, 2, 3),
    "aux:bn7_moving_mean": np.ones(4, np.float16),
}


@pytest.mark.parametrize("version", [0, 1, 2])
@pytest.mark.parametrize("dtype", TYPES)
def test_every_version_and_type(tmp_path, version, dtype):
    arrays = {
        "a": (np.arange(24) - (8 if dtype[0] in "if" else 0)).astype(dtype).reshape(2, 3, 4),
        "b": np.zeros(0, dtype),
    }
    (tmp_path / "w.params").write_bytes(params(arrays, version))
    read = read_params(tmp_path / "w.params")
    assert list(read) == ["a", "b"]
    for name, array in arrays.items():
        assert read[name].dtype == torch.from_numpy(array).dtype
        np.testing.assert_array_equal(read[name].numpy(), array)


@pytest.mark.parametrize("version", [0, 2])
def test_every_truncation_is_an_input_error(tmp_path, version):
    whole, path = params(SOME, version), tmp_path / "short.params"
    for length in range(8, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"short\.params: .*truncated"):
            read_params(path)


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (16, 2**63, "truncated or damaged"),  # number of arrays
        (24, 0xFFFFFFFF, "4294967295 dimensions"),
        (24, 33, "33 dimensions"),
        (24, 0, "0 dimensions"),
        (28, 0xFFFFFFFF, "truncated or damaged"),  # a dimension
        (48, 99, "type 99"),
    ],
)
def test_sizes_claimed_by_a_malicious_file_allocate_no_memory(tmp_path, at, value, message):
    data, path = bytearray(params(SOME, 0)), tmp_path / "malicious.params"
    struct.pack_into("<Q" if at == 16 else "<I", data, at, value)
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_params(path)


def test_other_damage(tmp_path):
    path = tmp_path / "w.params"
    sparse = bytearray(params(SOME))
    struct.pack_into("<i", sparse, 28, 1)
    negative = bytearray(params(SOME))
    struct.pack_into("<q", negative, 36, -1)
    empty = bytearray(params({"a": np.zeros((2, 3), np.float32)}))
    struct.pack_into("<qq", empty, 36, 0, 2**62)
    for data, message in (
        (sparse, "storage type 1"),
        (negative, "shape"),
        (empty, "shape"),
        (params(SOME) + b"x", "1 bytes after"),
        (params(SOME)[:-1] + b"\xff", "not text"),
        (bytes(24), "does not start as an MXNet"),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=message):
            read_params(path)
    path.write_bytes(
        params({"a": np.ones(1, np.float32), "b": np.ones(1, np.float32)}).replace(b"b", b"a")
    )
    with pytest.raises(InputError, match="more than once"):
        read_params(path)


@pytest.fixture(scope="module")
def mxnet_arrays():
    """ImageNet's ResNet-38 as in an MXNet file, with random numbers, and as in EPS' network."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {
            k: v.shape
            for k, v in nets.eps_resnet38(3).backbone.state_dict().items()
            if "num_batches" not in k
        }
    kinds = {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_var",
    }
    arrays, expected = {"arg:linear1000_bias": np.zeros(1000, np.float32)}, {}
    for key, shape in shapes.items():
        module, _, kind = key.rpartition(".")
        value = torch.rand(shape, generator=generator)
        if module in ("conv1", "bn"):
            name = {"conv1": "conv1a", "bn": "bn7"}[module]
        else:
            stage, unit, part = module.split(".")
            place = f"{stage[-1]}{'a' if unit == '0' else f'b{unit}'}"
            branch = "1" if part == "shortcut" else {"1": "2a", "2": "2b1", "3": "2b2"}[part[-1]]
            name = f"{'bn' if part.startswith('bn') else 'res'}{place}_branch{branch}"
        kind = "weight" if value.ndim == 4 else kinds[kind]
        arrays[f"{'aux' if kind.startswith('moving') else 'arg'}:{name}_{kind}"] = value.numpy()
        expected[f"backbone.{key}"] = value
    return arrays, expected


def test_a_network_is_initialised_from_an_mxnet_file(tmp_path, mxnet_arrays):
    arrays, expected = mxnet_arrays
    (tmp_path / "resnet38.params").write_bytes(params(arrays, 0))
    for make in (nets.eps_resnet38, nets.cam_resnet38):
        net = make(3)
        head = net.state_dict()[head_of(net)].clone()
        state = nets.load_weights(net, tmp_path / "resnet38.params").state_dict()
        assert all(torch.equal(state[k], v) for k, v in expected.items())
        assert torch.equal(state[head_of(net)], head)
        with pytest.raises(InputError, match=rf"missing: {head_of(net)}"):
            nets.load_weights(make(3), tmp_path / "resnet38.params", complete=True)
    with pytest.raises(InputError, match="do not fit CamNet"):
        nets.load_weights(nets.cam_resnet50(3, backbone="small"), tmp_path / "resnet38.params")


def head_of(net):
    return "map_head.weight" if isinstance(net, nets.EpsNet) else "head.weight"


@torch.inference_mode()
@pytest.mark.parametrize(("height", "width"), [(64, 48), (61, 47)])
@pytest.mark.parametrize("backbone", ["resnet38", "small"])
def test_eps_at_stride_8(backbone, height, width):
    net = nets.eps_resnet38(4, backbone=backbone).eval()
    scores, maps = net(torch.randn(2, 3, height, width))
    assert maps.shape == (2, 5, -(-height // 8), -(-width // 8)) and (maps < 0).any()  # no ReLU
    assert_close(scores, maps[:, 1:].mean(dim=(2, 3)))


def test_the_background_gets_no_gradient_from_the_scores():
    net = nets.eps_resnet38(4, backbone="small")
    net(torch.randn(2, 3, 32, 32))[0].sum().backward()
    assert (net.map_head.weight.grad[0] == 0).all() and (net.map_head.weight.grad[1:] != 0).any()


def test_frozen_parameters():
    with torch.device("meta"):
        net = nets.eps_resnet38(20).train()
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    frozen = ("backbone.conv1", "backbone.stage2")
    assert len(trained) == 36 and not any(
        "bn" in name or name.startswith(frozen) for name in trained
    )
    assert not net.backbone.bn.training and net.backbone.stage7[0].dropout.training
    assert net.backbone.stage7[0].dropout.p == 0.5 and net.backbone.stage6[0].dropout.p == 0.3
    assert sum(p.numel() for p in net.backbone.parameters()) == 105_070_912


def test_the_classifier_drops_features_in_training_only():
    with torch.device("meta"):
        assert nets.cam_resnet38(4).dropout.p == 0.5
        assert nets.cam_resnet38(4, backbone="small").dropout.p == 0
    net = nets.CamNet(nets.eps_resnet38(2, backbone="small").backbone.eval(), 4, dropout=0.5).eval()
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(net(images), net(images))
    net.dropout.train()
    assert not torch.equal(net(images), net(images))


def test_eps_head_of_a_public_file_has_the_background_last():
    net = nets.eps_resnet38(2)
    public = nets.public_state_dict(net)
    assert torch.equal(public["fc8.weight"][-1], net.map_head.weight[0])
    other = nets.load_weights(
        nets.eps_resnet38(2), {f"module.{k}": v for k, v in public.items()}, complete=True
    )
    assert torch.equal(other.map_head.weight, net.map_head.weight)
    with pytest.raises(
        InputError, match=r"wrong shape: head\.weight is \(3, 4096, 1, 1\), needs \(5"
    ):
        nets.load_weights(nets.cam_resnet38(5), public)
    # A classifier's backbone can initialise an EPS network, but is not complete.
    with pytest.raises(InputError, match=r"missing: map_head\.weight"):
        nets.load_weights(
            nets.eps_resnet38(2), nets.public_state_dict(nets.cam_resnet38(2)), complete=True
        )


def test_backbones_are_checked():
    with pytest.raises(
        InputError, match="backbone: got 'resnet50', must be one of resnet38, small"
    ):
        nets.eps_resnet38(4, backbone="resnet50")
