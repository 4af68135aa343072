"""The command that predicts new images."""

from wsss_fast.command import Command

COMMANDS = (
    Command(
        "predict",
        "wsss_fast.prediction.command:predict_files",
        positional=("images",),
        short={"out": "-o"},
        flat=True,
    ),
)
