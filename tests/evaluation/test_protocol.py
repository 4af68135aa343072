"""The protocol of a run: lists, start files, differences; in JSON, in the report, on the screen."""

import dataclasses
import json

import pytest
from brief import eps_pipeline
from layouts import make_folder, make_voc

from wsss_fast import InputError, amn, cli, data, eps
from wsss_fast.engine.files import write_json
from wsss_fast.engine.run_folder import read_protocol, read_records, record, record_protocol
from wsss_fast.evaluation import protocol_text, report
from wsss_fast.evaluation.protocol import Protocol
from wsss_fast.presets import Preset, Row, Start

ROW = Row(
    layout="voc",
    split="train",
    score_on="train",
    truth="SegmentationClassAug",
    val_split="val",
    starts=(
        Start("weights", "ImageNet's ResNet-38", "its authors"),
        Start("seg_weights", "COCO's ResNet-101", "a link", sure=False),
    ),
    source="somebody/EPS, README",
    unsure=("Which alpha.",),
)
COMMON = {"backbone": "small", "device": "cpu", "seed": 3, "workers": 0, "precision": "fp32"}


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    return make_voc(tmp_path_factory.mktemp("voc") / "VOC2012")


def card(voc, tmp_path, **changes):
    """A run of EPS on made-up VOC with one given start file, and with changed numbers."""
    (tmp_path / "start.pth").write_bytes(b"weights")
    preset = Preset("small", eps_pipeline(), ROW)
    arguments = {**COMMON, "weights": tmp_path / "start.pth", "seg_weights": None, "until": "seg"}
    arguments |= {"seg_preset": "advcam"}
    arguments |= {"pipeline": dataclasses.replace(preset.numbers, **changes)}
    val = data.load(voc, split="val")
    return Protocol.of("eps run", arguments, data.load(voc), val, "eps-voc", preset)


def facts(found):
    return protocol_text.facts(json.loads(json.dumps(found.as_json())))


def texts(pairs, name):
    return [text for own, text in pairs if own == name]


def test_card_names_lists_starts_and_what_computes(voc, tmp_path):
    pairs = facts(card(voc, tmp_path))
    assert texts(pairs, "data") == ["VOC2012, list train: 8 images"]
    assert texts(pairs, "scored") == ["list train: 8 images, true masks of SegmentationClass"]
    assert texts(pairs, "val data") == ["VOC2012, list val: 4 images"]
    (published,) = texts(pairs, "as published")
    assert published.startswith("no: ") and "1464" in published
    sha = "9a129038d9a00aed"  # sha256sum of "weights"
    (start,), (other,) = texts(pairs, "weights"), texts(pairs, "seg_weights")
    assert start == f"start.pth {sha}; row: ImageNet's ResNet-38, its authors"
    assert other == "no file; row: COCO's ResNet-101, a link (unsure)"
    assert texts(pairs, "preset") == ["eps-voc: somebody/EPS, README"]
    assert texts(pairs, "seg_preset") == ["advcam"]
    assert texts(pairs, "networks") == ["small, segmentation small"]
    assert texts(pairs, "unsure") == ["Which alpha."]
    # Only the folder of masks is another one.
    assert texts(pairs, "differs") == ["truth SegmentationClass (row SegmentationClassAug)"]
    assert texts(pairs, "CRF")[1].startswith("seg.crf: spatial 1 pixels (weight 3), appearance 25")
    assert "cam: 1 0.75 1.5" in texts(pairs, "scales")
    (computed,) = texts(pairs, "computed")
    assert computed.startswith("seed 3, 1 process, cpu, fp32, operators ")
    assert "torch " in texts(pairs, "versions")[0]


def test_each_number_that_differs_is_named_unless_it_is_not_used(voc, tmp_path):
    numbers = eps_pipeline()
    seg = dataclasses.replace(numbers.seg, updates=30_000, scales=(0.5,))
    pairs = facts(card(voc, tmp_path, seg=seg, pairs=("train/rails",)))
    differs = texts(pairs, "differs")
    assert "seg.updates 30,000 (row 2)" in differs and "seg.scales 0.5 (row 0.5 0.75)" in differs
    assert "pairs train/rails (row train/rails boat/water)" in differs
    cam = dataclasses.replace(numbers.cam, epochs=9)
    used = facts(card(voc, tmp_path, cam=cam))
    unused = facts(card(voc, tmp_path, cam=cam, baseline=False, crf=False))
    assert "cam.epochs 9 (row 1)" in texts(used, "differs")
    assert not any("cam." in text for text in texts(unused, "differs"))
    assert [text.partition(":")[0] for text in texts(unused, "CRF")] == ["seg.crf"]


def test_numbers_of_another_class_are_one_difference(voc, tmp_path):
    numbers = eps_pipeline()
    seg = dataclasses.replace(numbers.seg, optimizer=eps.RECIPES["resnet38"].optimizer)
    differs = texts(facts(card(voc, tmp_path, seg=seg)), "differs")
    (own,) = [text for text in differs if text.startswith("seg.optimizer")]
    assert own.startswith("seg.optimizer Sgd(weight_decay 0.0005,") and "(row AdamW(" in own


def test_numbers_of_the_later_stages_are_left_out_of_a_run_to_the_masks(voc):
    small = amn.PIPELINES["small"]
    seg = dataclasses.replace(small.seg, updates=1)
    given = dataclasses.replace(small, seg=seg)
    arguments = {**COMMON, "weights": None, "seg_weights": None, "pipeline": given}
    preset = Preset("small", small, ROW)
    found = {
        until: Protocol.of(
            "amn run", {**arguments, "until": until}, data.load(voc), None, "a", preset
        )
        for until in ("masks", "seg")
    }
    names = {until: [d.name for d in one.differences] for until, one in found.items()}
    assert names == {"masks": ["truth"], "seg": ["truth", "val_split", "seg.updates"]}
    assert [s.argument for s in found["masks"].starts] == ["weights"]
    assert "seg.crf" in found["seg"].crf and "seg.crf" not in found["masks"].crf


def test_records_keep_the_protocol(tmp_path):
    record_protocol(tmp_path, {"seed": 1})
    record(tmp_path, "cam", {"miou": 0.5})
    assert read_protocol(tmp_path) == {"seed": 1} and read_records(tmp_path) == {
        "cam": {"miou": 0.5}
    }
    record_protocol(tmp_path, None)
    assert read_protocol(tmp_path) is None and list(read_records(tmp_path)) == ["cam"]


def test_refused_call_leaves_the_protocol_of_the_run(shapes, tmp_path):
    numbers = dataclasses.replace(eps_pipeline(), baseline=False, crf=False)
    shapes = shapes.only(shapes.ids[:8])
    eps.run(shapes, tmp_path, backbone="small", pipeline=numbers, until="masks")
    before = (tmp_path / "metrics.json").read_text()
    assert read_protocol(tmp_path)["seed"] == 0
    with pytest.raises(InputError, match="seed"):
        eps.run(shapes, tmp_path, backbone="small", pipeline=numbers, until="masks", seed=1)
    assert (tmp_path / "metrics.json").read_text() == before
    page = (tmp_path / "report.html").read_text()
    assert page.index("<h2>Protocol</h2>") < page.index("<h2>Stages</h2>")
    assert protocol_text.screen(tmp_path)[0] == "protocol"


def test_values_of_the_user_are_escaped(voc, tmp_path):
    odd = dataclasses.replace(data.load(voc), name="<b>\n[red]\udce9")
    found = Protocol.of(
        "amn run",
        {**COMMON, "weights": None, "pipeline": amn.PIPELINES["small"]},
        odd,
    )
    record_protocol(tmp_path, found.as_json())
    panels, own = {"image": report.photo(odd)}, data.load(voc)
    page = report.write(tmp_path, own, panels, title="t", curves={}, ids=[]).read_text()
    assert r"&lt;b&gt;\n[red]\udce9, list train" in page and "<b>" not in page
    lines = protocol_text.screen(tmp_path)
    assert r"<b>\n[red]\udce9, list train: 8 images" in " ".join(lines)
    assert not any("\n" in line for line in lines)
    write_json(tmp_path / "metrics.json", {"protocol": {"seed": "x"}, "stages": []})
    with pytest.raises(InputError, match="metrics.json: its protocol"):
        protocol_text.screen(tmp_path)


def test_eval_says_what_was_scored(tmp_path, capfd):
    root = make_folder(tmp_path / "kitchen")
    out = tmp_path / "out"
    line = f"eval --data {root} --predictions {root / 'masks'} --ignored background --out {out}"
    assert cli.run(line.split()) == 0
    printed = " ".join(capfd.readouterr().out.split())
    assert " data kitchen, list train: 4 images scored list train: 3 images, true" in printed
    assert "predicted 255 counts as background" in printed
    stored = json.loads((out / "evaluation.json").read_text())["protocol"]
    assert stored["ignored"] == "background" and stored["data"]["truth"] == "masks"
    assert (stored["data"]["images"], stored["data"]["scored"]) == (4, 3)
