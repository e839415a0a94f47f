"""Standard input, output and error, which may be closed or know few letters."""

import os
import sys
from typing import TextIO


def prepare() -> None:
    """Opens what is closed, as a daemon's may be, on the null device, and lets no letter that an encoding
    lacks end the process: it becomes a question mark."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number, so this one: else the next file that is opened would be taken for it.
            os.open(os.devnull, os.O_RDWR)
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        stream: TextIO | None = getattr(sys, name)
        if stream is None or stream.closed:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace" if stream is sys.stdout else "backslashreplace")


def write_utf8() -> None:
    """For output that is data, in UTF-8 as the input is."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(encoding="utf-8", errors="strict")


def abandon_stdout() -> None:
    """Else what is still in the buffer is tried once more, and complained of, when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
