"""The numbers of the CCR pipeline: by backbone, and as the published row by name."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from wsss_fast import cam, irn, nets, seg
from wsss_fast.ccr.recipe import RECIPES, REFINEMENTS, Recipe, Refinement
from wsss_fast.engine.ranges import SHARE
from wsss_fast.pipeline import RefineOptions, seg_starts, seg_unsure
from wsss_fast.presets import Preset, Published, Row, Start
from wsss_fast.stages.crf import Crf

_SEG = seg.PRESETS["deeplab-pytorch"]


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """Hyper-parameters of all stages; the defaults are published for VOC, except IRN for PSA.

    Attributes:
        cam: recipe of the classifier's maps, and of its training if no weights are given.
        cam_threshold: background threshold at which the mIoU of CAM is reported, in addition to its
            best threshold, 0..1.
        cam_crf_threshold: background threshold before CRF refinement at which the mIoU of CAM after
            it is reported, in addition to its best threshold, 0..1.
        ccr: recipe of the response maps.
        ccr_threshold: background threshold at which the mIoU of the response maps is reported, in
            addition to their best threshold, 0..1.
        refine: options of the refinement of response maps to pseudo-masks.
        seg: recipe of the segmentation network and of its saliency loss.
        seg_backbone: backbone of the segmentation network, a name of `nets.SEGMENTATION_BACKBONES`.
    """

    ranges: ClassVar = {
        **dict.fromkeys(("cam_threshold", "cam_crf_threshold", "ccr_threshold"), SHARE),
        "seg_backbone": tuple(nets.SEGMENTATION_BACKBONES),
    }

    # Files named here are in CCR's repository, InferCam.
    cam: cam.Recipe = cam.RECIPES["resnet38"]
    cam_threshold: float = 0.20  # infer_cam.py: bg_score
    cam_crf_threshold: float = 0.25  # of this package; nothing published depends on it
    ccr: Recipe = RECIPES["resnet38"]  # infer_cam.py, split_img.py
    ccr_threshold: float = 0.20  # infer_cam.py: bg_score
    refine: RefineOptions = RefineOptions(  # AMN's numbers for IRN
        fg_threshold=0.45,
        bg_threshold=0.15,
        irn=dataclasses.replace(irn.RECIPES["resnet50"], power=1.3, pad=512, threshold=0.25),
    )
    # README of the paper's code names DeepLabV2 alone; the loss is a reconstruction.
    seg: Refinement = Refinement(seg=_SEG.numbers, weight=0.5)
    seg_backbone: str = _SEG.backbone


PIPELINES = {
    "resnet38": Pipeline(),
    "resnet50": Pipeline(cam=cam.RECIPES["resnet50"], ccr=RECIPES["resnet50"]),
    "small": Pipeline(
        cam=cam.RECIPES["small"],
        cam_threshold=0.42,
        cam_crf_threshold=0.30,
        ccr=RECIPES["small"],
        ccr_threshold=0.74,
        refine=RefineOptions(
            kind="irn+crf",
            fg_threshold=0.80,
            bg_threshold=0.50,
            irn=irn.RECIPES["small"],
            crf=Crf(bilateral=(25.0, 13.0, 10.0)),  # for 128-pixel images
            crf_threshold=0.62,
            irn_crf_threshold=0.30,
        ),
        seg=REFINEMENTS["small"],
        seg_backbone="small",
    ),
}

_LIST = "paperswithcode, a secondary list"
_ROW = Row(
    layout="voc",
    split="trainaug",
    score_on="train",  # infer_cam.py: infer_list
    truth="SegmentationClass",
    val_split="val",
    starts=(
        Start("weights", "PSA's ResNet-38 classifier of VOC", "psa's README, InferCam's readme"),
        Start(
            "irn_weights",
            "torchvision's ResNet-50 for ImageNet, resnet50-19c8e357.pth",
            "torchvision; named in irn's net/resnet50.py",
            False,
        ),
        *seg_starts("deeplab-pytorch", sure=False),
    ),
    published=(
        Published("seg on val", 70.8, "DeepLabV2 after CRF, VOC val", _LIST, False),
        Published("seg on test", 71.8, "DeepLabV2 after CRF, VOC test", _LIST, False),
    ),
    source="weixuansun/InferCam: readme, infer_cam.py, split_img.py",
    unsure=(
        "PSA's random walk refined the maps; IRN takes its place here, with the seeds, the power "
        "and the thresholds of AMN.",
        "The length, the learning rate and the start of the segmentation training are not "
        "published; deeplab-pytorch's recipe for VOC is used, from COCO.",
        "The saliency loss and its weight are not published; the loss is a reconstruction, and its "
        "weight of 0.5 a choice.",
        "The folder of true masks is not published; SegmentationClass is used.",
        "A secondary list, scholarfeed, gives 73.2 for the pseudo-masks on train, without saying "
        "how they were made.",
        "Without --weights a classifier is trained by EPS' baseline recipe, not by PSA's.",
        *seg_unsure("deeplab-pytorch"),
    ),
)

_VOC = Preset("resnet38", PIPELINES["resnet38"], _ROW)
PRESETS = {
    "ccr-voc": _VOC,
    "shapes": Preset("small", PIPELINES["small"]),
    "voc": _VOC,
}
