"""The numbers of the AMN pipeline: by backbone, and as the published rows by name."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from wsss_fast import cam, irn, nets, seg
from wsss_fast.amn.recipe import RECIPES, Recipe
from wsss_fast.engine import ranges
from wsss_fast.engine.ranges import SHARE
from wsss_fast.pipeline import RefineOptions, seg_starts, seg_unsure
from wsss_fast.presets import Preset, Published, Row, Start
from wsss_fast.stages.crf import Crf

_VOC_SEG, _COCO_SEG = seg.PRESETS["advcam"], seg.PRESETS["rib-coco"]


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Hyper-parameters of all stages; the defaults are the published ones for VOC.

    Attributes:
        cam: recipe of the classifier.
        cam_threshold: background threshold at which the mIoU of CAM is reported, in addition to its
            best threshold, 0..1.
        cam_crf_threshold: background threshold before CRF refinement at which the mIoU of CAM after
            it is reported, in addition to its best threshold, 0..1.
        fg_threshold: foreground threshold of the seeds before CRF refinement: score above which a
            pixel is labelled with its class, 0..1.
        bg_threshold: background threshold of the seeds before CRF refinement: score up to which a
            pixel is background, 0..1; pixels between both thresholds are ignored.
        crf: dense CRF of the seeds.
        amn: recipe of the AMN.
        amn_threshold: background threshold at which the mIoU of AMN maps is reported, in addition
            to their best threshold, 0..1.
        refine: options of the refinement of AMN maps to pseudo-masks.
        seg: recipe of the segmentation network.
        seg_backbone: backbone of the segmentation network, a name of `nets.SEGMENTATION_BACKBONES`.
    """

    ranges: ClassVar = {
        **dict.fromkeys(
            ("cam_threshold", "cam_crf_threshold", "fg_threshold", "bg_threshold", "amn_threshold"),
            SHARE,
        ),
        "seg_backbone": tuple(nets.SEGMENTATION_BACKBONES),
    }

    # Files named here are in AMN's repository, branch voc12.
    cam: cam.Recipe = cam.RECIPES["resnet50"]  # run_sample.py: cam_*
    cam_threshold: float = 0.15  # scripts/generate_pseudo_mask.sh: cam_eval_thres
    cam_crf_threshold: float = 0.25  # of this package; nothing published depends on it
    fg_threshold: float = 0.30  # generate_pseudo_mask.sh, step 1: conf_fg_thres
    bg_threshold: float = 0.05  # generate_pseudo_mask.sh, step 1: conf_bg_thres
    crf: Crf = Crf()  # misc/imutils.py: crf_inference_label
    amn: Recipe = RECIPES["resnet50"]  # run_sample.py: amn_*, eps; step/train_amn.py
    amn_threshold: float = 0.25  # run_sample.py: cam_eval_thres
    refine: RefineOptions = RefineOptions(
        fg_threshold=0.45,  # generate_pseudo_mask.sh, step 2.2: conf_fg_thres
        bg_threshold=0.15,  # generate_pseudo_mask.sh, step 2.2: conf_bg_thres
        irn=dataclasses.replace(
            irn.RECIPES["resnet50"],  # run_sample.py: irn_*, beta, exp_times
            power=1.3,  # step/make_sem_seg_labels.py
            pad=512,  # net/resnet50_irn.py
            threshold=0.25,  # run_sample.py: sem_seg_bg_thres
        ),
    )
    seg: seg.Recipe = _VOC_SEG.numbers  # README: "default training settings of AdvCAM"
    seg_backbone: str = _VOC_SEG.backbone

    def check_together(self, name: str) -> None:
        """Raise InputError where the thresholds of the seeds overlap."""
        ranges.check_order(self, name, "bg_threshold", "fg_threshold")


# For 128-pixel images: the appearance kernel scales with the image, and tolerates more noise.
_SMALL_CRF = Crf(bilateral=(25.0, 13.0, 10.0))

PIPELINES = {
    "resnet50": Pipeline(),
    "small": Pipeline(
        cam=cam.RECIPES["small"],
        cam_threshold=0.42,
        cam_crf_threshold=0.30,
        fg_threshold=0.40,
        bg_threshold=0.12,
        crf=_SMALL_CRF,
        amn=RECIPES["small"],
        amn_threshold=0.56,
        refine=RefineOptions(
            kind="irn+crf",
            fg_threshold=0.55,
            bg_threshold=0.30,
            irn=irn.RECIPES["small"],
            crf=_SMALL_CRF,
            crf_threshold=0.50,
            irn_crf_threshold=0.30,
        ),
        seg=seg.RECIPES["small"],
        seg_backbone="small",
    ),
}

# Files named here are in AMN's repository, branch coco14.
_COCO_NUMBERS = Pipeline(
    cam_threshold=0.15,  # run_sample_coco.py: a line that is commented out; its default is 0.25
    fg_threshold=0.45,  # run_sample_coco.py: conf_fg_thres
    bg_threshold=0.15,  # run_sample_coco.py: conf_bg_thres
    amn_threshold=0.25,  # run_sample_coco.py: cam_eval_thres
    refine=RefineOptions(
        fg_threshold=0.45,  # run_sample_coco.py: conf_fg_thres
        bg_threshold=0.15,  # run_sample_coco.py: conf_bg_thres
        irn=dataclasses.replace(
            irn.RECIPES["resnet50"],  # run_sample_coco.py: irn_*, beta, exp_times
            power=1.3,  # run_sample_coco.py: sem_seg_power
            pad=1,  # step/make_sem_seg_labels_coco.py: coco=True, no padding
            threshold=0.22,  # run_sample_coco.py: sem_seg_bg_thres
        ),
    ),
    seg=_COCO_SEG.numbers,  # README names deeplab-pytorch; the code is RIB's
    seg_backbone=_COCO_SEG.backbone,
)

_RESNET50 = Start(
    "weights",
    "torchvision's ResNet-50 for ImageNet, resnet50-19c8e357.pth",
    "torchvision; named in irn's net/resnet50.py",
)
_UNREAD, _WIZWAND = "found in no source that was read", "wizwand, a secondary list"
_DROPOUT = "The public code leaves dropout on while it computes AMN's maps; here it is off."

_VOC_ROW = Row(
    layout="voc",
    split="trainaug",  # run_sample.py: train_list
    score_on="train",  # run_sample.py: infer_list, chainer_eval_set
    truth="SegmentationClass",  # step/eval_sem_seg.py: chainercv's VOC
    val_split="val",
    starts=(_RESNET50, *seg_starts("deeplab-pytorch", sure=False)),
    published=(
        Published("amn", 62.1, "AMN's maps, VOC train", _UNREAD, False),
        Published("masks", 72.2, "pseudo-masks after IRN, VOC train", "AMN's issue 2"),
        Published("seg on val", 70.7, "DeepLabV2 after CRF, VOC val", _WIZWAND, False),
        Published("seg on test", 70.6, "DeepLabV2 after CRF, VOC test", _WIZWAND, False),
    ),
    source="gaviotas/AMN, branch voc12: README, run_sample.py, scripts/generate_pseudo_mask.sh",
    unsure=(
        "The segmentation network's start: COCO by LPCAM's table; 69.5 on val and 69.6 on test are "
        "quoted for ImageNet.",
        "Users' pseudo-masks reached 71.74 (AMN's issue 2) and 70.7 (issue 8); the authors advise "
        "to repeat the run two or three times on one GPU.",
        _DROPOUT,
        *seg_unsure("advcam"),
    ),
)
_COCO_ROW = Row(
    layout="coco",
    split="train",  # coco14/train14.txt: 82,783 images, untagged ones included
    score_on="train",  # run_sample_coco.py: infer_list
    truth="coco_seg_anno",  # step/eval_amn_cam_coco.py
    val_split="val",
    starts=(_RESNET50, *seg_starts("rib-coco", sure=False)),
    published=(
        Published("amn", 40.3, "AMN's maps, COCO train", _UNREAD, False),
        Published("masks", 46.7, "pseudo-masks after IRN, COCO train", _UNREAD, False),
        Published("seg on val", 44.7, "DeepLabV2 after CRF, COCO val", _UNREAD, False),
    ),
    source="gaviotas/AMN, branch coco14: README, run_sample_coco.py",
    unsure=(
        "The thresholds of the seeds from CAM: the public defaults are 0.45 and 0.15, comments "
        "beside them say 0.35 and 0.15, and RIB, whose code this is, used 0.35 and 0.17; the "
        "defaults are used.",
        "The threshold at which CAM is reported: 0.25 by default, 0.15 in a line that is commented "
        "out; 0.15 is used.",
        "The recipe of the segmentation network: the README names deeplab-pytorch alone; rib-coco "
        "is used since the code comes from RIB, lpcam-coco is the one documented completely.",
        _DROPOUT,
        *seg_unsure("rib-coco"),
    ),
)

_VOC = Preset("resnet50", PIPELINES["resnet50"], _VOC_ROW)
_COCO = Preset("resnet50", _COCO_NUMBERS, _COCO_ROW)
PRESETS = {
    "amn-voc": _VOC,
    "amn-coco": _COCO,
    "shapes": Preset("small", PIPELINES["small"]),
    "voc": _VOC,
    "coco": _COCO,
}
