"""Ctrl-C as a wish to stop between two updates, before a checkpoint is written; pressed twice, it stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Stop:
    """Inside the block, the first Ctrl-C sets ``asked``; only in the main thread, where signals arrive."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None
        self._caught = False

    def __enter__(self) -> Stop:
        handler = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and handler is signal.default_int_handler:
            self._before, self._caught = signal.signal(signal.SIGINT, self._hear), True
        return self

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __exit__(self, *_: object) -> None:
        if self._caught:
            signal.signal(signal.SIGINT, self._before)
