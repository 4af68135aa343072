"""Models for other programs: exported graphs and converted files compute what the network does."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from wsss_fast import InputError, RunError, cli, nets, seg
from wsss_fast.data.transforms import MEAN, STD, normalise, subtract_mean
from wsss_fast.deployment import SegmentationGraph, convert_model, writers
from wsss_fast.engine.runtime import resolve_runtime
from wsss_fast.nets.backbone import Backbone
from wsss_fast.nets.segmentation_heads import Aspp
from wsss_fast.prediction.opening import ModelOptions
from wsss_fast.seg.inference import predict

CLASSES = ("cat", "dog")
SIZES = ((1, 64, 64), (3, 41, 77), (2, 32, 130))


class Tiny(Backbone):
    """Stride 8 with one layer of each kind, since tracing takes time for every layer."""

    stride, out_channels, stage_channels, frozen_statistics = 8, 8, {"layer4": 8}, False

    def __init__(self, **_):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=4, padding=2),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True),
        )

    def forward(self, images):
        return self.layers(images)


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """Tiny in the place of the small backbone and of ResNet-101, which takes BGR images."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("small", "resnet101"):
            patch.setitem(nets.SEGMENTATION_BACKBONES, name, Tiny)
        yield


@pytest.fixture(scope="module")
def models(tiny, tmp_path_factory):
    """Model files of two networks, with clear predictions, by name."""
    found = {}
    for name, backbone, head, scales, recipe in (
        ("rgb", "small", "aspp", (0.5, 0.75), seg.RECIPES["small"]),
        ("bgr", "resnet101", "conv1x1", (0.5,), seg.PRESETS["deeplab-pytorch"].numbers),
    ):
        torch.manual_seed(len(name + backbone))
        recipe = dataclasses.replace(recipe, head=head, scales=scales, flip=False)
        info = nets.model_info("seg", CLASSES, recipe, backbone=backbone, head=head, scales=scales)
        net = info.build().eval()
        if name == "bgr":
            with torch.no_grad():  # inputs of up to 255
                net.conv1x1.fc.weight.mul_(0.03)
        path = tmp_path_factory.mktemp("models") / "model.safetensors"
        nets.save_model(net, path, info)
        found[name] = path
    return found


def photos(number, height, width):
    return np.random.default_rng(height).integers(0, 256, (number, height, width, 3), np.uint8)


def as_input(images):
    """The input that the documentation and the files describe, for photos uint8 [N, H, W, 3]."""
    scaled = (images / 255 - MEAN) / STD
    return torch.from_numpy(scaled.transpose(0, 3, 1, 2).astype(np.float32))


def wanted(path, images):
    """Probabilities of `seg infer` without CRF."""
    net, info = nets.load_model(path)
    runtime = resolve_runtime("cpu", 0, 0, "fp32", prefer_bf16=False)
    return predict(net, images, info.recipe_as(seg.Recipe), runtime, None)


def runners(path):
    """Functions of an exported file: from an input to probabilities; and what it says."""
    if path.suffix == ".pt2":
        texts = {"metadata.json": ""}
        module = torch.export.load(path, extra_files=texts).module()
        return module, json.loads(texts["metadata.json"])
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,), (found,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape, given.type) == (
        *("image", ["N", 3, "H", "W"]),
        "tensor(float)",
    )
    assert (found.name, found.shape) == ("probabilities", ["N", 3, "H", "W"])

    def run(image):
        return torch.from_numpy(session.run(None, {"image": image.numpy()})[0])

    return run, session.get_modelmeta().custom_metadata_map


@pytest.fixture(scope="module")
def traced(models):
    """The program of the network "bgr", which is traced once; tracing takes seconds."""
    net, info = nets.load_model(models["bgr"])
    return writers._traced(SegmentationGraph(net, info.recipe_as(seg.Recipe).augment.to_input))


@pytest.mark.parametrize(("to", "suffix"), [("onnx", "onnx"), ("torch-export", "pt2")])
def test_exported_file_predicts_what_the_network_does(
    models, traced, tmp_path, capfd, monkeypatch, to, suffix
):
    if to == "onnx":
        pytest.importorskip("onnxscript")
    monkeypatch.setattr(writers, "_traced", lambda graph: traced)
    out = tmp_path / f"net.{suffix}"
    code = cli.run(["convert", "model", str(models["bgr"]), str(out), "--to", to])
    err = capfd.readouterr().err
    assert code == 0, err
    assert re.search(r"probabilities differ from the network's by at most \d", err)
    assert "network seg, backbone resnet101, head conv1x1, scales 0.5, 2 classes" in err
    assert [p.name for p in tmp_path.iterdir()] == [out.name], "one file"
    run, texts = runners(out)
    assert json.loads(texts["classes"]) == ["background", *CLASSES]
    assert json.loads(texts["network"])["head"] == "conv1x1"
    assert json.loads(texts["mean"]) == MEAN.tolist() and "RGB / 255" in texts["input"]
    assert "H and W >= 32" in texts["input"]
    for number, height, width in SIZES:
        images = photos(number, height, width)
        expected = wanted(models["bgr"], images)
        assert expected.std() > 0.01  # not everywhere the same
        assert_close(run(as_input(images)), expected, rtol=0, atol=1e-4)


def test_exported_program_has_operators_of_torch_only(traced):
    kinds = {str(node.target) for node in traced.graph.nodes if node.op == "call_function"}
    assert kinds and not [kind for kind in kinds if "wsss" in kind]
    assert any("conv" in kind for kind in kinds)


def test_export_that_computes_something_else_is_not_written(models, traced, tmp_path, monkeypatch):
    net, info = nets.load_model(models["bgr"])
    with torch.no_grad():
        net.conv1x1.fc.bias.add_(torch.tensor([0.0, 0.0, 1.0]))
    monkeypatch.setattr(writers, "_traced", lambda graph: traced)
    with pytest.raises(RunError, match="net.pt2: not written: its probabilities differ from the"):
        writers.write_torch_export(
            SegmentationGraph(net, subtract_mean), tmp_path / "net.pt2", info
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["rgb", "bgr"])
def test_graph_is_seg_infer_without_crf(models, name):
    net, info = nets.load_model(models[name])
    recipe = info.recipe_as(seg.Recipe)
    assert recipe.augment.to_input is {"rgb": normalise, "bgr": subtract_mean}[name]
    assert not [m for m in SegmentationGraph(net, normalise).modules() if type(m) is Aspp]
    for aligned in (False, True):
        graph = SegmentationGraph(net, recipe.augment.to_input, aligned)
        images = photos(2, 33, 50)
        with torch.no_grad():
            found = graph(as_input(images))
        if not aligned:
            assert_close(found, wanted(models[name], images), rtol=0, atol=1e-5)
        else:
            logits = nn.functional.interpolate(
                net(torch.from_numpy(np.stack([recipe.augment.to_input(i) for i in images]))),
                (33, 50),
                mode="bilinear",
                align_corners=True,
            )
            assert_close(found, logits.softmax(1).detach(), rtol=0, atol=1e-5)


def test_public_names(models, tmp_path, monkeypatch):
    """What they are, `test_nets.py` compares with the public networks."""
    net, _ = nets.load_model(models["rgb"])
    first = net.state_dict()["aspp.bias"]
    seen = {}

    def public(given):
        seen.update(given.state_dict())
        return {"base.aspp.bias": first}

    monkeypatch.setattr(nets, "public_state_dict", public)
    out = convert_model(models["rgb"], tmp_path / "public.pth", to="public")
    assert_close(torch.load(out, weights_only=True), {"base.aspp.bias": first})
    assert_close(seen, dict(net.state_dict()), rtol=0, atol=0)


def test_model_file_of_plain_weights(models, tmp_path, capfd):
    net, info = nets.load_model(models["rgb"])
    plain, out = tmp_path / "plain.pth", tmp_path / "model.safetensors"
    nets.save_weights(net, plain)
    line = f"convert model {plain} {out} --to safetensors --backbone small --classes cat dog"
    assert cli.run(line.split()) == 0, capfd.readouterr().err
    again, found = nets.load_model(out)
    assert (found.network, found.classes, found.options["head"]) == ("seg", CLASSES, "aspp")
    assert_close(again.state_dict(), net.state_dict(), rtol=0, atol=0)
    assert capfd.readouterr().out.strip() == str(out)


def test_what_cannot_be_converted_is_refused_by_name(models, tmp_path, monkeypatch):
    model = models["rgb"]

    def refused(match, weights=model, out=tmp_path / "a.onnx", to="onnx"):
        before = sorted(tmp_path.iterdir())
        with pytest.raises(InputError, match=match):
            convert_model(weights, out, to=to)
        assert sorted(tmp_path.iterdir()) == before

    refused(r"out: .*a.pth must end in .onnx for --to onnx", out=tmp_path / "a.pth")
    (tmp_path / "folder.onnx").mkdir()
    refused("folder.onnx is a directory", out=tmp_path / "folder.onnx")
    copy = tmp_path / "model.safetensors"
    copy.write_bytes(model.read_bytes())
    refused("is the file to convert", copy, copy, "safetensors")
    refused("this DeepLabV2 has no public counterpart", out=tmp_path / "a.pth", to="public")
    refused("none.pth: no such weights file", tmp_path / "none.pth")
    (tmp_path / "page.pth").write_text("<html>")
    refused("it is a web page", tmp_path / "page.pth")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(model.read_bytes()[:5000])
    refused("cut.safetensors: truncated or damaged", cut)
    info = nets.model_info("eps", CLASSES, backbone="small")
    nets.save_model(info.build(), tmp_path / "eps.safetensors", info)
    refused("is of network 'eps'; --to onnx takes segmentation", tmp_path / "eps.safetensors")
    monkeypatch.setattr(writers.importlib.util, "find_spec", lambda name: None)
    refused("to onnx: needs onnx and onnxscript: pip install onnx onnxscript")
    with pytest.raises(InputError, match="to_input: is .*, which cannot be part of a graph"):
        SegmentationGraph(nets.load_model(model)[0], lambda image: image)


def test_model_file_needs_class_names(models, tmp_path):
    net, _ = nets.load_model(models["rgb"])
    plain, irn = tmp_path / "plain.pth", tmp_path / "irn.pth"
    nets.save_weights(net, plain)
    with pytest.raises(InputError, match="plain.pth: does not name its classes, which are part"):
        convert_model(
            plain,
            tmp_path / "m.safetensors",
            to="safetensors",
            model=ModelOptions(backbone="small"),
        )
    given = ModelOptions(backbone="small", classes=CLASSES)
    nets.save_weights(nets.irn_resnet50(backbone="small"), irn)
    out = convert_model(irn, tmp_path / "m.safetensors", to="safetensors", model=given)
    assert nets.read_info(out).network == "irn"
