"""The numbers of the EPS pipeline: by backbone, and as the published rows by name."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from wsss_fast import cam, nets, seg
from wsss_fast.engine.ranges import SHARE
from wsss_fast.eps.alpha_crf import AlphaCrf
from wsss_fast.eps.recipe import COCO, RECIPES, Recipe
from wsss_fast.pipeline import seg_starts, seg_unsure
from wsss_fast.presets import Preset, Published, Row, Start

_SEG = seg.PRESETS["deeplab-pytorch"]
# The dense CRF of the comparison "EPS + dCRF", EPS' issue 5.
_COMPARED_CRF = AlphaCrf(gaussian=(1.0, 3.0), bilateral=(67.0, 3.0, 4.0))


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Hyper-parameters of all stages; the defaults are the published ones for VOC.

    Attributes:
        baseline: whether the paper's baseline, a classifier without saliency, is trained, too. Its
            maps show the gain of EPS and reveal inverted saliency maps; it takes as long as EPS.
        cam: recipe of the baseline.
        cam_threshold: background threshold at which the mIoU of the baseline's maps is reported, in
            addition to their best threshold, 0..1.
        eps: recipe of EPS; its `threshold` gives the pseudo-masks.
        crf: whether a dense CRF refines the pseudo-masks; the published ones are not refined.
        pairs: pairs "target/coincident" of class names whose confusion ratio is recorded where true
            masks exist, for maps at `eps.threshold` and for pseudo-masks; see `confusion_ratios`.
        seg: recipe of the segmentation network.
        seg_backbone: backbone of the segmentation network, a name of `nets.SEGMENTATION_BACKBONES`.
    """

    ranges: ClassVar = {
        "cam_threshold": SHARE,
        "seg_backbone": tuple(nets.SEGMENTATION_BACKBONES),
    }

    # Files named here are in EPS' repository.
    baseline: bool = True  # script/voc12_cls.sh
    cam: cam.Recipe = cam.RECIPES["resnet38"]  # script/voc12_cls.sh
    cam_threshold: float = 0.20  # script/voc12_cls.sh: thr
    # script/voc12_eps.sh (tau, max_iters, batch_size, crop_size, thr), main.py (lam, lr, resize)
    eps: Recipe = dataclasses.replace(RECIPES["resnet38"], crf=_COMPARED_CRF)
    crf: bool = False  # issue 5: masks for training have none
    pairs: tuple[str, ...] = ()
    seg: seg.Recipe = _SEG.numbers  # README; issue 10: voc12.yaml
    seg_backbone: str = _SEG.backbone

    def unused(self) -> tuple[str, ...]:
        """Numbers that a run does not use."""
        baseline = () if self.baseline else ("cam", "cam_threshold")
        return baseline if self.crf else (*baseline, "eps.crf")


PIPELINES = {
    "resnet38": Pipeline(),
    "small": Pipeline(
        cam=cam.RECIPES["small"],
        cam_threshold=0.42,
        eps=RECIPES["small"],
        crf=True,
        pairs=("train/rails", "boat/water"),
        seg=seg.RECIPES["small"],
        seg_backbone="small",
    ),
}

_COCO_NUMBERS = Pipeline(
    # script/coco_eps.sh: max_iters, batch_size, lam, crop_size, resize_size, thr
    eps=dataclasses.replace(COCO, crf=_COMPARED_CRF),
    cam=dataclasses.replace(  # script/coco_cls.sh
        cam.RECIPES["resnet38"],
        updates=COCO.updates,
        batch_size=COCO.batch_size,
        augment=COCO.augment,
    ),
)

_RESNET38 = Start(
    "weights",
    "ResNet-38 A1 for ImageNet, ilsvrc-cls_rna-a1_cls1000_ep-0001.params",
    "itijyou/ademxapp; linked in psa's README",
)
_RERUN = "EPS' README and logs; a re-run of the repository, not the paper's network"
_WIZWAND = "wizwand, a secondary list"
_GYGUO = "gyguo/awesome-weakly-supervised-semantic-segmentation-image, a secondary list"
_ALPHA = "The exponent alpha of the dense CRF in the comparison with a CRF; 4 is used."

_VOC_ROW = Row(
    layout="voc",
    split="trainaug",  # script/voc12_eps.sh: train_list
    score_on="train",  # script/voc12_eps.sh: INFER_DATA
    truth="SegmentationClassAug",  # script/voc12_eps.sh: GT_ROOT
    val_split="val",
    starts=(_RESNET38, *seg_starts("deeplab-pytorch")),
    published=(
        Published("cam masks", 47.05, "pseudo-masks of the classifier, VOC train", _RERUN),
        Published("masks", 69.22, "pseudo-masks, VOC train", _RERUN),
        Published(
            "seg on val",
            70.5,
            "DeepLabV2 after CRF (68.2 before) on masks of 69.3, VOC val",
            "a reproduction, EPS' issue 10",
        ),
        Published("seg on val", 70.9, "DeepLabV2 after CRF, VOC val", _WIZWAND, False),
        Published("seg on test", 70.8, "DeepLabV2 after CRF, VOC test", _WIZWAND, False),
        Published("segv1 on val", 71.0, "DeepLabV1 after CRF, VOC val", _WIZWAND, False),
        Published("segv1 on test", 71.8, "DeepLabV1 after CRF, VOC test", _WIZWAND, False),
        Published(
            "eps+crf",
            71.6,
            "pseudo-masks after a dense CRF, compared only, VOC train",
            _WIZWAND,
            False,
        ),
    ),
    source="halbielee/EPS: README, script/voc12_eps.sh, issues 4, 5, 6 and 10; PFAN's saliency "
    "maps, linked in the README",
    unsure=(
        "The best published scores, 71.0 and 71.8, are those of a DeepLabV1 derived from "
        "deeplab-pytorch's DeepLabV2 (EPS' issues 4 and 6); this preset trains DeepLabV2.",
        "The segmentation network's start: OAA's ResNet-101, of MS-COCO by OAA's issue 9; that of "
        "deeplab-pytorch is used, as in EPS' issue 10.",
        _ALPHA,
        *seg_unsure("deeplab-pytorch"),
    ),
)
_COCO_ROW = Row(
    layout="coco",
    split="train-annotated",  # metadata/coco/train.txt: 82,081 images
    score_on="train-annotated",  # script/coco_eps.sh: INFER_DATA
    truth="SegmentationClass",  # script/coco_eps.sh: GT_ROOT
    val_split="val-annotated",  # 40,137 images
    starts=(_RESNET38, *seg_starts("lpcam-coco", sure=False)),
    published=(
        Published("cam masks", 31.23, "pseudo-masks of the classifier, COCO train", _RERUN),
        Published("masks", 37.15, "pseudo-masks, COCO train", f"{_RERUN}; EPS' issue 15"),
        Published(
            "seg on val-annotated",
            35.7,
            "segmentation network, COCO val",
            _GYGUO,
            False,
        ),
    ),
    source="halbielee/EPS: README, script/coco_eps.sh, issue 15",
    unsure=(
        "The backbone of the segmentation network is contested: DeepLabV2 on ResNet-101 by one "
        "list, VGG16 by another report; ResNet-101 is used.",
        "Its recipe for COCO is not published: the README names deeplab-pytorch, whose 20,000 "
        "updates for VOC are used; --seg-preset rib-coco and lpcam-coco train 100,000.",
        "Its initial weights are not published; they should be ImageNet's, since those of MS-COCO "
        "were trained on true masks of the same images.",
        _ALPHA,
        *seg_unsure("deeplab-pytorch"),
    ),
)

_VOC = Preset("resnet38", PIPELINES["resnet38"], _VOC_ROW)
_COCO = Preset("resnet38", _COCO_NUMBERS, _COCO_ROW)
PRESETS = {
    "eps-voc": _VOC,
    "eps-coco": _COCO,
    "shapes": Preset("small", PIPELINES["small"]),
    "voc": _VOC,
    "coco": _COCO,
}
