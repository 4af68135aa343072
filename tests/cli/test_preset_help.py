"""Presets on the command line: what `--help` says of them, `--seg-preset`, wrong start files."""

import dataclasses
import json
import re

import pytest
import torch
from layouts import make_voc

from wsss_fast import InputError, amn, ccr, cli, eps, irn, nets, seg
from wsss_fast.cli.arguments import parse
from wsss_fast.cli.catalog import COMMANDS
from wsss_fast.engine.serialize import jsonable

METHODS = {"amn run": amn, "eps run": eps, "ccr run": ccr, "irn run": irn}
ROWS = [
    (command, name)
    for command, module in METHODS.items()
    for name, preset in module.PRESETS.items()
    if preset.row is not None and name not in ("voc", "coco")
]


def shown(capfd, command, *words):
    """The help of a command with single spaces."""
    assert cli.run([*command.split(), *words, "--help"]) == 0
    return " ".join(capfd.readouterr().out.split())


@pytest.mark.parametrize(("command", "name"), [*ROWS, ("seg train", "advcam")])
def test_the_help_of_a_preset_says_how_the_result_was_made(capfd, command, name):
    presets = seg.PRESETS if command == "seg train" else METHODS[command].PRESETS
    preset, row = presets[name], presets[name].row
    text = shown(capfd, command, "--preset", name)
    text = text.partition("options")[0]
    assert f"Preset {name} (backbone {preset.backbone})" in text and row.source in text
    assert f"trained on {row.split};" in text and f"scored on {row.score_on} " in text
    assert row.val_split is None or f"predicts {row.val_split} " in text
    assert f"true masks: {row.truth} " in text
    for start in row.starts:
        option = f"--{start.argument.replace('_', '-')}"
        sure = "" if start.sure else ", unsure"
        assert f"{option}: {start.what} ({start.where}){sure}" in text
    for one in row.published:
        sure = "" if one.sure else ", unsure"
        assert f"published: {one.value:g} {one.what} ({one.source}){sure}" in text
    assert row.unsure and all(f"unsure: {sentence}" in text for sentence in row.unsure)
    others = set(presets) - {name, "shapes", "voc", "coco"}
    assert not any(f"- {other}: " in text and command != "seg train" for other in others)


@pytest.mark.parametrize("command", METHODS)
def test_without_a_preset_the_help_lists_all(capfd, command):
    assert cli.run([*command.split(), "--help"]) == 0
    text, _, others = capfd.readouterr().out.partition("Values of --seg-preset")
    presets = METHODS[command].PRESETS
    for name, preset in presets.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"- {name}: ")]
        known = next(first for first, one in presets.items() if one is preset)
        assert (f"the same as {known}" in line) == (known != name)
        for one in preset.row.published if preset.row and known == name else ():
            assert not one.sure or f"{one.value:g} {one.what}" in line
    listed = [line[2:].partition(":")[0] for line in others.splitlines() if line[:2] == "- "]
    assert listed == ([] if command == "irn run" else list(seg.PRESETS))


def test_the_help_says_what_another_segmentation_recipe_changes(capfd):
    text = shown(capfd, "ccr run", "--preset", "ccr-voc", "--seg-preset", "resnet38-seam")
    text, _, options = text.partition("options")
    row = seg.PRESETS["resnet38-seam"].row
    assert f"--seg-weights: {row.starts[0].what}" in text
    assert "deeplabv1_resnet101-coco.pth" not in text and "published: 70.8" not in text
    assert row.source in text and row.unsure[0] in text
    assert "--pipeline.seg-backbone STR" in options and "(default: resnet38)" in options


WHERE = ["--data", "x", "--out", "y"]
UPDATES = ["--pipeline.seg.updates", "7"]
NUMBERS = [*WHERE, "--preset", "amn-voc", "--seg-preset", "rib-coco", *UPDATES]


def test_numbers_of_the_command_line_override_the_segmentation_recipe():
    arguments = parse(COMMANDS["amn run"], NUMBERS)
    preset, found = amn.PRESETS["amn-voc"].numbers, arguments["pipeline"]
    wanted = dataclasses.replace(seg.PRESETS["rib-coco"].numbers, updates=7)
    assert found == dataclasses.replace(preset, seg=wanted) and found.seg_backbone == "resnet101"
    found = parse(COMMANDS["ccr run"], [*WHERE, "--seg_preset=resnet38-mctformer"])["pipeline"]
    assert found.seg == ccr.Refinement(seg=seg.PRESETS["resnet38-mctformer"].numbers, weight=0.5)
    assert found.seg_backbone == "resnet38"
    words = [*WHERE, "--preset", "eps-voc", "--seg-preset", "advcam", *UPDATES]
    assert parse(COMMANDS["eps run"], words)["pipeline"].seg.updates == 7


def test_a_file_keeps_the_names_and_the_numbers(tmp_path):
    arguments, path = parse(COMMANDS["amn run"], NUMBERS), tmp_path / "config.json"
    path.write_text(json.dumps(jsonable(arguments)))
    again = parse(COMMANDS["amn run"], ["--config", str(path)])
    assert again == arguments and again["seg_preset"] == "rib-coco"
    with pytest.raises(InputError, match=r"--seg-preset: the file given by --config already sets"):
        parse(COMMANDS["amn run"], ["--config", str(path), "--seg-preset", "advcam"])
    part = tmp_path / "part.yaml"
    part.write_text("{data: x, out: y, seg_preset: advcam, pipeline: {seg: {updates: 9}}}")
    found = parse(COMMANDS["eps run"], ["--config", str(part)])["pipeline"]
    assert found.seg == dataclasses.replace(seg.PRESETS["advcam"].numbers, updates=9)


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    """A folder in VOC's layout, and weights of a small network."""
    root = tmp_path_factory.mktemp("voc")
    torch.manual_seed(0)
    nets.save_weights(nets.cam_resnet50(20, backbone="small"), root / "small.pth")
    return make_voc(root / "VOC2012", more=True)


WRONG = {
    "amn --weights SMALL": (
        r"weights: .*small\.pth: these weights do not fit .*; row amn-voc starts from "
        r"torchvision's ResNet-50 .*resnet50-19c8e357\.pth \(torchvision"
    ),
    "amn --weights nowhere.pth": r"weights: nowhere\.pth: no such .*; row amn-voc starts from tor",
    "eps --weights SMALL": r"weights: .* do not fit .*; row eps-voc .*cls1000_ep-0001\.params",
    "ccr --irn-weights SMALL": r"irn_weights: .* do not fit .*; row ccr-voc .*ResNet-50",
    "amn --seg-weights nowhere.pth": (
        r"seg_weights: nowhere\.pth: no such weights file; row amn-voc starts from .*-coco\.pth"
    ),
    "eps --seg-preset resnet38-seam --seg-weights SMALL": (
        r"seg_weights: .* do not fit .*; row eps-voc with resnet38-seam starts .*-0001\.params"
    ),
    "amn --seg-preset avdcam": r"amn run: seg_preset is 'avdcam'; must be one of deeplab-pytorch",
    "amn --backbone small": r"preset 'amn-voc' is for backbone 'resnet50', got 'small'",
    "amn --seg-preset advcam --pipeline.seg-backbone vgg16": (
        r"amn run: seg_preset 'advcam' is for seg_backbone 'resnet101', but .* has 'vgg16'"
    ),
    "amn --pipeline.seg-backbone vgg61": r"seg-backbone: got 'vgg61', must be one of resnet101",
    "amn --pipeline.seg.head seam": r"head",
}


@pytest.mark.parametrize("line", WRONG)
def test_what_a_row_cannot_start_from_ends_in_one_line(voc, tmp_path, capfd, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    method, *words = line.replace("SMALL", str(voc.parent / "small.pth")).split()
    where = ["--data", str(voc), "--split", "train", "--val-split", "val"]
    where += ["--truth", "SegmentationClass", "--out", str(tmp_path / "out")]
    code = cli.run([method, "run", "--preset", f"{method}-voc", *where, *words])
    output = capfd.readouterr()
    assert code == 2 and re.search(WRONG[line], output.err), output.err
    assert len(output.err.splitlines()) == 1 and not output.out
    assert not any(tmp_path.iterdir())


def test_a_list_with_missing_images_says_which_and_how_many(voc, tmp_path, capfd):
    listed = tmp_path / "aug.txt"
    listed.write_text("2007_000032\n2012_000001\n2007_000039\n2012_000002\n")
    words = ["--preset", "amn-voc", "--data", str(voc), "--ids", str(listed)]
    code = cli.run(["amn", "run", *words, "--out", str(tmp_path / "out")])
    error = capfd.readouterr().err.splitlines()[-1]
    assert code == 2 and f"{listed}, line 2: id '2012_000001' has no image" in error
    assert error.endswith("; 2 of the 4 listed are missing") and not (tmp_path / "out").exists()
