"""Commands of AMN."""

from wsss_fast.command import Command

COMMANDS = (
    Command(
        "amn run",
        "wsss_fast.amn.pipeline:run",
        numbers="pipeline",
        defaults="PIPELINES",
        presets="PRESETS",
    ),
    Command("amn train", "wsss_fast.amn.training:train", numbers="recipe", defaults="RECIPES"),
    Command(
        "amn infer",
        "wsss_fast.amn.inference:infer",
        numbers="recipe",
        defaults="RECIPES",
        network="amn",
        numbers_in_weights=True,
    ),
    Command(
        "amn analyse",
        "wsss_fast.amn.analyses:analyse",
        numbers="pipeline",
        defaults="PIPELINES",
        presets="PRESETS",
    ),
)
