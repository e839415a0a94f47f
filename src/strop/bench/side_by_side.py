"""Parts of some work in processes of their own, all at once."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from time import perf_counter


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
