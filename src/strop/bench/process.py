"""Objects in processes of their own: what they load and start disturbs no other, and they can be stopped."""

import os
import signal
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import torch

_PATIENCE = 2.0  # seconds


class Remote:
    """An object in a new process, made there by `build(*arguments)` at the first call; a context manager.

    Args:
        build: found by its module and name.
        threads: for torch; and the CPUs of the process are no more than that, which is what others go by.
    """

    def __init__(self, build: Callable[..., Any], *arguments: Any, threads: int) -> None:
        self._scratch = TemporaryDirectory(prefix="strop-")
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, self._scratch.name, threads, build, arguments), daemon=True
        )
        self._process.start()
        theirs.close()

    def call(self, name: str, *arguments: Any, limit: float | None = None) -> Any:
        """The result of the object's method `name`.

        Raises:
            TimeoutError: it took over `limit` seconds; the process is ended.
            RuntimeError: it raised something, or the process died; or the object could not be made.
        """
        try:
            self._pipe.send((name, arguments))
            if not self._pipe.poll(limit):
                self.close()
                raise TimeoutError(f"over {limit:g} s")
            error, result = self._pipe.recv()
        except (EOFError, BrokenPipeError):
            self._process.join()
            raise RuntimeError(f"its process ended with status {self._process.exitcode}") from None
        if error:
            raise RuntimeError(error)
        return result

    def close(self) -> None:
        """Ends the process, which may clean up unless it is at work."""
        self._pipe.close()
        self._process.join(_PATIENCE)
        self._process.kill()
        self._process.join()
        self._scratch.cleanup()

    def __enter__(self) -> "Remote":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _serve(
    pipe: Connection, scratch: str, threads: int, build: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to answer
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = scratch  # what was compiled earlier would hide the time it takes
    torch.set_num_threads(threads)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    made: Any = None
    while True:
        try:
            name, given = pipe.recv()
        except EOFError:  # the parent is gone
            return
        try:
            made = made or build(*arguments)
            answer = "", getattr(made, name)(*given)
        except Exception as error:
            # As text: not every exception can be sent.
            said = (str(error).strip().splitlines() or [""])[0]
            answer = f"{type(error).__name__}: {said}", None
        pipe.send(answer)
