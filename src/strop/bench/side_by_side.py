"""Work in processes of their own: parts of it all at once, or calls one by one that may end a process."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from time import perf_counter
from typing import Any, Self

import torch


def run_parts(work: Callable[..., None], *arguments: object, parts: int, seconds: float) -> int:
    """Calls ``work(*arguments, part, parts)`` for every part, silently; how many came to their end in time.

    Those that did not are stopped. ``work`` must be a function of a module.
    """
    context = multiprocessing.get_context("spawn")
    targets = [(work, *arguments, part, parts) for part in range(parts)]
    processes = [context.Process(target=_silently, args=target, daemon=True) for target in targets]
    for process in processes:
        process.start()
    deadline = perf_counter() + seconds
    for process in processes:
        process.join(max(0.0, deadline - perf_counter()))
    done = sum(process.exitcode == 0 for process in processes)
    for process in processes:
        process.kill()
        process.join()
    return done


def _silently(work: Callable[..., None], *arguments: object) -> None:
    with open(os.devnull, "w") as nowhere:
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
    work(*arguments)


class Here:
    """Calls functions in this process."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def call(self, function: Callable[..., Any], *arguments: object, seconds: float) -> Any:
        """What ``function(*arguments)`` returns, however long it takes."""
        return function(*arguments)


class Apart(Here):
    """Calls functions in another process, which may die or hang: the next call starts a new one.

    Functions must be of modules, and what they take and return is copied. After an error a GPU may answer
    every later call with the same one; where it does, the process ends, too.
    """

    def __init__(self) -> None:
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    def __exit__(self, *error: object) -> None:
        self._end()

    def call(self, function: Callable[..., Any], *arguments: object, seconds: float) -> Any:
        """What ``function(*arguments)`` returns.

        Raises:
            RuntimeError: it raised an error, or its process died.
            TimeoutError: it took longer, and its process was ended.
        """
        if self._process is None or not self._process.is_alive():
            self._start()
        assert self._process is not None
        assert self._connection is not None
        process = self._process
        try:
            self._connection.send((function, arguments))
            if not self._connection.poll(seconds):
                self._end()
                raise TimeoutError(f"it took longer than {seconds:g} seconds, and its process was ended")
            result, error = self._connection.recv()
        except (EOFError, ConnectionError):
            process.join()
            self._end()
            raise RuntimeError(f"its process died (exit code {process.exitcode})") from None
        if error is not None:
            raise RuntimeError(error)
        return result

    def _start(self) -> None:
        self._end()
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        process = self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None


def _serve(connection: Connection) -> None:
    """Calls what is asked for until nobody asks any more."""
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = function(*arguments), None
        except Exception as error:
            traceback.print_exc()
            said = (str(error).splitlines() or [""])[0]
            answer = None, f"{type(error).__name__} {said}"
        connection.send(answer)
        if answer[1] is not None and torch.cuda.is_initialized():
            torch.cuda.synchronize()  # raises if the device answers nothing any more
