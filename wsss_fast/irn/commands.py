"""Commands of IRN."""

from wsss_fast.command import Command

COMMANDS = (
    Command(
        "irn run",
        "wsss_fast.irn.pipeline:run",
        numbers="pipeline",
        defaults="PIPELINES",
        presets="PRESETS",
    ),
    Command("irn train", "wsss_fast.irn.training:train", numbers="recipe", defaults="RECIPES"),
    Command(
        "irn infer",
        "wsss_fast.irn.inference:infer",
        numbers="recipe",
        defaults="RECIPES",
        network="irn",
        numbers_in_weights=True,
    ),
    Command(
        "irn instances",
        "wsss_fast.irn.instances:find_instances",
        numbers="recipe",
        defaults="INSTANCE_RECIPES",
        network="irn",
    ),
    Command(
        "irn evaluate-instances",
        "wsss_fast.evaluation.instances:evaluate_instances",
        if_stopped="the same command starts again",
    ),
)
