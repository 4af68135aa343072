"""IRN's stages on a tiny benchmark."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from wsss_fast import InputError, cam, irn, nets
from wsss_fast.data import read_labels
from wsss_fast.data.images import write_labels
from wsss_fast.data.transforms import normalise
from wsss_fast.maps import ClassMaps, label_index, load_maps, save_maps, strided_size, to_labels

QUICK = dataclasses.replace(
    irn.RECIPES["small"],
    epochs=1,
    batch_size=8,
    radius=4,
    augment=dataclasses.replace(irn.RECIPES["small"].augment, crop=64),
)


@pytest.fixture(scope="module")
def inputs(shapes, tmp_path_factory):
    """Seeds from the true masks, maps that light one half of each object's box, and a classifier's weights."""
    out = tmp_path_factory.mktemp("irn")
    for id in shapes.ids:
        mask = shapes.mask(id)
        write_labels(out / "seeds" / f"{id}.png", mask)
        keys = np.flatnonzero(shapes.tags_of(id)) + 1
        slope = np.linspace(0.2, 1, mask.shape[1], dtype=np.float32)
        scores = np.stack(
            [np.full(mask.shape, 0.5), *((mask == k) * slope for k in keys)]
        )  # background first
        save_maps(out / "maps", id, ClassMaps(np.array([0, *keys]), scores[:, ::4, ::4]))
    torch.manual_seed(0)
    nets.save_weights(nets.cam_resnet50(len(shapes.classes), backbone="small"), out / "cam.pth")
    return out


def train(data, inputs, out, recipe=QUICK, **options):
    return irn.train(
        data,
        out,
        seeds=inputs / "seeds",
        backbone="small",
        weights=inputs / "cam.pth",
        recipe=recipe,
        precision="fp32",
        **options,
    )


@torch.inference_mode()
def outputs(net, data, id):
    """Boundary logits and displacements of one image."""
    return net(torch.from_numpy(normalise(data.image(id)))[None])


@pytest.fixture(scope="module")
def finished(shapes, inputs):
    out = inputs / "run"
    trained = train(shapes, inputs, out)
    return trained, irn.infer(
        shapes, trained.weights, out, maps=inputs / "maps", backbone="small", recipe=QUICK
    )


def test_what_it_leaves(finished, shapes, inputs):
    trained, refined = finished
    assert trained.weights == inputs / "run/irn/weights.pth" and np.isfinite(trained.losses).all()
    for id in shapes.ids:
        maps, keys = load_maps(refined.maps, id), np.flatnonzero(shapes.tags_of(id)) + 1
        np.testing.assert_array_equal(maps.keys, keys)
        assert maps.high_res.shape == (len(keys), *shapes.size(id)) and maps.strided.shape[
            1:
        ] == strided_size(*shapes.size(id))
        assert maps.high_res.min() >= 0 and maps.high_res.max() == 1
        mask = read_labels(refined.masks / f"{id}.png")
        np.testing.assert_array_equal(
            mask, to_labels(label_index(maps.high_res, QUICK.threshold), maps.keys)
        )
    assert not list((inputs / "run").rglob("*.tmp*")) and not list(
        (inputs / "run").rglob("begun.json")
    )
    assert (
        json.loads((inputs / "run/irn/done.json").read_text())["arguments"]["recipe"]["radius"] == 4
    )


def test_the_mean_displacement_is_what_the_trained_network_sees(finished, shapes):
    net = nets.load_weights(nets.irn_resnet50(backbone="small"), finished[0].weights).eval()
    assert net.mean_displacement.abs().min() > 1e-4
    seen = torch.cat(
        [outputs(net, shapes, id)[1] for id in shapes.ids]
    )  # its mean is taken off already
    assert seen.mean(dim=(0, 2, 3)).abs().max() < 1e-4


def test_same_seed_same_weights(finished, shapes, inputs, tmp_path):
    def values(trained):
        return torch.load(trained.weights, weights_only=True)

    one, other = values(finished[0]), values(train(shapes, inputs, tmp_path / "a"))
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
    assert not torch.equal(
        one["edge_out.weight"],
        values(train(shapes, inputs, tmp_path / "b", seed=1))["edge_out.weight"],
    )


def test_boundaries_are_learned(shapes, inputs, tmp_path):
    """After some epochs on true masks, boundaries are higher on the outlines of objects than elsewhere."""
    trained = train(shapes, inputs, tmp_path, dataclasses.replace(QUICK, epochs=40))
    assert trained.losses[-1] < 0.8 * trained.losses[0]
    net = nets.load_weights(nets.irn_resnet50(backbone="small"), trained.weights).eval()
    on, off = [], []
    for id in shapes.ids:
        edge, mask = outputs(net, shapes, id)[0].sigmoid()[0, 0].numpy(), shapes.mask(id)[::4, ::4]
        outline = np.zeros(mask.shape, bool)
        outline[:, 1:] |= mask[:, 1:] != mask[:, :-1]
        outline[1:] |= mask[1:] != mask[:-1]
        on.append(edge[outline].mean())
        off.append(edge[~outline].mean())
    assert np.mean(on) > np.mean(off) + 0.1


@pytest.mark.parametrize(
    ("height", "width", "pad", "seen"),
    [
        (40, 60, 512, (512, 512)),
        (520, 512, 512, (1024, 512)),
        (41, 61, 1, (41, 61)),
    ],
)
def test_images_are_padded_never_cropped(height, width, pad, seen):
    def network(images):
        assert images.shape[-2:] == seen
        return images.new_zeros(2, 1, *strided_size(*seen)), None

    edge = irn.boundaries(network, torch.zeros(2, 3, height, width), pad)
    assert edge.shape == (1, *strided_size(height, width)) and (edge == 0.5).all()


def test_no_tag_and_boundaries_everywhere():
    recipe = irn.RECIPES["resnet50"]
    empty = ClassMaps(np.zeros(0, np.int16), np.zeros((0, 4, 5), np.float32))
    assert irn.walk_maps(empty, torch.zeros(4, 5), (13, 17), recipe).high_res.shape == (0, 13, 17)
    maps = ClassMaps(np.array([3], np.int16), np.ones((1, 4, 5), np.float32))
    walled = irn.walk_maps(maps, torch.ones(4, 5), (13, 17), recipe)
    assert (walled.high_res == 0).all() and (walled.strided == 0).all()
    negative = ClassMaps(
        maps.keys, maps.strided * np.array([-1e-3, 1, 1, 1, 1], np.float32)
    )  # to the power 1.3: NaN
    assert np.isfinite(irn.walk_maps(negative, torch.zeros(4, 5), (13, 17), recipe).high_res).all()


def test_bad_input_stops_before_anything_is_written(shapes, inputs, finished, tmp_path):
    out, weights = tmp_path / "run", finished[0].weights
    with pytest.raises(InputError, match="seeds: .* has no PNG for 24 of 24 ids"):
        irn.train(shapes, out, seeds=tmp_path, backbone="small")
    with pytest.raises(InputError, match="radius: got 40, but a grid of 16x16 cells"):
        irn.train(
            shapes,
            out,
            seeds=inputs / "seeds",
            backbone="small",
            recipe=dataclasses.replace(QUICK, radius=40),
        )
    with pytest.raises(InputError, match="maps: .* is not a directory"):
        irn.infer(shapes, weights, out, maps=tmp_path / "nowhere", backbone="small")
    with pytest.raises(InputError, match=r"missing: .*edge\.0\.0\.weight"):
        irn.infer(shapes, inputs / "cam.pth", out, maps=inputs / "maps", backbone="small")
    with pytest.raises(InputError, match="threshold in 0..1, got 1, 1.3 and 2"):
        irn.infer(
            shapes,
            weights,
            out,
            maps=inputs / "maps",
            backbone="small",
            recipe=dataclasses.replace(QUICK, threshold=2),
        )
    for id in shapes.ids:
        save_maps(tmp_path / "odd", id, ClassMaps(np.array([1]), np.zeros((1, 5, 5), np.float32)))
    with pytest.raises(
        InputError, match=r"npz: strided maps are \(5, 5\), but the image needs \(16, 16\)"
    ):
        irn.infer(shapes, weights, out, maps=tmp_path / "odd", backbone="small", recipe=QUICK)
    assert not out.exists()


def test_the_papers_recipe_runs_with_the_full_network(shapes, inputs, tmp_path):
    some, paper = shapes.only(shapes.ids[:2]), irn.RECIPES["resnet50"]
    recipe = dataclasses.replace(
        paper, epochs=1, batch_size=2, augment=dataclasses.replace(paper.augment, crop=80), pad=80
    )
    trained = irn.train(some, tmp_path, seeds=inputs / "seeds", recipe=recipe)
    refined = irn.infer(some, trained.weights, tmp_path, maps=inputs / "maps", recipe=recipe)
    assert len(list(refined.masks.glob("*.png"))) == 2


def test_cam_maps_will_do_too(shapes, inputs, finished, tmp_path):
    """Maps without a background row, as the classifier leaves them."""
    some = shapes.only(shapes.ids[:3])
    cams = cam.infer(some, inputs / "cam.pth", tmp_path, backbone="small")
    refined = irn.infer(
        some, finished[0].weights, tmp_path, maps=cams.maps, backbone="small", recipe=QUICK
    )
    assert len(list(refined.masks.glob("*.png"))) == 3
