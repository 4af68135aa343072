"""Commands of the segmentation network."""

from wsss_fast.command import Command

COMMANDS = (
    Command(
        "seg train",
        "wsss_fast.seg.training:train",
        numbers="recipe",
        defaults="RECIPES",
        presets="PRESETS",
    ),
    Command(
        "seg infer",
        "wsss_fast.seg.inference:infer",
        numbers="recipe",
        defaults="RECIPES",
        presets="PRESETS",
        network="seg",
        numbers_in_weights=True,
        predicts=True,
        needs_tags=False,
    ),
)
