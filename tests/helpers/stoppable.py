"""`wsss-fast` with a training that waits after its fifth update until a signal has come.

While it waits, the file that the environment variable WAITS names exists. Of several processes, the
main one waits.
"""

import os
import time
from pathlib import Path

from wsss_fast import cli
from wsss_fast.engine import distributed, signals
from wsss_fast.stages import training


class WaitingCheckpoints(training.Checkpoints):
    """`due` is called after each update."""

    updates = 0

    def due(self):
        self.updates += 1
        if self.updates == 5 and distributed.is_main_process():
            Path(os.environ["WAITS"]).touch()
            while not signals.stop_requested():
                time.sleep(0.01)
        return super().due()


if __name__ == "__main__":
    training.Checkpoints = WaitingCheckpoints
    cli.main()
