"""Commands of the command line."""

from wsss_fast.command import Command

COMMANDS = (
    Command("irn train", "wsss_fast.irn.method:train", numbers="recipe", defaults="RECIPES"),
    Command("irn infer", "wsss_fast.irn.method:infer", numbers="recipe", defaults="RECIPES"),
)
