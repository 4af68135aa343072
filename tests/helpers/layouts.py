"""Synthetic data sets in the layout of VOC2012, COCO14 and labels.csv, for any command.

Each has about a dozen pictures: noise with a filled box per tag, in the colour of its class. Masks,
boxes and polygons match the boxes.
"""

import json

import numpy as np
from PIL import Image

from wsss_fast.data import VOC_CLASSES, write_labels

# COCO's categories as (first id, names): ids are consecutive in a group; COCO has no ids in
# between.
_COCO_GROUPS = [
    (1, "person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant"),
    (13, "stop_sign parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe"),
    (27, "backpack umbrella"),
    (
        31,
        "handbag tie suitcase frisbee skis snowboard sports_ball kite baseball_bat baseball_glove "
        "skateboard surfboard tennis_racket bottle",
    ),
    (
        46,
        "wine_glass cup fork knife spoon bowl banana apple sandwich orange broccoli carrot hot_dog "
        "pizza donut cake chair couch potted_plant bed",
    ),
    (67, "dining_table"),
    (70, "toilet"),
    (72, "tv laptop mouse remote keyboard cell_phone microwave oven toaster sink refrigerator"),
    (84, "book clock vase scissors teddy_bear hair_drier toothbrush"),
]
COCO_CATEGORIES = [
    (first + n, name.replace("_", " "))
    for first, names in _COCO_GROUPS
    for n, name in enumerate(names.split())
]

# Labels 1..C of the boxes of each image; the last COCO image of a split has none.
VOC_LABELS = {
    "train": {
        "2007_000032": [1, 15],
        "2007_000039": [20],
        "2007_000063": [9, 12],
        "2007_000068": [3],
        "2008_000015": [5],
        "2008_000019": [12, 8],
        "2010_000001": [19],
        "2011_003276": [14, 15],
    },
    "val": {"2007_000033": [1], "2007_000042": [19], "2007_000061": [4, 15], "2007_000123": [19]},
}
# Images of trainaug that are not in train, and images of test, which have neither tags nor masks.
VOC_MORE = {"2008_000002": [20], "2009_000001": [9, 15], "2011_000003": [3]}
VOC_TEST = {"2008_000006": [1], "2008_000011": [15]}
COCO_LABELS = {
    "train": {
        9: [46, 50, 51],
        25: [24],
        30: [76],
        34: [23],
        36: [1, 26],
        49: [1, 18],
        61: [1, 21],
        64: [],
    },
    "val": {42: [17], 73: [4], 74: [2, 17], 133: []},
}


def paint(labels, size, seed):
    """Photo [H, W, 3], mask [H, W] with 255 around every box, and boxes (x0, y0, x1, y1)."""
    height, width = size
    image = np.random.default_rng(seed).normal(118, 12, (height, width, 3))
    mask, boxes = np.zeros((height, width), np.uint8), []
    y0, y1 = height // 5, height - height // 6
    for n, label in enumerate(labels):  # side by side, so that none hides another
        step = width // len(labels)
        x0, x1 = n * step + step // 8, (n + 1) * step - step // 8
        mask[y0 - 1 : y1 + 1, max(x0 - 1, 0) : x1 + 1] = 255
        mask[y0:y1, x0:x1] = label
        image[y0:y1, x0:x1] += np.random.default_rng(label).uniform(-90, 90, 3)
        boxes.append((x0, y0, x1, y1))
    return np.clip(image, 0, 255).astype(np.uint8), mask, boxes


def _size(n, size):
    """Landscape and portrait sizes, as in both data sets."""
    return size if n % 3 else size[::-1]


def _saliency(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.where((mask > 0) & (mask < 255), 230, 12).astype(np.uint8)).save(path)


def make_voc(root, size=(60, 80), *, more=False, test=False):
    """VOC2012 with 8 training and 4 validation images of about `size` (H, W).

    With `more`, 3 images of trainaug, which is in no list, and SegmentationClassAug with the masks
    of all; with `test`, 2 images of the test list, without annotations.
    """
    for n, (split, id) in enumerate((s, i) for s, ids in VOC_LABELS.items() for i in ids):
        folders = ["SegmentationClass", *(["SegmentationClassAug"] if more else [])]
        _voc_image(root, id, VOC_LABELS[split][id], n, size, folders)
    for n, (id, labels) in enumerate(VOC_MORE.items() if more else ()):
        _voc_image(root, id, labels, n, size, ["SegmentationClassAug"])
    for n, (id, labels) in enumerate(VOC_TEST.items() if test else ()):
        _voc_image(root, id, labels, n, size, [])
        (root / "Annotations" / f"{id}.xml").unlink()
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True, exist_ok=True)
    for split, ids in {**VOC_LABELS, **({"test": VOC_TEST} if test else {})}.items():
        (lists / f"{split}.txt").write_text("".join(f"{id}\n" for id in ids))
    return root


def _voc_image(root, id, labels, n, size, mask_folders):
    """Photo, annotation, saliency map and masks of one image."""
    image, mask, boxes = paint(labels, _size(n, size), n)
    for folder in ("JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(root / "JPEGImages" / f"{id}.jpg", quality=95)
    for folder in mask_folders:
        write_labels(root / folder / f"{id}.png", mask)
    _saliency(root / "saliency" / f"{id}.png", mask)
    objects = "".join(
        f"<object><name>{VOC_CLASSES[k - 1]}</name><pose>Left</pose>"
        "<truncated>0</truncated><difficult>0</difficult>"
        f"<bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin>"
        f"<xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for k, (x0, y0, x1, y1) in zip(labels, boxes, strict=True)
    )
    (root / "Annotations" / f"{id}.xml").write_text(
        f"<annotation><folder>VOC2012</folder><filename>{id}.jpg</filename>"
        f"<segmented>1</segmented>{objects}</annotation>"
    )


def coco_id(number, split="train"):
    return f"COCO_{split}2014_{number:012d}"


def make_coco(root, size=(60, 80)):
    """COCO14 with 8 training and 4 validation images.

    One photo is gray, one annotation is a crowd, one image has no annotation.
    """
    for split, images in COCO_LABELS.items():
        folder, listed, annotations = f"{split}2014", [], []
        (root / folder).mkdir(parents=True, exist_ok=True)
        for n, (number, labels) in enumerate(images.items()):
            image, mask, boxes = paint(labels, _size(n, size), number)
            id, photo = coco_id(number, split), Image.fromarray(image)
            (photo.convert("L") if n == 2 else photo).save(root / folder / f"{id}.jpg", quality=95)
            write_labels(root / "masks" / folder / f"{id}.png", mask)
            _saliency(root / "saliency" / folder / f"{id}.png", mask)
            listed.append(
                {
                    "license": 1,
                    "file_name": f"{id}.jpg",
                    "height": mask.shape[0],
                    "width": mask.shape[1],
                    "date_captured": "2013-11-14 00:00:00",
                    "id": number,
                }
            )
            for k, (x0, y0, x1, y1) in zip(labels, boxes, strict=True):
                crowd = int(n == 4 and k == 26)
                outline = (
                    {"counts": [0, mask.size], "size": list(mask.shape)}
                    if crowd
                    else [[x0, y0, x1, y0, x1, y1, x0, y1]]
                )
                annotations.append(
                    {
                        "segmentation": outline,
                        "area": (x1 - x0) * (y1 - y0),
                        "iscrowd": crowd,
                        "image_id": number,
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "category_id": COCO_CATEGORIES[k - 1][0],
                        "id": 1000 * number + len(annotations),
                    }
                )
        # COCO's lists have no particular order, so these are not ascending.
        content = {
            "info": {"year": 2014},
            "images": listed[::-1],
            "licenses": [],
            "annotations": annotations,
            "categories": [
                {"supercategory": "thing", "id": c, "name": name}
                for c, name in COCO_CATEGORIES[::-1]
            ],
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{folder}.json").write_text(json.dumps(content))
    return root


FOLDER_ROWS = {"a": ["cup"], "b": ["dish", "cup"], "c": [], "d": ["spoon"]}
FOLDER_CLASSES = ("cup", "dish", "spoon")


def make_folder(root, size=(60, 80)):
    """A folder with labels.csv and four images, one without tags; three have masks."""
    (root / "masks").mkdir(parents=True)
    (root / "photos").mkdir()
    for n, (id, names) in enumerate(FOLDER_ROWS.items()):
        image, mask, _ = paint(
            [FOLDER_CLASSES.index(name) + 1 for name in names], _size(n, size), n
        )
        Image.fromarray(image).save(root / "photos" / f"{id}.png")
        _saliency(root / "saliency" / f"{id}.png", mask)
        if id != "d":
            write_labels(root / "masks" / f"{id}.png", mask)
    lines = [f"photos/{id}.png,{';'.join(names)}" for id, names in FOLDER_ROWS.items()]
    (root / "labels.csv").write_text("\n".join(["file,class", *lines, ""]))
    return root


def tagged(loaded, id):
    """Labels 1..C of the tags of one image."""
    return sorted(np.flatnonzero(loaded.tags_of(id)) + 1)


def masked(loaded, id):
    """Labels 1..C in the mask of one image."""
    return sorted(np.setdiff1d(np.unique(loaded.mask(id)), [0, 255]))
