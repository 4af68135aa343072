"""Commands of EPS."""

from wsss_fast.command import Command

COMMANDS = (
    Command(
        "eps run",
        "wsss_fast.eps.pipeline:run",
        numbers="pipeline",
        defaults="PIPELINES",
        presets="PRESETS",
        saliency=True,
    ),
    Command(
        "eps train",
        "wsss_fast.eps.training:train",
        numbers="recipe",
        defaults="RECIPES",
        saliency=True,
    ),
    Command(
        "eps infer",
        "wsss_fast.eps.inference:infer",
        numbers="recipe",
        defaults="RECIPES",
        network="eps",
        numbers_in_weights=True,
    ),
    Command(
        "eps analyse",
        "wsss_fast.eps.analyses:analyse",
        numbers="pipeline",
        defaults="PIPELINES",
        presets="PRESETS",
        saliency=True,
    ),
)
