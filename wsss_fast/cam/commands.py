"""Commands of the CAM classifier."""

from wsss_fast.command import Command

COMMANDS = (
    Command("cam train", "wsss_fast.cam.training:train", numbers="recipe", defaults="RECIPES"),
    Command(
        "cam infer",
        "wsss_fast.cam.inference:infer",
        numbers="recipe",
        defaults="RECIPES",
        network="cam",
        numbers_in_weights=True,
    ),
)
