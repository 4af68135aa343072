"""Saliency maps: checks, comparison with class maps, and maps computed from colours."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from wsss_fast import InputError, data
from wsss_fast.engine import remarks
from wsss_fast.maps import ClassMaps, save_maps
from wsss_fast.stages import saliency


def with_saliency(shapes, folder, levels_of):
    """`shapes` with the saliency maps `levels_of(id)`."""
    for id in shapes.ids:
        data.write_labels(folder / f"{id}.png", levels_of(id), palette=b"")
    return data.load(shapes.root, saliency=folder)


def objects(shapes, bright=255):
    """id -> levels that are `bright` on the objects, 0 elsewhere."""
    return lambda id: np.where(shapes.mask(id) % 255 > 0, bright, 0)


def test_missing_maps_are_counted(shapes, tmp_path):
    some = with_saliency(shapes, tmp_path / "maps", objects(shapes))
    assert saliency.check(some) == 0
    lacking = dataclasses.replace(
        some, saliencies={k: v for k, v in some.saliencies.items() if k != shapes.ids[4]}
    )
    with pytest.raises(
        InputError, match=f"no map for 1 of 24 ids, first '{shapes.ids[4]}'; needs <id>.png in"
    ):
        saliency.check(lacking)


def test_black_maps(shapes, tmp_path, capsys):
    dark = with_saliency(
        shapes,
        tmp_path / "one",
        lambda id: objects(shapes)(id) if id != shapes.ids[2] else np.zeros((64, 64)),
    )
    assert saliency.check(dark) == 1
    err = capsys.readouterr().err
    assert "black saliency map" in err and "1 of 24 maps" in err and shapes.ids[2] in err
    with pytest.raises(InputError, match="all maps are black"):
        saliency.check(with_saliency(shapes, tmp_path / "all", objects(shapes, 0)))
    with pytest.raises(InputError, match="hold 0 and 1 only; write binary maps as 0 and 255"):
        saliency.check(with_saliency(shapes, tmp_path / "ones", objects(shapes, 1)))


@pytest.fixture
def class_maps(shapes, tmp_path):
    """Maps that are high on the upper half of each object, as a classifier's are on a part."""
    for id in shapes.ids:
        keys = np.flatnonzero(shapes.tags_of(id)) + 1
        on = np.stack([shapes.mask(id) == k for k in keys])[:, ::4, ::4].astype(np.float32)
        rows = np.nonzero(on.any(axis=(0, 2)))[0]
        if len(rows):
            on[:, int(rows.mean()) + 1 :] = 0
        save_maps(tmp_path / "cam", id, ClassMaps(keys, on))
    return tmp_path / "cam"


def test_inverted_maps_are_reported(shapes, class_maps, tmp_path, capsys):
    right = saliency.overlap(with_saliency(shapes, tmp_path / "right", objects(shapes)), class_maps)
    assert right.inside > 0.5 > right.outside and not right.inverted
    assert "look inverted" not in capsys.readouterr().err
    detector = saliency.overlap(shapes, class_maps)  # with missed objects and distractors
    assert detector.inside > detector.outside and not detector.inverted
    assert "look inverted" not in capsys.readouterr().err
    dark = saliency.overlap(
        with_saliency(shapes, tmp_path / "dark", lambda id: 255 - objects(shapes)(id)), class_maps
    )
    assert dark.inside == pytest.approx(1 - right.inside, abs=0.5 / 255)
    assert len(dark.inverted) > 12
    assert "these maps look inverted; objects must be bright" in capsys.readouterr().err
    three = shapes.ids[:3]
    some = with_saliency(
        shapes, tmp_path / "some", lambda id: objects(shapes)(id) ^ (255 if id in three else 0)
    )
    found = saliency.overlap(some, class_maps)
    assert found.inverted and set(found.inverted) <= set(three) and found.inside > found.outside
    assert f"{len(found.inverted)} of 24 maps look inverted, first" in capsys.readouterr().err


def test_colours_unlike_the_border_are_salient():
    image = np.zeros((60, 80, 3), np.uint8)
    image[:30], image[30:] = (120, 160, 220), (90, 130, 60)  # sky above, grass below
    image[20:45, 30:50] = (220, 60, 40)
    contrast = saliency.border_contrast(image)
    assert contrast[24:41, 34:46].min() > 0.8
    assert contrast[:, :20].max() < 0.2 and contrast[:, 60:].max() < 0.2
    assert (saliency.border_contrast(np.full((5, 7, 3), 90, np.uint8)) == 0).all()
    assert np.isfinite(saliency.border_contrast(image[:1, :1])).all()


def test_maps_from_colours_are_saliency_maps(shapes, tmp_path):
    result = saliency.make(shapes, tmp_path)
    loaded = data.load(shapes.root, saliency=result.folder)
    assert saliency.check(loaded) == 0
    inside, outside = [], []
    for id in shapes.ids:
        salient, mask = loaded.saliency(id), shapes.mask(id)
        assert salient.shape == mask.shape
        inside.append(salient[mask % 255 > 0].mean())
        outside.append(salient[mask == 0].mean())
    assert np.nanmean(inside) > np.mean(outside) + 0.1
    notes = json.loads((tmp_path / "saliency/done.json").read_text())["notes"]
    assert notes["images_per_second"] > 0


def test_useless_maps_are_counted(shapes, tmp_path):
    first, second, third, fourth = shapes.ids[:4]
    levels = {
        first: np.full((64, 64), 255),
        second: objects(shapes, 100)(second),
        third: objects(shapes, 1)(third),
        fourth: np.zeros((64, 64)),
    }
    some = with_saliency(shapes, tmp_path / "maps", lambda id: levels.get(id, objects(shapes)(id)))
    with remarks.collected():
        assert saliency.check(some) == 1
        lines = remarks.lines()
    for text, id in (
        ("constant saliency map", first),
        ("below half of the range 0 to 255 throughout", second),
        ("of 0 and 1 only, which is nearly black", third),
        ("black saliency map", fourth),
    ):
        (line,) = (line for line in lines if text in line)
        assert "1 of 24 maps" in line and f"{id}.png" in line
    assert len(lines) == 4


def test_maps_that_are_all_constant_are_rejected(shapes, tmp_path):
    white = with_saliency(shapes, tmp_path / "white", lambda id: np.full((64, 64), 255))
    with pytest.raises(InputError, match="each map has the same level at all its pixels"):
        saliency.check(white)


def test_dark_maps_are_all_counted(shapes, tmp_path):
    percent = with_saliency(shapes, tmp_path / "percent", objects(shapes, 100))
    with remarks.collected():
        dark = len(shapes) - saliency.check(percent)
        lines = remarks.lines()
    assert any(f"below half of the range 0 to 255 throughout: {dark} of 24" in x for x in lines)


def test_turned_maps_are_remarked(shapes, tmp_path):
    id = shapes.ids[0]
    maps = with_saliency(shapes, tmp_path / "maps", objects(shapes))
    Image.new("RGB", (48, 64)).save(tmp_path / "tall.png")
    data.write_labels(
        maps.saliencies[id], np.arange(48 * 64).reshape(48, 64) % 2 * 255, palette=b""
    )
    turned = dataclasses.replace(maps, images={**maps.images, id: tmp_path / "tall.png"})
    with remarks.collected():
        saliency.check(turned)
        (line,) = remarks.lines()
    assert "height and width are those of its photo exchanged: 1 of 24 maps" in line


def test_maps_stretched_to_the_whole_range_are_remarked(shapes, tmp_path):
    """Of a photo without an object, such a program returns what little the network saw."""
    y, x = np.mgrid[:64, :64]
    faint = 3 + np.sin(x / 9) * np.cos(y / 7)  # a little noise, with nothing salient
    stretched = np.rint(255 * (faint - faint.min()) / (faint.max() - faint.min()))
    edges = np.minimum(255, 255 * np.exp(-(((x - 30) / 15) ** 8 + ((y - 30) / 15) ** 8)))
    levels = dict(zip(shapes.ids, [stretched, edges.round()], strict=False))
    maps = with_saliency(shapes, tmp_path / "maps", lambda id: levels.get(id, objects(shapes)(id)))
    with remarks.collected():
        saliency.check(maps)
        (line,) = remarks.lines()
    assert "mostly of middle levels, though from 0 to 255" in line
    assert "1 of 24 maps" in line and shapes.ids[0] in line


def test_maps_with_the_names_of_poolnet(shapes, tmp_path):
    for id in shapes.ids[:2]:
        (tmp_path / "maps").mkdir(exist_ok=True)
        levels = Image.fromarray(objects(shapes)(id).astype(np.uint8))
        levels.save(tmp_path / "maps" / f"{id}_sal_fuse.png")
    loaded = data.load(shapes.root, saliency=tmp_path / "maps", ids=shapes.ids[:2])
    assert [loaded.saliencies[id].name for id in loaded.ids] == [
        f"{id}_sal_fuse.png" for id in loaded.ids
    ]
    assert saliency.check(loaded) == 0
    path = tmp_path / "maps" / f"{shapes.ids[0]}_sal_fuse.png"
    path.rename(path.with_name(f"{shapes.ids[0]}_dss.png"))
    with pytest.raises(InputError, match=r"_dss\.png is there; remove what follows the id"):
        saliency.check(data.load(shapes.root, saliency=tmp_path / "maps", ids=shapes.ids[:2]))


def test_files_of_other_formats_are_named(shapes, tmp_path):
    with_saliency(shapes, tmp_path / "maps", objects(shapes))
    id = shapes.ids[3]
    (tmp_path / "maps" / f"{id}.png").unlink()
    np.save(tmp_path / "maps" / f"{id}.npy", np.zeros((64, 64)))
    lacking = data.load(shapes.root, saliency=tmp_path / "maps")
    with pytest.raises(InputError, match=rf"no map for 1 of 24 ids.*; {id}\.npy is there, but"):
        saliency.check(lacking)


def test_a_broken_map_is_named(shapes, tmp_path):
    maps = with_saliency(shapes, tmp_path / "maps", objects(shapes))
    (tmp_path / "maps" / f"{shapes.ids[1]}.png").write_bytes(b"")
    with pytest.raises(InputError, match=rf"{shapes.ids[1]}\.png: .* it is empty"):
        saliency.check(maps)
