"""SIGINT and SIGTERM: the first asks the run to stop after a checkpoint, the second ends it at once."""

from __future__ import annotations

import os
import signal
from types import FrameType


class Stopped(Exception):
    """The run was asked to stop, and has saved a checkpoint; ``status`` is what to exit with."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.status = 128 + number


class Interrupt:
    """``requested()`` says whether a signal came to ``handle``."""

    def __init__(self) -> None:
        self.number: int | None = None

    def requested(self) -> bool:
        return self.number is not None

    def handle(self, number: int, _: FrameType | None) -> None:
        if self.number is not None:
            os._exit(128 + number)
        self.number = number
        name = signal.Signals(number).name
        # Not sys.stderr: the signal may have come in the middle of a write to it, which can't be entered twice.
        os.write(2, f"\n{name}: saving a checkpoint and stopping; once more to stop at once\n".encode())
