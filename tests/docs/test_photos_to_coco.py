"""The commands of the page "From photos to COCO", on thirty photos of ten kinds."""

import re
import shlex

import numpy as np
import pytest
from odd_photos import make_odd_photos
from pages import ROOT
from pycocotools.coco import COCO

from wsss_fast import cli
from wsss_fast.data import read_labels

# The trainings are cut to one update: the page is about the commands, not about the masks.
SHORT = (
    "--pipeline.cam.epochs 1 --pipeline.cam.batch-size 8 --pipeline.amn.epochs 1 "
    "--pipeline.refine.kind crf --pipeline.seg.updates 1 --pipeline.seg.batch-size 2 "
    "--pipeline.seg.accumulate 1"
)


def commands():
    page = (ROOT / "docs/photos_to_coco.md").read_text()
    block = page.split("<!-- commands -->")[1].split("<!-- end of commands -->")[0]
    return [line for line in block.splitlines() if line and not line.startswith("```")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    sizes = {name: labels.shape for name, labels in make_odd_photos(root, size=40).items()}
    (root / "new-photos").symlink_to(root / "photos")
    return root, sizes


def test_thirty_photos_become_coco_masks(folder, monkeypatch, capsys):
    root, sizes = folder
    monkeypatch.chdir(root)
    install, run, export, show, predict = commands()
    assert install.startswith("pip install torch==")
    for line in (run, export, predict):
        words = shlex.split(line)
        more = shlex.split(SHORT) if words[1:3] == ["amn", "run"] else []
        assert words[0] == "wsss-fast" and cli.run([*words[1:], *more]) == 0, line
    capsys.readouterr()
    exec(re.search('python -c "(.*)"', show)[1], {})
    coco = COCO("masks.json")
    assert capsys.readouterr().out.splitlines()[-1] != "0" or not coco.anns
    found = {image["file_name"]: (image["height"], image["width"]) for image in coco.imgs.values()}
    assert found == sizes and len(found) == 30
    assert [one["name"] for one in coco.cats.values()] == ["cup", "plate", "spoon"]
    for image in coco.imgs.values():
        shown = np.zeros((image["height"], image["width"]), np.uint8)
        for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
            shown[coco.annToMask(annotation) == 1] = annotation["category_id"]
        mask = read_labels(root / "run/masks" / f"{image['file_name'].rpartition('.')[0]}.png")
        np.testing.assert_array_equal(shown, mask)
    names = {name.rpartition(".")[0] for name in sizes}
    assert {path.stem for path in (root / "new-masks").glob("*.png")} == names
