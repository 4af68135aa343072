"""Ids, names and weights that would leave the run folder, break a page, or run code."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import make_coco, make_folder, make_voc

from wsss_fast import InputError, cli, data
from wsss_fast.cli import output
from wsss_fast.data import write_labels
from wsss_fast.engine.files import write_json
from wsss_fast.evaluation import report

ROOT = Path(__file__).resolve().parents[2]
WRONG_IDS = (
    "../../escaped",
    "..",
    ".",
    "/tmp/escaped",
    "a/../../b",
    "x\ny",
    "x\ry",
    "x\x1b[2Jy",
    "x\0y",
    "..\\y",
    ".hidden",
    "",
)


def files(folder):
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("id", WRONG_IDS)
def test_ids_that_leave_the_run_folder_or_break_a_line_raise(tmp_path, id):
    voc, folder, coco = (
        make(tmp_path / name)
        for make, name in ((make_voc, "voc"), (make_folder, "folder"), (make_coco, "coco"))
    )
    before = files(tmp_path)
    for root in (voc, folder, coco):
        with pytest.raises(InputError) as caught:
            data.load(root, ids=[id])
        assert len(str(caught.value).splitlines()) == 1
    (voc / "ImageSets/Segmentation/odd.txt").write_bytes(f"{id}\n".encode())
    if id:  # an empty line is skipped
        with pytest.raises(InputError):
            data.load(voc, split="odd")
    cell = id.replace('"', '""')
    row = f"photos/{id},cup\n" if id in ("..", ".") else f'"{cell}.png",cup\n'
    (folder / "labels.csv").write_text(row, newline="")
    with pytest.raises(InputError):
        data.load(folder)
    instances = coco / "annotations/instances_train2014.json"
    content = json.loads(instances.read_text())
    content["images"][0]["file_name"] = f"{id}.jpg"
    instances.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"instances_train2014\.json"):
        data.load(coco)
    assert {name for name in files(tmp_path) if not name.endswith("odd.txt")} == before


@pytest.mark.parametrize(("key", "name"), [("images", "file_name"), ("categories", "name")])
def test_lone_surrogates_in_a_json_file_raise(tmp_path, key, name):
    coco = make_coco(tmp_path / "coco")
    instances = coco / "annotations/instances_train2014.json"
    content = json.loads(instances.read_text())
    content[key][0][name] = "a\ud800.jpg"
    instances.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"instances_train2014\.json"):
        data.load(coco)


@pytest.fixture
def odd_set(shapes, tmp_path):
    """Root, ids and classes of a folder whose names have markup and other scripts."""
    root = tmp_path / "odd"
    root.mkdir()
    ids = ["<img src=x onerror=alert(1)>", "a'b\"c", "Zürich 東京", "[red]bold[", "$a_{b$"]
    classes = ["<script>alert(2)", "[/bold]", "$\\frac$", "猫", "a&b"]
    rows = ["file,class\n"]
    for n, (id, source) in enumerate(zip(ids, shapes.ids, strict=False)):
        shutil.copy(shapes.images[source], root / f"{id}.jpg")
        write_labels(root / "masks" / f"{id}.png", np.full(shapes.size(source), n + 1))
        cell = f"{id}.jpg".replace('"', '""')
        rows.append(f'"{cell}",{classes[n]}\n')
    (root / "labels.csv").write_text("".join(rows), encoding="utf-8")
    (root / "classes.txt").write_text("".join(f"{c}\n" for c in classes), encoding="utf-8")
    return root, ids, classes


def test_report_escapes_names(odd_set, tmp_path, capfd):
    root, ids, classes = odd_set
    odd = data.load(root)
    record = {
        "stage": "<b>cam",
        "miou": 0.5,
        "iou": dict.fromkeys(("background", *classes), 0.5),
        "confusion_ratios": {"[/bold]/a&b": 1.0},
    }
    write_json(tmp_path / "metrics.json", {"stages": [record]})
    panels = {"<i>photo": report.photo(odd)}
    page = report.write(tmp_path, odd, panels, title="<script>t", curves={}).read_text("utf-8")
    body = page.partition("<body>")[2]
    for tag in ("<script", "<img src=x", "<b>cam", "<i>photo"):
        assert tag not in body
    for text in ("&lt;script&gt;alert(2)", "&lt;img src=x onerror=alert(1)&gt;", "猫"):
        assert text in body
    assert body.count("<img ") == len(ids) and "alt='&lt;i&gt;photo of a&#x27;b&quot;c'" in body
    output.OUTPUT.print(report.text_table(tmp_path))  # square brackets are no markup
    assert "[/bold]/a&b" in capfd.readouterr().out


def test_class_names_of_any_kind_are_scored_and_drawn(odd_set, tmp_path, capfd):
    root, _, classes = odd_set
    argv = ["eval", "--data", root, "--predictions", root / "masks", "--out", tmp_path / "out"]
    code = cli.run([*map(str, argv), "--pairs", f"{classes[2]}/{classes[4]}"])
    output = capfd.readouterr()
    assert code == 0, output.err
    assert all(name in output.out for name in classes)
    assert (tmp_path / "out/evaluation.png").is_file()


@pytest.mark.parametrize(
    "settings",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"},
    ],
)
def test_terminal_that_cannot_show_a_name(odd_set, tmp_path, settings):
    root, _, _ = odd_set
    ids = tmp_path / "ids.txt"
    ids.write_text("[red]bold[\n")  # in an ASCII locale, files of other names cannot be opened
    argv = ["eval", "--data", root, "--predictions", root / "masks", "--ids", ids]
    done = subprocess.run(
        [sys.executable, "-m", "wsss_fast", *map(str, argv)],
        capture_output=True,
        check=False,
        cwd=ROOT,
        env=os.environ | settings,
    )
    assert done.returncode == 0, done.stderr
    assert b"mIoU" in done.stdout and (b"\\u732b" in done.stdout or "猫".encode() in done.stdout)


def test_files_whose_names_are_not_text(shapes, tmp_path, capfd):
    """`crf` takes whatever is in its folders."""
    name, photos, labels = os.fsdecode(b"caf\xe9"), tmp_path / "photos", tmp_path / "labels"
    photos.mkdir()
    shutil.copy(shapes.images[shapes.ids[0]], photos / f"{name}.jpg")
    write_labels(labels / f"{name}.png", shapes.mask(shapes.ids[0]))
    code = cli.run(f"crf {photos} {labels} -o {tmp_path / 'out'} --unsure 255".split())
    assert code == 0, capfd.readouterr().err
    assert [p.name for p in (tmp_path / "out").iterdir()] == [f"{name}.png"]


class MakesFolder:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "content",
    [
        lambda bad: bad,
        lambda bad: {"backbone.conv1.weight": bad},
        lambda bad: {"state_dict": {"x": torch.zeros(1)}, "epoch": bad},
    ],
)
@pytest.mark.parametrize("old_format", [False, True])
def test_weights_are_never_unpickled(shapes_root, tmp_path, capfd, content, old_format):
    folder, weights, out = tmp_path / "was-run", tmp_path / "w.pth", tmp_path / "run"
    torch.save(content(MakesFolder(folder)), weights, _use_new_zipfile_serialization=not old_format)
    line = f"cam infer --data {shapes_root} --out {out} --backbone small --weights {weights}"
    code, err = cli.run(line.split()), capfd.readouterr().err
    assert code == 2 and "w.pth: not a file of weights only" in err.strip().splitlines()[-1]
    assert "Traceback" not in err and not folder.exists() and not out.exists()
