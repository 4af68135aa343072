"""Tasks of Label Studio: regions that decode to the masks, addresses, the configuration."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from brush_decoder import mask_of
from PIL import Image

from wsss_fast import InputError, RunError
from wsss_fast.export import open_masks, to_labelstudio


def test_decoded_regions_are_the_masks(masks, tmp_path, files_of):
    out = tmp_path / "out/tasks.json"
    assert to_labelstudio(masks, out, url="https://a.b/c/") == out
    assert files_of() == ["out/tasks.json", "out/tasks.xml"]
    tasks = json.loads(out.read_text())
    opened = open_masks(masks)
    assert len(tasks) == len(opened)
    for task, (id, labels) in zip(tasks, opened, strict=True):
        assert task["data"] == {"image": f"https://a.b/c/{id}.jpg"}
        (prediction,) = task["predictions"]
        assert set(prediction) == {"model_version", "result"}
        found = np.zeros_like(labels)
        for region in prediction["result"]:
            value = region["value"]
            assert set(value) == {"format", "rle", "brushlabels"} and value["format"] == "rle"
            assert region["type"] == "brushlabels" and region["image_rotation"] == 0
            shape = region["original_height"], region["original_width"]
            assert shape == labels.shape
            inside = mask_of(value["rle"], shape) == 255
            assert not found[inside].any()
            found[inside] = 1 + opened.classes.index(value["brushlabels"][0])
        assert np.array_equal(found, np.where(labels == 255, 0, labels))
    regions = [r for t in tasks for p in t["predictions"] for r in p["result"]]
    assert len({region["id"] for region in regions}) == len(regions) == 3


def test_the_worked_example_is_in_the_file(masks, tmp_path):
    (masks / "two.png").unlink()
    to_labelstudio(masks, tmp_path / "tasks.json")
    first = json.loads((tmp_path / "tasks.json").read_text())[0]
    (region,) = first["predictions"][0]["result"]
    expected = [0, 0, 0, 120, 57, 27, 254, 27, 0, 183, 255, 108, 2, 223, 254, 55, 0]
    assert region["value"]["rle"] == expected


def test_the_configuration_has_the_names_of_the_regions(masks, tmp_path):
    to_labelstudio(masks, tmp_path / "tasks.json")
    view = ET.parse(tmp_path / "tasks.xml").getroot()
    brush, image = view.find("BrushLabels"), view.find("Image")
    assert [label.get("value") for label in brush] == ["cat & <dog>", "größe"]
    assert brush[0].get("background") == "#800000"
    region = json.loads((tmp_path / "tasks.json").read_text())[0]["predictions"][0]["result"][0]
    assert region["from_name"] == brush.get("name")
    assert region["to_name"] == brush.get("toName") == image.get("name")
    assert image.get("value") == "$image"


def test_names_of_photos_are_quoted(masks, tmp_path):
    (tmp_path / "photos").mkdir()
    (masks / "one.png").rename(masks / "a b#ü.png")
    for name in ("a b#ü", "two"):
        Image.new("RGB", (6, 5)).save(tmp_path / f"photos/{name}.webp")
    Image.new("RGB", (3, 4)).save(tmp_path / "photos/zero.png")
    to_labelstudio(masks, tmp_path / "tasks.json", images=tmp_path / "photos")
    addresses = [t["data"]["image"] for t in json.loads((tmp_path / "tasks.json").read_text())]
    start = "/data/local-files/?d="
    assert addresses == [f"{start}{n}" for n in ("a%20b%23%C3%BC.webp", "two.webp", "zero.png")]


def test_ignored_pixels_are_remarked(masks, tmp_path, capfd):
    to_labelstudio(masks, tmp_path / "tasks.json")
    assert "ignored pixels (255) belong to no class" in (text := capfd.readouterr().err)
    assert "1 of 3 masks: " in text and "two.png" in text


def test_a_broken_mask_is_left_out(masks, tmp_path):
    (masks / "one.png").write_bytes(b"")
    with pytest.raises(RunError, match=r"1 of 3 masks were left out; .* in .*tasks\.json"):
        to_labelstudio(masks, tmp_path / "tasks.json")
    assert len(json.loads((tmp_path / "tasks.json").read_text())) == 2


def test_without_a_usable_mask_nothing_is_written(masks, tmp_path, files_of):
    for path in masks.glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="none of 3 masks can be used"):
        to_labelstudio(masks, tmp_path / "tasks.json")
    assert files_of() == []


@pytest.mark.parametrize("name", ["tasks.xml", "tasks", "masks", "masks/classes.json"])
def test_impossible_outputs_are_rejected(masks, tmp_path, name, files_of):
    with pytest.raises(InputError, match="out: "):
        to_labelstudio(masks, tmp_path / name)
    assert files_of() == []
