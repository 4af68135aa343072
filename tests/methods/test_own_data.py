"""Every preset and backbone from the command line on a folder with classes of its own.

The images have sides of one pixel, too. The large backbones are replaced by the small one, which
tests everything but them; `test_presets.py` runs the presets with their networks.
"""

import copy
import json

import numpy as np
import pytest
from layouts import make_folder
from PIL import Image

from wsss_fast import amn, ccr, cli, data, eps, nets
from wsss_fast.data import read_labels
from wsss_fast.nets.small import SmallResNet

THIN = ((1, 40), (40, 1), (1, 1), (2, 3))
CAM = "--pipeline.cam.batch-size 2 --pipeline.cam.augment.crop 32 --pipeline.cam.scales 1 0.5"
AMN = "--pipeline.amn.epochs 1 --pipeline.amn.batch-size 2 --pipeline.amn.augment.crop 32"
EPS = "--pipeline.eps.updates 1 --pipeline.eps.batch-size 2 --pipeline.eps.augment.crop 32"
CCR = "--pipeline.ccr.erasing.rounds 2 --pipeline.ccr.erasing.scales 1 0.5"
SEG = "updates 1", "batch-size 2", "accumulate 1", "augment.crop 33"
IRN = "epochs 1", "batch-size 2", "radius 3", "augment.crop 64", "pad 1", "steps 2"
IRN = " ".join(f"--pipeline.refine.irn.{word}" for word in IRN)
METHODS = {
    "amn": (amn, f"{CAM} {AMN} {IRN} " + " ".join(f"--pipeline.seg.{w}" for w in SEG)),
    "eps": (eps, f"{CAM} {EPS} " + " ".join(f"--pipeline.seg.{w}" for w in SEG)),
    "ccr": (ccr, f"{CAM} {CCR} {IRN} " + " ".join(f"--pipeline.seg.seg.{w}" for w in SEG)),
}
CASES = [
    (method, option, name)
    for method, (module, _) in METHODS.items()
    for option, names in (("preset", module.PRESETS), ("backbone", module.PIPELINES))
    for name in names
]


class Tiny(SmallResNet):
    """The small backbone in the place of a large one."""

    def forward(self, images, detach_after=None):
        return super().forward(images)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = make_folder(tmp_path_factory.mktemp("own") / "kitchen", size=(36, 48))
    with (root / "labels.csv").open("a") as rows:
        for n, size in enumerate(THIN):
            rows.write(f"photos/thin{n}.png,{('cup', 'dish')[n % 2]}\n")
            for folder, levels in (("photos", 200), ("saliency", 255), ("masks", 1 + n % 2)):
                shape = (*size, 3) if folder == "photos" else size
                picture = Image.fromarray(np.full(shape, levels, np.uint8))
                picture.save(root / folder / f"thin{n}.png")
    return root


@pytest.mark.parametrize(("method", "option", "name"), CASES)
def test_preset_or_backbone_runs_to_its_end(
    root, tmp_path, capfd, monkeypatch, method, option, name
):
    for table in (nets.BACKBONES, nets.SALIENCY_BACKBONES, nets.SEGMENTATION_BACKBONES):
        for backbone in list(table):
            monkeypatch.setitem(table, backbone, Tiny)
    small_irn = nets.irn_resnet50(backbone="small")  # its branches fit the backbone's stages
    monkeypatch.setattr(nets, "irn_resnet50", lambda *, backbone: copy.deepcopy(small_irn))
    module, numbers = METHODS[method]
    chosen = getattr(module, "PRESETS" if option == "preset" else "PIPELINES")[name]
    recipe = (chosen.numbers if option == "preset" else chosen).cam
    length = "epochs" if recipe.updates is None else "updates"
    long_side = " --pipeline.cam.augment.long-side 40 48" if recipe.augment.long_side else ""
    line = (
        f"{method} run --data {root} --out {tmp_path} --{option} {name} --precision fp32 "
        f"{numbers} --pipeline.cam.{length} 1{long_side}"
    )
    code = cli.run(line.split())
    output = capfd.readouterr()
    assert code == 0, output.err
    assert "seg on train" in output.out and (tmp_path / "report.html").is_file()
    own = data.load(root)
    assert own.classes == ("cup", "dish", "spoon")
    for id in own.ids:
        predicted = read_labels(tmp_path / "seg/predictions" / f"{id}.png", len(own.classes))
        assert predicted.shape == own.size(id)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["arguments"]["pipeline"]["cam"][length] == 1
