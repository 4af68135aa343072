"""Write the subset of the golden reference data that is part of this repository.

    python tools/golden_subset.py FULL [tests/golden/data]

FULL is the folder of the full reference data: inputs and outputs of the papers' public
implementations. Only arrays whose inputs are synthetic (random maps, labels, boxes) are kept;
photos and what was computed from them are not to be redistributed. Arrays are copied bit for bit,
but a file of the subset holds fewer of them.
"""

from __future__ import annotations

import argparse
import fnmatch
import shutil
from pathlib import Path

import numpy as np

MAX_BYTES = 4_000_000

# File without ".npz" -> patterns (fnmatch) of the arrays that are kept. Comments say why others are
# left out, where the reason is not only size.
ARRAYS = {
    "amn_loss": (
        "voc_mixed/[!t]*",  # without the smoothed targets, which no test reads
        "voc_eps0/*",
        "coco_mixed/*",
        "nobg/*",
        "allignore/*",
        "one_image_without_fg/*",
    ),
    "amn_resize_labels": ("case[1-6]/*",),
    "amn_cam_to_ir_label_given": (  # after CRF refinement, labels depend on the photo
        "c[01]/cam",
        "c[01]/keys",
        "c[01]/argmax_*",
    ),
    "bilateral_filter": ("case[25]/[!e]*",),  # the other cases' images are photos
    "ccr_split_boxes": ("*",),
    "chainercv_eval": ("*",),
    "crf_inputs_p1": ("*/labels",),  # the softmax follows the photo's edges
    "crf_q_p1": ("n*/gauss_only/labels/*",),  # without the bilateral kernel, no photo is read
    "deeplab_net": ("feature_sizes_in_1_05_075", "n_conv_1x", "n_conv_aspp"),
    "deeplab_poly_lr": ("*",),
    "deeplab_scores": ("*",),
    "dense_energy_loss": ("case5/*",),  # the other cases' images are photos
    "eps_ioumetric": ("*",),
    "eps_loss": ("seed0/*", "seed5/cam", "seed5/saliency", "seed5/label", "seed5/t2/*"),
    "eps_loss_edge": (
        "prec0.475_*",
        "sal_half/*",
        "sal_above_half/*",
        "prob_half_tie/*",
        "never_wins/*",
        "no_label/*",
        "all_labels/*",
    ),
    "eps_loss_sizes": ("size0/*",),
    "eps_saliency_resize": ("*",),
    "irn_losses": ("labels", "label_shape", "*_packed"),  # the losses are of photos
    "irn_path_index": ("*",),
    "irn_random_walk": ("c[1345]/*",),  # the other cases' edge maps are of a photo
    "pamr": ("case2/*",),  # the other cases' images are photos
    "par": ("case2/*",),
    "poly_optimizer_trace": ("*",),
}
KEYS = (
    "amn_resnet50_cam",
    "amn_resnet50_amn",
    "amn_coco14_resnet50_cam",
    "amn_coco14_resnet50_amn",
    "ccr_resnet38_cls",
    "deeplabv2_resnet101_msc_21",
    "eps_mxnet_name_map",
    "eps_resnet38_cls_20",
    "eps_resnet38_eps_21",
    "eps_resnet38_eps_81",
    "irn_resnet50_irn",
)


def write_subset(full: Path, out: Path) -> int:
    """Write the subset of `full` to `out`, and return its size in bytes."""
    (out / "keys").mkdir(parents=True, exist_ok=True)
    for name, patterns in ARRAYS.items():
        with np.load(full / f"{name}.npz", allow_pickle=False) as file:
            kept = {
                key: file[key]
                for key in file.files
                if any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)
            }
        np.savez_compressed(out / f"{name}.npz", **kept)
    for name in KEYS:
        shutil.copyfile(full / "keys" / f"{name}.json", out / "keys" / f"{name}.json")
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("full", type=Path, help="folder of the full reference data")
    parser.add_argument("out", type=Path, nargs="?", default=Path("tests/golden/data"))
    options = parser.parse_args()
    size = write_subset(options.full, options.out)
    print(f"{options.out}: {size / 1e6:.2f} MB")
    if size > MAX_BYTES:
        raise SystemExit(f"more than {MAX_BYTES / 1e6:g} MB: keep fewer arrays")


if __name__ == "__main__":
    main()
