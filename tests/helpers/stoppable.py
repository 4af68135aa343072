"""`wsss-fast`, whose training waits for a signal after its fifth update, so that no test is timed.

When it waits, it creates the empty file that the environment variable WAITS names. Of several
processes, the main one waits.
"""

import os
import time
from pathlib import Path

from wsss_fast import cli
from wsss_fast.engine import distributed, signals
from wsss_fast.stages import training


class Waiting(training.Checkpoints):
    """Waits when it is asked, after the fifth update, whether a checkpoint is due."""

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
