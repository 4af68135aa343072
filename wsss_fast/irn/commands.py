"""Commands of IRN."""

from wsss_fast.command import Command

COMMANDS = (
    Command("irn train", "wsss_fast.irn.training:train", numbers="recipe", defaults="RECIPES"),
    Command("irn infer", "wsss_fast.irn.inference:infer", numbers="recipe", defaults="RECIPES"),
)
