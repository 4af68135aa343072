"""Recipes of the segmentation network by name, with the results that were published with them.

DPT in the comments is kazuto1011/deeplab-pytorch, whose configs/voc12.yaml `Recipe()` follows.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from wsss_fast.data.transforms import Augment
from wsss_fast.engine.optimizers import AdamW, Sgd
from wsss_fast.engine.schedules import OneCycle, Poly
from wsss_fast.presets import Preset, Published, Row, Start, differences
from wsss_fast.seg.recipe import Recipe
from wsss_fast.stages.crf import Crf
from wsss_fast.stages.energy import Energy

_COCO_START = Start(
    "weights",
    "DeepLab's ResNet-101 of MS-COCO, deeplabv1_resnet101-coco.pth",
    "kazuto1011/deeplab-pytorch, scripts/setup_caffemodels.sh and convert.py",
)
_IMAGENET_START = Start(
    "weights",
    "ResNet-101 of ImageNet, deeplabv1_resnet101-imagenet.pth",
    "jbeomlee93/RIB, link in README.md, step 4",
)
_VGG16_CAFFE = Start(
    "weights",
    "DeepLab's VGG16 of ImageNet, vgg16_20M.caffemodel or, for torch, vgg16_20M.pth",
    "PengtaoJiang/OAA, link in README.md, init models",
)
_VGG16_TORCH = Start(
    "weights",
    "DeepLab's VGG16 of ImageNet, deeplab_largeFOV.pth",
    "wangleihitcs/DeepLab-V1-PyTorch, folder data",
)

# Whatever a row does not say itself is DPT's.
_WIDE = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
_DPT_CRF = "The segmentation network's CRF is not given; it is deeplab-pytorch's."


def _coco_row(source: str, unsure: tuple[str, ...]) -> Row:
    return Row(
        layout="coco",
        split="train",
        score_on="train",
        val_split="val",
        truth="coco_seg_anno",  # jbeomlee93/RIB README, step 1
        starts=(_IMAGENET_START,),
        source=source,
        unsure=unsure,
    )


def _voc_row(
    *starts: Start,
    source: str,
    published: tuple[Published, ...] = (),
    unsure: tuple[str, ...] = (),
) -> Row:
    return Row(
        layout="voc",
        split="trainaug",
        score_on="train",
        val_split="val",
        truth="SegmentationClassAug",
        starts=starts,
        published=published,
        source=source,
        unsure=unsure,
    )


def _on_val(
    value: float, what: str, source: str, *, crf: bool = True, sure: bool = True
) -> Published:
    record = "seg on val" if crf else "seg on val without CRF"
    return Published(record, value, f"VOC val, {what}", source, sure)


def _augmented(**changes: Any) -> Augment:
    return dataclasses.replace(Recipe().augment, **changes)


_DEEPLAB_PYTORCH = Preset(
    "resnet101",
    Recipe(),
    _voc_row(
        _COCO_START,
        source="kazuto1011/deeplab-pytorch, configs/voc12.yaml",
        published=(
            _on_val(77.93, "trained on true masks, after the CRF", "deeplab-pytorch README.md"),
            _on_val(76.65, "trained on true masks", "deeplab-pytorch README.md", crf=False),
        ),
    ),
)

_ADVCAM = Preset(
    "resnet101",
    Recipe(
        updates=30_000,  # AdvCAM #9: iter_max
        batch_size=10,  # AdvCAM #9
        lr=2.5e-4,  # AdvCAM #9
        augment=_augmented(factors=_WIDE),  # AdvCAM #9
        balance="image",  # AdvCAM #9: "similar to DSRG"
    ),
    _voc_row(
        _IMAGENET_START,  # AdvCAM #9
        source="jbeomlee93/AdvCAM, issue #9",
        published=(
            _on_val(68.1, "masks of 69.9 on train", "the paper, quoted in AdvCAM #9", sure=False),
            _on_val(64.9, "a user's without these settings, CRF", "AdvCAM #9"),
        ),
        unsure=(
            "The segmentation loss is 'similar to DSRG' (AdvCAM #9), but its code was not found; "
            "the kind of DSRG is used: of each image, the mean over the background plus the mean "
            "over the classes.",
            "AdvCAM's batch size 10 is read as 10 images an update, in two parts of 5 as in "
            "deeplab-pytorch; CLIMS reads it as two parts of 10.",
            "Whether AdvCAM's 68.1 is after a CRF is not said. " + _DPT_CRF,
        ),
    ),
)

_RIB_COCO = Preset(
    "resnet101",
    Recipe(
        updates=100_000,  # configs/coco14_rib.yaml of lucasdavid/deeplab-pytorch
        batch_size=10,  # the same
        lr=2.5e-4,  # the same
        augment=_augmented(crop=481, factors=_WIDE),  # RIB #2
    ),
    _coco_row(
        "jbeomlee93/RIB, issue #2",
        (
            "Updates, batch size and learning rate come from another user's configuration of "
            "RIB's recipe (lucasdavid/deeplab-pytorch); RIB #2 has them, too, but only its first "
            "part was found.",
            "RIB's segmentation loss is not given; plain cross-entropy is used, but AdvCAM, of the "
            "same authors, balances it.",
            _DPT_CRF,
        ),
    ),
)

_LPCAM_COCO = Preset(
    "resnet101",
    Recipe(
        updates=100_000,  # LPCAM #3: ITER_MAX
        batch_size=20,  # LPCAM #3: 10 images, ITER_SIZE 2
        accumulate=2,  # LPCAM #3: ITER_SIZE
        lr=2e-4,  # LPCAM #3
    ),
    _coco_row(
        "zhaozhengChen/LPCAM, issue #3",
        (
            "LPCAM's configuration does not name the loss; plain cross-entropy is used.",
            "Whether images without a tag are in LPCAM's lists is not said; here they are.",
        ),
    ),
)

_CLIP_ES_UNSURE = (
    "Appendix D of the paper, which the authors refer to, was not read; what issue #7 does not "
    "name is deeplab-pytorch's."
)

_CLIP_ES = Preset(
    "resnet101",
    Recipe(lr=2.5e-5),  # CLIP-ES #7
    _voc_row(
        _COCO_START,
        source="linyq2117/CLIP-ES, issue #7",
        published=(_on_val(73.5, "a user's", "CLIP-ES #7"),),
        unsure=(_CLIP_ES_UNSURE,),
    ),
)

_CLIP_ES_IMAGENET = Preset(
    "resnet101",
    Recipe(
        lr=2e-4,  # CLIP-ES #7
        balance="image",  # CLIP-ES #7, a user's, with a link to AdvCAM #9
    ),
    _voc_row(
        _IMAGENET_START,
        source="linyq2117/CLIP-ES, issue #7",
        published=(_on_val(69.7, "a user's, balanced loss", "CLIP-ES #7"),),
        unsure=(
            _CLIP_ES_UNSURE,
            "The authors name no balanced loss; a user got NaN without it and took AdvCAM's, whose "
            "kind is not known: that of DSRG is used.",
        ),
    ),
)

_LARGE_FOV = Recipe(
    updates=16_000,  # OAA examples/seg/exp1/solver.prototxt: max_iter
    batch_size=10,  # the same: iter_size, with batches of 1 in train.prototxt
    accumulate=10,
    lr=1e-3,  # the same: base_lr
    head_lr_scale=10.0,  # train.prototxt: lr_mult of score
    augment=_augmented(factors=(0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)),  # train.prototxt
    scales=(),
    resize="aligned",  # train.prototxt: Interp with zoom_factor 8, loss at the labels' size
    # examples/seg/utils.py and README.md: pos 1/3 (weight/xy), bi 3/67/4 (weight/xy/rgb)
    crf=Crf(gaussian=(3.0, 1.0), bilateral=(67.0, 4.0, 3.0), iterations=1),
    schedule=Poly(),  # solver.prototxt: poly, power 0.9, at every update
    head="largefov",
)
_OAA_UNSURE = (
    "The CRF's call is commented out; examples/seg/utils.py has 1 iteration, README.md only the "
    "kernels.",
    "README.md tests the weights after 15,000 of the 16,000 updates.",
)

_OAA_VGG16 = Preset(
    "vgg16",
    _LARGE_FOV,
    _voc_row(
        _VGG16_CAFFE,
        source="PengtaoJiang/OAA, examples/seg/exp1",
        published=(_on_val(65.1, "a user's, with EPS' masks", "EPS #12"),),
        unsure=_OAA_UNSURE,
    ),
)

_OAA_RESNET101 = Preset(
    "resnet101",
    dataclasses.replace(
        _LARGE_FOV,
        test_scales=(0.5, 0.75, 1.0, 1.25, 1.5),  # examples/seg/eval_res.py
        test_merge="mean",  # the same: of the layer softmax
    ),
    _voc_row(
        dataclasses.replace(_COCO_START, where="OAA #9: MS-COCO; its dpl_init.caffemodel: README"),
        source="PengtaoJiang/OAA, examples/seg/exp2",
        unsure=(*_OAA_UNSURE, "No result with this network alone was found."),
    ),
)

_RULIXIANG = Preset(
    "vgg16",
    Recipe(
        updates=40_000,  # config/deeplabv1_voc12.yaml: max_iters
        batch_size=10,  # the same
        accumulate=1,  # v1/train_deeplabv1.py
        lr=1e-3,  # the same
        head_lr_scale=10.0,  # v1/train_deeplabv1.py: conv8
        augment=_augmented(factors=(0.5, 0.75, 1.0, 1.25, 1.5)),  # config/deeplabv1_voc12.yaml
        scales=(),
        resize="labels",  # v1/train_deeplabv1.py: resize_labels
        # v1/test_deeplabv1.py: pos 3/3, bi 5/50/5 (weight/xy/rgb), 10 iterations
        crf=Crf(gaussian=(3.0, 3.0), bilateral=(50.0, 5.0, 5.0)),
        schedule=Poly(),  # v1/train_deeplabv1.py: at every update
        head="largefov",
    ),
    _voc_row(
        _VGG16_TORCH,
        source="rulixiang/deeplab-pytorch, config/deeplabv1_voc12.yaml",
        published=(
            _on_val(69.38, "trained on true masks, after the CRF", "README.md"),
            _on_val(65.48, "trained on true masks", "README.md", crf=False),
        ),
        unsure=(
            "The VGG16 here is OAA's: its poolings round sizes up, where rulixiang's round them "
            "down, and dropout drops values instead of channels.",
        ),
    ),
)

_SEAM = Preset(
    "resnet38",
    Recipe(
        updates=20_000,  # config.py: TRAIN_ITERATION
        batch_size=10,  # the same: TRAIN_BATCHES
        accumulate=2,  # the same: GPUS, so batch-norms see 5 images at a time
        lr=1e-3,  # the same: TRAIN_LR
        head_lr_scale=10.0,  # train.py: groups x1, x2 (biases), x10, x20 (biases, no decay)
        augment=Augment(crop=448, scale=(0.5, 1.5), hsv=10),  # config.py: DATA_RANDOM...
        scales=(),
        resize="aligned",  # lib/net/deeplabv1.py
        flip=True,  # config.py: TEST_FLIP
        # lib/utils/DenseCRF.py: pos 3/3, bi 10/32/13 (weight/xy/rgb); test.py: 1 iteration
        crf=Crf(gaussian=(3.0, 3.0), bilateral=(32.0, 13.0, 10.0), iterations=1),
        # config.py: TRAIN_WEIGHT_DECAY, TRAIN_MOMENTUM
        optimizer=Sgd(weight_decay=5e-4, momentum=0.9, caffe_biases=True),
        schedule=Poly(),  # train.py: adjust_lr at every update, power 0.9
        head="seam",  # lib/net/deeplabv1.py
        test_scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75),  # config.py: TEST_MULTISCALE
        test_merge="logits",  # test.py: collect_func
    ),
    _voc_row(
        Start(
            "weights",
            "Wide ResNet-38 (A1) of ImageNet, ilsvrc-cls_rna-a1_cls1000_ep-0001.params",
            "YudeWang/SEAM, link in README.md",
        ),
        source="YudeWang/semantic-segmentation-codebase, experiment/seamv1-pseudovoc",
        published=(_on_val(64.75, "SEAM's masks, after the CRF", "README.md"),),
        unsure=(
            "From memory, the author names crop 321 'maybe 448' and scales up to 2.0 for the "
            "paper (SEAM #11); the numbers of the code are used.",
        ),
    ),
)

_MCTFORMER = Preset(
    "resnet38",
    Recipe(
        updates=79_350,  # run_seg.sh: 30 epochs of 10,582 images in batches of 4, the rest dropped
        batch_size=4,  # run_seg.sh
        accumulate=1,
        lr=7e-4,  # seg/train_seg.py
        head_lr_scale=10.0,  # the same: get_10x_lr_params
        # seg/tool/exutils.py: uniform scale, cv2's bilinear resize, upper left corner
        augment=Augment(crop=321, scale=(0.7, 1.3), linear=True, corner=True),
        scales=(),
        resize="logits",  # seg/train_seg.py
        # seg/tool/imutils.py: pos 3/4, bi 3/83/5 (weight/xy/rgb), 10 iterations
        crf=Crf(gaussian=(4.0, 3.0), bilateral=(83.0, 5.0, 3.0)),
        # seg/tool/torchutils.py: the weight decay, 1e-5, is passed in the position of momentum
        optimizer=Sgd(weight_decay=0.0, momentum=1e-5),
        schedule=Poly(),  # the same: at every update, power 0.9
        head="mctformer",  # seg/network/resnet38_seg.py
        test_scales=(0.5, 0.75, 1.0, 1.25, 1.5),  # run_seg.sh
        test_merge="max",  # seg/infer_seg.py
    ),
    _voc_row(
        Start(
            "weights",
            "Wide ResNet-38 as classifier of VOC, res38_cls.pth",
            "xulianuwa/MCTformer, link in README.md, step 3",
        ),
        source="xulianuwa/MCTformer, seg/ and run_seg.sh",
        published=(
            _on_val(71.9, "CRF", "the paper, quoted in MCTformer #23", sure=False),
            _on_val(71.1, "users', with the public masks", "MCTformer #26"),
        ),
        unsure=("Users who repeat it with the public masks get 71.1 (MCTformer #26).",),
    ),
)

_SHAPES = Preset(
    "small",
    Recipe(
        updates=800,
        batch_size=16,
        accumulate=1,
        lr=3e-3,
        head_lr_scale=1.0,
        augment=Augment(crop=128, scale=(0.8, 1.3), jitter=0.15),
        flip=True,
        crf=Crf(gaussian=(1.0, 3.0), bilateral=(25.0, 13.0, 10.0)),
        infer_batch=16,
        optimizer=AdamW(weight_decay=1e-2),
        schedule=OneCycle(),
        prefer_bf16=True,
        resize="logits",
        energy=Energy(sigma_xy=25.0),
    ),
)

PRESETS = {
    "deeplab-pytorch": _DEEPLAB_PYTORCH,
    "advcam": _ADVCAM,
    "rib-coco": _RIB_COCO,
    "lpcam-coco": _LPCAM_COCO,
    "clip-es": _CLIP_ES,
    "clip-es-imagenet": _CLIP_ES_IMAGENET,
    "deeplabv1-oaa-vgg16": _OAA_VGG16,
    "deeplabv1-oaa-resnet101": _OAA_RESNET101,
    "deeplabv1-rulixiang": _RULIXIANG,
    "resnet38-seam": _SEAM,
    "resnet38-mctformer": _MCTFORMER,
    "shapes": _SHAPES,
}

RECIPES = {
    "resnet101": _DEEPLAB_PYTORCH.numbers,
    "vgg16": _OAA_VGG16.numbers,
    "resnet38": _SEAM.numbers,
    "small": _SHAPES.numbers,
}


def starts_of(backbone: str, recipe: Recipe) -> tuple[Start, ...]:
    """Initial weights of the presets that are nearest to a recipe; () where they start at random.

    Args:
        backbone: of the network.
        recipe: hyper-parameters of a training.
    """
    rows = [one for one in PRESETS.values() if one.backbone == backbone and one.row is not None]
    apart = [len(differences(recipe, one.numbers)) for one in rows]
    nearest = [one.row for one, count in zip(rows, apart, strict=True) if count == min(apart)]
    return tuple(dict.fromkeys(start for row in nearest if row for start in row.starts))
