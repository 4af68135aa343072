"""The modules PAR and PAMR, and the callers of PAR: interfaces, dtypes, wrong input."""

import pytest
import torch

from wsss_fast import compat, ops
from wsss_fast.compat.pamr import PAMR
from wsss_fast.compat.par import PAR, refine_cams_with_bkg_v2, refine_cams_with_cls_label

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(2, 3, 12, 15, generator=GENERATOR)
CAMS = torch.rand(2, 4, 12, 15, generator=GENERATOR)
LABELS = torch.tensor([[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
BOXES = [[1, 11, 0, 14], [0, 12, 2, 15]]
DILATIONS = [1, 2]


def test_modules_are_the_operator():
    masks = torch.rand(2, 3, 5, 6, generator=GENERATOR)
    options = {"dilations": DILATIONS, "iterations": 3}
    expected = ops.pixel_adaptive_refine(IMAGES, masks, **options)
    assert torch.equal(PAR(DILATIONS, 3)(IMAGES, masks), expected)
    assert torch.equal(PAR(dilations=DILATIONS, num_iter=3)(imgs=IMAGES, masks=masks), expected)
    expected = ops.pixel_adaptive_refine(IMAGES, masks, kind="pamr", **options)
    module = compat.pamr.PAMR(num_iter=3, dilations=DILATIONS)
    assert torch.equal(module(IMAGES, masks), expected)
    swapped = IMAGES.mT.contiguous().mT, masks.permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3)
    assert torch.equal(module(*swapped), expected)  # the public module needs contiguous ones
    assert PAMR()(IMAGES, masks).shape == (2, 3, 12, 15)


def test_weclips_module_resizes_the_image():
    masks = torch.rand(2, 3, 5, 6, generator=GENERATOR)
    image = torch.nn.functional.interpolate(IMAGES, (5, 6), mode="bilinear", align_corners=True)
    expected = ops.pixel_adaptive_refine(image, masks, dilations=DILATIONS, iterations=2)
    assert torch.equal(PAR(DILATIONS, 2, resized="image")(IMAGES, masks), expected)
    with pytest.raises(ValueError, match=r"PAR: resized is 'both'; must be one of \('masks',"):
        PAR(DILATIONS, 2, resized="both")


@pytest.mark.parametrize(
    ("image", "masks", "result"),
    [
        (torch.float32, torch.float16, torch.float32),
        (torch.float64, torch.float32, torch.float64),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.uint8, torch.float16, torch.float16),
    ],
)
def test_dtypes_are_the_public_ones(image, masks, result):
    for module in (PAR(DILATIONS, 2), PAMR(2, DILATIONS)):
        assert module(IMAGES.to(image), CAMS.to(masks)).dtype == result
    assert PAR(DILATIONS, 0)(IMAGES.to(image), CAMS.to(masks)).dtype == masks


def test_state_dicts_have_the_public_entries():
    """The filters with which the public modules find neighbours, for strict loading."""
    (name, kernel), *others = PAR(DILATIONS, 2).state_dict().items()
    assert (name, kernel.shape, others) == ("kernel", (8, 1, 3, 3), [])
    assert torch.equal(kernel.sum(0)[0], torch.tensor([[1.0, 1, 1], [1, 0, 1], [1, 1, 1]]))
    state = PAMR(2, DILATIONS).state_dict()
    assert {name: tuple(t.shape) for name, t in state.items()} == {
        "aff_x.kernel": (8, 1, 3, 3),
        "aff_m.kernel": (8, 1, 3, 3),
        "aff_std.kernel": (9, 1, 3, 3),
    }
    image = torch.arange(9.0).view(1, 1, 3, 3)  # the centre is 4
    found = torch.cat([(image * k).sum((1, 2, 3)) for k in state.values()])
    around = torch.tensor([0.0, 1, 2, 3, 5, 6, 7, 8])
    assert torch.equal(found, torch.cat([4 - around, around, torch.arange(9.0)]))


def test_masks_get_a_gradient_and_images_do_not():
    masks = CAMS.clone().requires_grad_()
    PAR(DILATIONS, 2)(IMAGES, masks).square().sum().backward()
    assert masks.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="image requires a gradient"):
        PAMR(2, DILATIONS)(IMAGES.clone().requires_grad_(), masks)


def label(ref_mod, **changed):
    arguments = {
        "images": IMAGES,
        "cams": CAMS,
        "cls_labels": LABELS,
        "high_thre": 0.7,
        "low_thre": 0.3,
        "ignore_index": 255,
        "img_box": BOXES,
    }
    return refine_cams_with_bkg_v2(ref_mod, **{**arguments, **changed})


def test_labels_of_both_background_scores():
    found = label(PAR(DILATIONS, 2))
    assert found.shape == (2, 12, 15) and set(found.unique().tolist()) <= {0.0, 2.0, 4.0, 255.0}
    assert {2.0, 4.0} & set(found[0].unique().tolist())
    for image, (y0, y1, x0, x1) in zip(found.clone(), BOXES, strict=True):
        image[y0:y1, x0:x1] = 255
        assert (image == 255).all()  # outside of the box
    assert (found[1, :, 2:] == 0).all()  # no class is present
    # The maps of other modules are refined one by one.
    seen = []

    def other(image, maps):
        seen.append(maps.shape[1])
        return PAR(DILATIONS, 2)(image, maps)

    assert torch.equal(label(other), found) and seen == [3, 3, 1, 1]
    assert torch.equal(label(PAR(DILATIONS, 2), img_box=torch.tensor(BOXES)), found)
    scale = label(PAR(DILATIONS, 2), down_scale=3)
    assert scale.shape == found.shape and not torch.equal(scale, found)


def test_the_background_is_unknown_between_the_scores():
    """Uniform images and maps: the class wins against the low score only."""
    flat = {"images": torch.zeros_like(IMAGES), "cams": torch.full_like(CAMS, 0.5)}
    flat["cls_labels"] = torch.tensor([[1, 0, 0, 0], [0, 0, 1, 0]])
    boxes = [[0, 12, 0, 15]] * 2
    for scores, values in (((0.7, 0.3), (255, 255)), ((0.4, 0.3), (1, 3)), ((0.7, 0.6), (0, 0))):
        found = label(
            PAR(DILATIONS, 2), **flat, img_box=boxes, high_thre=scores[0], low_thre=scores[1]
        )
        assert [image.unique().tolist() for image in found] == [[value] for value in values]


def test_maps_of_no_class_and_small_boxes():
    refined = refine_cams_with_cls_label(PAR(DILATIONS, 2), IMAGES, LABELS, CAMS, BOXES)
    assert (refined[1] == 0).all() and (refined[0, ::2] == 0).all()
    assert (refined[0, 1::2, 1:11, :14] > 0).all() and (refined[0, :, :, 14] == 0).all()
    cams = CAMS.clone().requires_grad_()
    refine_cams_with_cls_label(PAR(DILATIONS, 2), IMAGES, LABELS, cams, BOXES).sum().backward()
    assert (cams.grad[0, 1, 1:11, :14] != 0).any() and (cams.grad[1] == 0).all()
    with pytest.raises(ValueError, match="box 0 has 1 rows and 15 columns; must have at least 2"):
        refine_cams_with_cls_label(
            PAR(DILATIONS, 2), IMAGES, LABELS, CAMS, [[0, 1, 0, 15], BOXES[1]]
        )


@pytest.mark.parametrize(
    "changed", [{"cams": CAMS[..., :7]}, {"images": IMAGES[..., :1], "cams": CAMS[..., :1]}]
)
def test_maps_of_other_sizes_are_an_error(changed):
    with pytest.raises(ValueError, match=r"refine_cams_with_bkg_v2: images is .* but cams is .*"):
        label(PAR(DILATIONS, 2), **changed)
