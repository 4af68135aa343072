"""dense_crf rejects wrong arguments, with the argument's name and value."""

import pytest
import torch
from op_testing import wrong_values

from wsss_fast.ops import dense_crf

ARGUMENTS = dict(
    image=torch.zeros(1, 3, 8, 8),
    unary=torch.zeros(1, 3, 8, 8),
    gaussian=(3.0, 3.0),
    bilateral=(50.0, 5.0, 10.0),
    iterations=10,
    precision="float32",
)


@pytest.mark.parametrize(("name", "value"), wrong_values(ARGUMENTS))
def test_wrong_arguments_of_any_kind(name, value):
    with pytest.raises(ValueError, match=f"^dense_crf: .*{name}"):
        dense_crf(**{**ARGUMENTS, name: value})


WRONG = {
    "image_dims": (
        dict(image=torch.zeros(3, 8, 8)),
        r"image is torch.float32 \[3, 8, 8\]; must be \[B, C, H, W\]",
    ),
    "channels": (
        dict(image=torch.zeros(1, 15, 8, 8)),
        r"image is \[1, 15, 8, 8\]; needs 1\.\.14 channels",
    ),
    "no_channels": (dict(image=torch.zeros(1, 0, 8, 8)), r"needs 1\.\.14 channels"),
    "no_image": (dict(image=None), r"image is None, but bilateral is \(50\.0, 5\.0, 10\.0\)"),
    "unary_dims": (dict(unary=torch.zeros(8, 8)), r"unary is torch.float32 \[8, 8\]"),
    "size": (
        dict(image=torch.zeros(1, 3, 4, 4)),
        r"image is \[1, 3, 4, 4\] but unary is \[1, 3, 8, 8\]; H and W must match",
    ),
    "batch": (dict(image=torch.zeros(2, 3, 8, 8)), "B must match"),
    "no_labels": (dict(unary=torch.zeros(1, 0, 8, 8)), r"needs 1\.\.256 labels"),
    "labels": (dict(unary=torch.zeros(1, 257, 8, 8)), r"needs 1\.\.256 labels"),
    "image_dtype": (dict(image=torch.zeros(1, 3, 8, 8, dtype=torch.int32)), "image is torch.int32"),
    "unary_dtype": (dict(unary=torch.zeros(1, 3, 8, 8, dtype=torch.int64)), "unary is torch.int64"),
    "nan": (dict(unary=torch.full((1, 3, 8, 8), float("nan"))), "unary has NaN"),
    "inf": (dict(unary=torch.full((1, 3, 8, 8), float("inf"))), "unary has NaN or infinite"),
    "image_inf": (
        dict(image=torch.full((1, 3, 8, 8), float("inf"))),
        "image spans inf..inf; must be finite",
    ),
    "image_nan": (dict(image=torch.full((1, 3, 8, 8), float("nan"))), "image spans"),
    "sigma": (dict(gaussian=(-3.0, 3.0)), r"gaussian sxy is -3\.0"),
    "zero_sigma": (dict(bilateral=(50.0, 0.0, 3.0)), r"bilateral srgb is 0\.0"),
    "sigma_pair": (
        dict(gaussian=((3.0, -1.0), 3.0)),
        r"gaussian sxy is \(3\.0, -1\.0\); must be finite and > 0",
    ),
    "sigma_count": (
        dict(bilateral=(50.0, (5.0, 4.0), 3.0)),
        r"srgb is \(5\.0, 4\.0\); must be a number or 3 of them",
    ),
    "sigma_type": (
        dict(gaussian=("wide", 3.0)),
        "gaussian sxy is 'wide'; must be a number or 2 of them",
    ),
    "weight": (dict(bilateral=(50.0, 5.0, -1.0)), r"bilateral weight is -1\.0"),
    "weight_word": (dict(gaussian=(3.0, "much")), r"gaussian weight is 'much'"),
    "nan_sigma": (dict(gaussian=(float("nan"), 3.0)), "gaussian sxy is nan"),
    "fields": (dict(gaussian=(3.0,)), "gaussian is"),
    "infinite_weight": (
        dict(gaussian=(3.0, float("inf"))),
        "gaussian weight is inf; must be a finite number",
    ),
    "device": (
        dict(unary=torch.zeros(1, 3, 8, 8, device="meta")),
        "image is on cpu but unary is on meta",
    ),
    "iterations": (dict(iterations=-1), "iterations is -1"),
    "endless": (dict(iterations=10**12), "iterations is 10000000000.*integer >= 0, at most 100000"),
    "fractional": (dict(iterations=2.5), "iterations is 2.5"),
    "keys": (dict(bilateral=(0.001, 0.00001, 3.0)), "too small for a 8x8 image"),
    "gaussian_keys": (
        dict(gaussian=(1e-7, 3.0)),
        "gaussian sigmas .* are too small for a 8x8 image",
    ),
    "nan_no_steps": (
        dict(unary=torch.full((1, 3, 8, 8), float("nan")), iterations=0),
        "unary has NaN",
    ),
    "nan_no_terms": (
        dict(unary=torch.full((1, 3, 8, 8), float("nan")), gaussian=None, bilateral=None),
        "unary has NaN",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    change, message = WRONG[name]
    with pytest.raises(ValueError, match="^dense_crf: .*" + message):
        dense_crf(**{**ARGUMENTS, **change})
