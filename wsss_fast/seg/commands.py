"""Commands of the command line."""

from wsss_fast.command import Command

COMMANDS = (
    Command("seg train", "wsss_fast.seg.method:train", numbers="recipe", defaults="RECIPES"),
    Command("seg infer", "wsss_fast.seg.method:infer", numbers="recipe", defaults="RECIPES"),
)
