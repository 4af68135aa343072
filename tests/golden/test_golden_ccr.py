"""CCR's crops, erasing rounds and maps against outputs of the public code."""

import copy

import numpy as np
import pytest
import torch
from golden import cases, filled, golden, needs_full_golden, public_state
from torch import nn

from wsss_fast import cam, ccr, nets
from wsss_fast.ccr.crops import boxes, centres_of_mass
from wsss_fast.ccr.erasing import ErasingOptions, cut, paste, run_rounds
from wsss_fast.ccr.padded_batch import PaddedBatch
from wsss_fast.data.transforms import normalise, resize_image
from wsss_fast.engine.runtime import Runtime
from wsss_fast.stages.activate import Views

PUBLIC = ErasingOptions(mirror_mask=False, chain_masks=True)  # as the public code behaves


@pytest.mark.parametrize("name", cases("ccr_split_boxes"))
def test_crops(name):
    file = golden("ccr_split_boxes")
    centres, size = file[f"{name}/mass_centers_yx"], tuple(file[f"{name}/hw"].tolist())
    stored = [tuple(box) for box in file[f"{name}/boxes_y0y1x0x1"].tolist()]
    ours = boxes(centres, size, wrap_crops=True)
    assert (ours * 4 if len(centres) > 2 else ours) == stored
    for clamped, wrapped in zip(boxes(centres, size), ours, strict=True):
        # They differ only where a wrapped crop does not begin at pixel 0; a clamped one then does.
        assert clamped[1::2] == wrapped[1::2]
        assert all(a in (0, b) for a, b in zip(clamped[::2], wrapped[::2], strict=True))


class TinyNet(nn.Module):
    """The small classifier that the stored control flow was recorded with."""

    def __init__(self):
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(3, 8, 3, 8, padding=1), nn.Conv2d(8, 20, 1)
        self.load_state_dict(public_state("tinynet"))
        self.eval()

    def maps(self, images):
        return self.c2(self.c1(images).relu()).relu()


@pytest.fixture(scope="module")
def networks():
    return {
        "ccr_tinynet": TinyNet(),
        "ccr_resnet38": filled(nets.cam_resnet38(20), "ccr_resnet38_cls"),
    }


@pytest.fixture(scope="module")
def ready(networks):
    """The networks as `ccr.infer` runs them, in half the time; there are hundreds of passes."""
    cpu = Runtime(torch.device("cpu"), 0, 0, torch.float32)
    return {
        name: nets.optimize_for_inference(copy.deepcopy(net), cpu, amx=True)
        for name, net in networks.items()
    }


@needs_full_golden
@torch.inference_mode()
@pytest.mark.parametrize(
    ("kind", "name"),
    [("ccr_tinynet", f"t{i}") for i in range(3)] + [("ccr_resnet38", f"i{i}") for i in range(2)],
)
def test_base_maps_and_their_crops(networks, kind, name):
    file, net = golden(kind), networks[kind]
    image, label = file[f"{name}/img_u8"], torch.from_numpy(file[f"{name}/label"])
    views = []
    for scale in PUBLIC.scales:
        size = [int(np.round(n * scale)) for n in image.shape[:2]]
        view = torch.from_numpy(normalise(resize_image(image, *size)))[None]
        views.append(torch.cat([view, view.flip(-1)]))
    (base,) = ccr.base_maps(
        PaddedBatch(net), Views(("i",), label[None], tuple(views), image.shape[:2])
    )
    stored = file[f"{name}/cam" if kind == "ccr_tinynet" else f"{name}/base_cam"]
    np.testing.assert_allclose(
        base / (base.amax(dim=(1, 2), keepdim=True) + 1e-5), stored, atol=1e-4
    )
    centres = centres_of_mass(base.numpy())
    np.testing.assert_allclose(centres, file[f"{name}/mass_centers"], atol=1e-2)
    np.testing.assert_allclose(centres_of_mass(stored), file[f"{name}/mass_centers"], atol=1e-6)
    ours = boxes(centres, image.shape[:2], wrap_crops=True)
    assert (ours * 4)[:4] == [tuple(box) for box in file[f"{name}/boxes"].tolist()]


def logged_rounds(kind):
    """(size, number of rounds) of each crop in the order of the log.

    A round has eight passes, whose sizes repeat from round to round. Successive crops of equal size
    cannot be told apart, so their rounds are added up.
    """
    rounds = []
    for sizes in golden(kind)["forward_shapes_log"].reshape(-1, 16).tolist():
        if rounds and rounds[-1][0] == sizes:
            rounds[-1][1] += 1
        else:
            rounds.append([sizes, 1])
    return [(tuple(sizes[:2]), count) for sizes, count in rounds]


@needs_full_golden
@torch.inference_mode()
@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("ccr_tinynet", ("t0", "t1", "t2")),
        pytest.param("ccr_resnet38", ("i0", "i1"), marks=pytest.mark.slow),
    ],
)
def test_rounds_and_maps(ready, kind, names):
    """Maps, and rounds per crop. The crops are stored, since the public code keeps them as JPEG."""
    file, net, rounds = golden(kind), PaddedBatch(ready[kind]), []
    for name in names:
        classes = torch.from_numpy(file[f"{name}/label"]).nonzero()[:, 0]
        places = [tuple(box) for box in file[f"{name}/boxes"].tolist()]
        crops = []
        for i in range(1, 5 if len(classes) < 3 else 2):
            image = file[f"{name}/split{i}_decoded_rgb"]
            crops.append(
                cut(name, image, (0, image.shape[0], 0, image.shape[1]), classes, PUBLIC.scales)
            )
        answers = [parts[0] for parts in run_rounds(net, crops, PUBLIC, batch_size=4)]
        size = file[f"{name}/img_u8"].shape[:2]
        maps = paste([crop.response for crop in answers], places[: len(crops)], size)
        np.testing.assert_allclose(maps, file[f"{name}/ccr_cam"], atol=1e-4)
        for crop in answers:
            count = crop.rounds * (4 if len(classes) > 2 else 1)
            if rounds and rounds[-1][0] == crop.size:
                rounds[-1] = (crop.size, rounds[-1][1] + count)
            else:
                rounds.append((crop.size, count))
    assert rounds == logged_rounds(kind)


def test_published_numbers():
    paper = ccr.RECIPES["resnet38"]
    erasing = paper.erasing
    assert erasing.scales == (1.0, 0.5, 1.5, 2.0)
    assert (erasing.rounds, erasing.masked_from, erasing.stop) == (5, 0.7, 0.02)
    assert erasing.masking == "joint" and erasing.unit == "crop"
    assert erasing.mirror_mask and not erasing.chain_masks
    assert paper.buffers == (10, 20) and not paper.wrap_crops
    # Better on Shapes; the paper's networks keep the published masking.
    assert ccr.RECIPES["small"].erasing.masking == "class"
    assert set(ccr.RECIPES) == set(cam.RECIPES)
