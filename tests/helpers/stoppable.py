"""`wsss-fast`, whose training waits after its fifth update until a signal has come, so that tests need no luck with time.

It says so by an empty file, which the environment's WAITS names. Of several processes the main one waits.
"""

import os
import time
from pathlib import Path

from wsss_fast import cli
from wsss_fast.engine import distributed, signals
from wsss_fast.stages import training


class Waiting(training.Checkpoints):
    """Asked after each update whether a checkpoint is due."""

    updates = 0

    def due(self):
        self.updates += 1
        if self.updates == 5 and distributed.is_main_process():
            Path(os.environ["WAITS"]).touch()
            while not signals.stop_requested():
                time.sleep(0.01)
        return super().due()


if __name__ == "__main__":
    training.Checkpoints = Waiting
    cli.main()
