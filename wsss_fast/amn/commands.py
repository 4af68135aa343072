"""Commands of the command line."""

from wsss_fast.command import Command

COMMANDS = (
    Command(
        "amn run",
        "wsss_fast.amn.pipeline:run",
        numbers="pipeline",
        defaults="PIPELINES",
        presets="PRESETS",
    ),
    Command("amn train", "wsss_fast.amn.method:train", numbers="recipe", defaults="RECIPES"),
    Command("amn infer", "wsss_fast.amn.method:infer", numbers="recipe", defaults="RECIPES"),
)
