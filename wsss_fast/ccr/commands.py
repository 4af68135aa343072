"""Commands of CCR."""

from wsss_fast.command import Command

COMMANDS = (
    Command(
        "ccr run",
        "wsss_fast.ccr.pipeline:run",
        numbers="pipeline",
        defaults="PIPELINES",
        presets="PRESETS",
        saliency=True,
    ),
    Command(
        "ccr infer",
        "wsss_fast.ccr.inference:infer",
        numbers="recipe",
        defaults="RECIPES",
        network="cam",
    ),
    Command(
        "ccr train",
        "wsss_fast.ccr.training:train",
        numbers="recipe",
        defaults="REFINEMENTS",
        saliency=True,
    ),
    Command(
        "ccr analyse",
        "wsss_fast.ccr.analyses:analyse",
        numbers="pipeline",
        defaults="PIPELINES",
        presets="PRESETS",
        saliency=True,
    ),
)
