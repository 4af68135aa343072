"""IRN's object masks against a slow definition, their properties, and the stage."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from brief import brief
from irn_inputs import train, write_inputs
from skimage.measure import label
from torch.testing import assert_close

from wsss_fast import InputError, irn
from wsss_fast.irn.clusters import cluster, find_centres
from wsss_fast.irn.instances import best_part, detect, parts
from wsss_fast.maps import resize_maps
from wsss_fast.ops import random_walk
from wsss_fast.readers.instances import Instances, load_instances, save_instances

BRIEF = brief(irn.OWN_RECIPES["small"], 64, epochs=1, radius=4, steps=16)
RECIPE = dataclasses.replace(irn.INSTANCE_RECIPES["small"], irn=BRIEF)


def followed(displacement, steps):
    """The cell that each cell leads to, one cell at a time."""
    _, height, width = displacement.shape

    def between(y, x):
        """Displacement between the four cells around a place."""
        top, left = min(math.floor(y), height - 1), min(math.floor(x), width - 1)
        down, right = min(top + 1, height - 1), min(left + 1, width - 1)
        b, a = y - top, x - left
        upper = (1 - a) * displacement[:, top, left] + a * displacement[:, top, right]
        lower = (1 - a) * displacement[:, down, left] + a * displacement[:, down, right]
        return (1 - b) * upper + b * lower

    found = np.zeros((2, height, width), int)
    for start in np.ndindex(height, width):
        y, x = start
        for _ in range(steps):
            dy, dx = between(y, x)
            y, x = min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)
        found[(slice(None), *start)] = round(y), round(x)
    return found


def towards(centres, size):
    """Displacements to the nearest of some centres."""
    y, x = np.mgrid[: size[0], : size[1]]
    offsets = np.stack([[cy - y, cx - x] for cy, cx in centres])
    nearest = (offsets**2).sum(1).argmin(0)
    return torch.from_numpy(np.take_along_axis(offsets, nearest[None, None], 0)[0]).float()


@pytest.mark.parametrize("size", [(9, 13), (1, 6), (5, 1), (1, 1)])
def test_centres_are_those_of_the_slow_definition(size):
    field = torch.randn(2, *size, generator=torch.Generator().manual_seed(1)) * 1.7
    found = find_centres(field, 7)
    # Exact but for places half-way between two cells.
    np.testing.assert_array_equal(found.numpy(), followed(field.double().numpy(), 7))


def test_two_basins_are_two_groups():
    field = towards([(4, 4), (4, 15)], (9, 20))
    groups = cluster(find_centres(field, 50), field, 2.5)
    assert set(np.unique(groups)) == {0, 1}
    assert (groups[:, :9] == groups[4, 4]).all() and (groups[:, 11:] == groups[4, 15]).all()
    assert groups[4, 4] != groups[4, 15]
    # Without displacements, all cells are one centre.
    assert not cluster(find_centres(0 * field, 5), 0 * field, 2.5).any()


def test_cells_that_reach_no_centre_are_one_group():
    field = torch.full((2, 4, 6), 3.0)
    field[:, 0, 0] = 0
    groups = cluster(find_centres(field, 0), field, 2.5)
    expected = np.zeros((4, 6), int)
    expected[0, 0] = 1
    np.testing.assert_array_equal(groups, expected)


def inputs_of(size=(9, 20), classes=2):
    generator = torch.Generator().manual_seed(3)
    maps = torch.rand(classes, *size, generator=generator)
    maps[1] *= torch.linspace(0, 1, size[1])
    edge = torch.rand(*size, generator=generator) * 0.6
    return maps, edge, torch.from_numpy(cluster(*both_basins(size)))


def both_basins(size):
    field = towards([(4, 4), (4, 15)], size)
    return find_centres(field, 50), field, 2.5


def test_objects_are_those_of_the_published_steps():
    """Every part is walked and upsampled, divided by the highest score, and split by argmax."""
    maps, edge, groups = inputs_of()
    size, threshold, walk = (33, 78), 0.25, {"radius": 3, "beta": 8.0, "steps": 32}
    every = [maps[k] * (groups == n) for k in range(2) for n in range(2)]
    walked = random_walk(torch.stack(every), edge, **walk)
    full = resize_maps(walked, 36, 80)[:, : size[0], : size[1]]
    full = full / full.max()
    best = torch.cat([torch.full((1, *size), threshold), full]).argmax(0).numpy()
    expected = []
    for part in range(1, 5):
        for number in range(1, label(best == part, connectivity=1).max() + 1):
            mask = label(best == part, connectivity=1) == number
            large = mask.sum() >= 0.01 * mask.size
            score = full[part - 1].numpy()[mask].max() if large else 0.0
            expected.append((score, 5 + (part - 1) // 2, mask))

    scores, rows = parts(maps, groups)
    number, relative = best_part(random_walk(scores, edge, **walk), size, threshold)
    found = detect(number.numpy(), relative.numpy(), np.array([5, 6])[rows.numpy()], 0.01)
    assert len(found) == len(expected) >= 3
    assert (np.diff(found.scores) <= 0).all()
    for mask, of_class, score in zip(found.masks(), found.labels, found.scores, strict=True):
        (same,) = (one for one in expected if (one[2] == mask).all())
        assert of_class == same[1] and score == pytest.approx(same[0], abs=1e-6)


def test_objects_of_a_class_cover_where_its_semantic_map_is_foreground():
    """Where boundaries keep two basins apart, the parts together are the map as a whole."""
    maps, edge, groups = inputs_of(classes=1 + 1)
    maps, edge = maps[:1], edge * 0
    edge[:, 9:11] = 1
    walked = random_walk(parts(maps, groups)[0], edge)
    whole = random_walk(maps, edge)
    assert_close(walked.sum(0), whole[0])
    number, _ = best_part(walked, (36, 80), 0.25)
    semantic, _ = best_part(whole, (36, 80), 0.25)
    # Upsampling mixes two parts at the border between them only.
    differs = (number > 0) != (semantic > 0)
    assert not differs[:, :34].any() and not differs[:, 46:].any()
    found = detect(number.numpy(), np.ones((36, 80), np.float32), np.array([3, 3]), 0.01)
    assert found.labels.tolist() == [3, 3] and (found.masks().sum(0) == (number > 0).numpy()).all()


def test_parts_are_upsampled_in_blocks_as_at_once(monkeypatch):
    walked = torch.rand(7, 5, 6, generator=torch.Generator().manual_seed(0))
    at_once = best_part(walked, (18, 23), 0.3)
    monkeypatch.setattr("wsss_fast.irn.instances._AT_ONCE", 2)
    for found, expected in zip(best_part(walked, (18, 23), 0.3), at_once, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_nothing_is_found_where_boundaries_are_everywhere():
    number, best = best_part(torch.zeros(3, 4, 5), (13, 17), 0.25)
    found = detect(number.numpy(), best.numpy(), np.array([1, 1, 2]), 0.01)
    assert len(found) == 0 and not found.numbers.any() and not best.any()


def test_small_fragments_have_score_0():
    number = np.zeros((10, 20), int)
    number[:5, :5], number[9, 19] = 1, 1
    best = np.where(number > 0, 0.5, 0).astype(np.float32)
    best[2, 2] = 0.75
    found = detect(number, best, np.array([4]), 0.01)
    assert found.scores.tolist() == [0.75, 0.0] and found.labels.tolist() == [4, 4]
    assert found.masks().sum((1, 2)).tolist() == [25, 1]


# ---- the stage ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs(shapes, tmp_path_factory):
    out = tmp_path_factory.mktemp("instances")
    write_inputs(shapes, out)
    return out


@pytest.fixture(scope="module")
def weights(shapes, inputs):
    return train(shapes, inputs, inputs / "run", BRIEF).weights


def find(data, weights, out, maps, **options):
    options = {"recipe": RECIPE} | options
    return irn.find_instances(
        data, weights, out, maps=maps, backbone="small", precision="fp32", **options
    )


def test_files_of_the_stage(shapes, inputs, weights, tmp_path, capfd):
    some = shapes.only(shapes.ids[:6])
    result = find(some, weights, tmp_path, inputs / "maps")
    assert result.folder == tmp_path / "irn/instances"
    for id in some.ids:
        found = load_instances(result.folder, id, len(some.classes), some.size(id))
        assert len(found) and set(found.labels) <= set(np.flatnonzero(some.tags_of(id)) + 1)
        assert 0 < found.scores[0] <= 1 and found.masks().any((1, 2)).all()
    first = {p.name: p.read_bytes() for p in result.folder.glob("*.npz")}
    (result.folder / f"{some.ids[2]}.npz").unlink()
    find(some, weights, tmp_path, inputs / "maps")
    assert {p.name for p in result.folder.glob("*.npz")} == set(first)
    find(some, weights, tmp_path, inputs / "maps")
    assert "irn/instances: already finished" in capfd.readouterr().err


def test_bad_input_raises_before_anything_is_written(shapes, inputs, weights, tmp_path):
    out, maps = tmp_path / "run", inputs / "maps"
    with pytest.raises(InputError, match="maps: .*nowhere is not a directory"):
        find(shapes, weights, out, tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"missing: .*edge\.0\.0\.weight"):
        find(shapes, inputs / "cam.pth", out, maps)
    wrong = dataclasses.replace(RECIPE, objects=irn.InstanceOptions(centre=0.0))
    with pytest.raises(InputError, match="objects.centre: got 0.0, must be a finite number > 0"):
        find(shapes, weights, out, maps, recipe=wrong)
    assert not out.exists()


def test_outputs_that_are_not_finite_raise(shapes, inputs, weights, tmp_path, monkeypatch):
    def not_finite(net, images, pad):
        return torch.zeros(1, 16, 16), torch.full((1, 2, 16, 16), torch.nan)

    monkeypatch.setattr("wsss_fast.irn.instances.boundaries_and_displacements", not_finite)
    recipe = dataclasses.replace(RECIPE, irn=dataclasses.replace(BRIEF, infer_batch=1))
    with pytest.raises(InputError, match="displacements are NaN or infinite; check the "):
        find(shapes.only(shapes.ids[:1]), weights, tmp_path, inputs / "maps", recipe=recipe)
    assert not list(tmp_path.rglob("*.npz"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"numbers": np.full((4, 5), 3)}, "numbers must be whole numbers in 0..2"),
        ({"labels": np.array([1, 9])}, "labels must be whole numbers in 1..3"),
        ({"scores": np.zeros(3)}, r"labels \[N\] and scores \[N\], has \[4, 5\], \[2\] and \[3\]"),
        ({"numbers": np.zeros((5, 4), int)}, r"needs numbers \[4, 5\]"),
    ],
)
def test_files_that_are_no_instances_are_rejected(changed, message, tmp_path):
    arrays = {
        "numbers": np.zeros((4, 5), int),
        "labels": np.array([1, 2]),
        "scores": np.zeros(2),
    }
    save_instances(tmp_path, "a", Instances(**arrays | changed))
    with pytest.raises(InputError, match=message):
        load_instances(tmp_path, "a", 3, (4, 5))
    with pytest.raises(InputError, match="no instances for id 'b'"):
        load_instances(tmp_path, "b", 3, (4, 5))
