"""Signals that ask a run to end: noted, and acted upon when the step is done."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class StopNow(BaseException):
    """Raised from inside work that may be dropped half done, see `StopSignal.interruptible`."""


class StopSignal:
    """Notes SIGINT and SIGTERM while it is entered. A second SIGINT ends the process without more ado.

    Of several processes (`alone` False) none may drop out on its own: they agree on the step, and repeats
    are ignored, since a launcher passes on what the terminal has already sent.
    """

    def __init__(self, alone: bool = True) -> None:
        self.number: int | None = None
        self._alone = alone
        self._may_drop = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Work inside is dropped at once on a signal, by StopNow, if this process is alone."""
        if self._alone and self.number is not None:
            raise StopNow
        self._may_drop = self._alone
        try:
            yield
        finally:
            self._may_drop = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None and self._alone and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
        if self._may_drop:
            self._may_drop = False
            raise StopNow
