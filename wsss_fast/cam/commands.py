"""Commands of the command line."""

from wsss_fast.command import Command

COMMANDS = (
    Command("cam train", "wsss_fast.cam.method:train", numbers="recipe", defaults="RECIPES"),
    Command("cam infer", "wsss_fast.cam.method:infer", numbers="recipe", defaults="RECIPES"),
)
