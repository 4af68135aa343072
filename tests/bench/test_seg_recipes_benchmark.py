"""Recipes of the benchmark that transfers the published differences to the small network."""

from benchmarks import seg_recipes
from wsss_fast import seg


def test_the_recipes_differ_as_the_published_ones_do():
    small = seg_recipes.recipes(800)
    names = ("none", "batch", "image")
    assert list(small) == ["deeplab-pytorch", *(f"advcam, balance {name}" for name in names)]
    ours = small["deeplab-pytorch"], small["advcam, balance image"]
    published = seg.PRESETS["deeplab-pytorch"].numbers, seg.PRESETS["advcam"].numbers
    for mine, theirs in zip(ours, published, strict=True):
        assert mine.augment.factors == theirs.augment.factors and mine.balance == theirs.balance
    assert ours[1].updates / ours[0].updates == published[1].updates / published[0].updates == 1.5


def test_the_table_has_mean_and_half_the_range():
    rows = {"one": [{"plain": 70.0, "crf": 75.0}, {"plain": 72.0, "crf": 75.5}]}
    line = seg_recipes.table(rows).splitlines()[2]
    assert line == "| one | 71.0 ± 1.0 | 70.0, 72.0 | 75.2 ± 0.2 | 75.0, 75.5 |"
