"""Signals that ask a run to end: noted, and acted upon when the step is done."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

_ASKING = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


class StopNow(BaseException):
    """Raised from inside work that may be dropped half done, see `StopSignal.interruptible`."""


class StopSignal:
    """Notes SIGINT, SIGTERM and SIGHUP while it is entered. A second SIGINT ends the process without more
    ado.

    Of several processes (`alone` False) none may drop out on its own: they agree on the step, and repeats
    are ignored, since a launcher passes on what the terminal has already sent.

    Args:
        lost: what a second SIGINT loses and how to go on, for its KeyboardInterrupt.
    """

    def __init__(self, alone: bool = True, lost: Callable[[], str] = str) -> None:
        self.number: int | None = None
        self._alone = alone
        self._lost = lost
        self._may_drop = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            for number in _ASKING:
                # nohup has had SIGHUP ignored: the run shall outlive its terminal.
                if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
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
            raise KeyboardInterrupt(self._lost())
        if self.number is None and self._alone and number == signal.SIGINT:
            _answer("strop: finishing the step and saving; Ctrl-C again leaves at once, without")
        self.number = number
        if self._may_drop:
            self._may_drop = False
            raise StopNow


def _answer(message: str) -> None:
    """Past Python's own buffers, which the signal may have come in the midst of."""
    with suppress(OSError, ValueError, AttributeError):
        os.write(sys.stderr.fileno(), f"\n{message}\n".encode())
