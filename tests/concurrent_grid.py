"""Runs the programs of a grid beside each other in Triton's interpreter, which runs one after another.

So kernels whose programs wait for each other can be tested without a GPU. Each program is a thread, of
which one runs at a time: it goes on until it waits for others, or until the schedule, drawn from a seed,
gives another one its turn at an access to memory. Schedules are unfair on purpose: some programs run ahead
as far as they can while others lag behind, which shows a missing barrier (Burckhardt et al., ASPLOS 2010).
"""

from __future__ import annotations

import inspect
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import numpy as np
from triton.runtime import interpreter

_CHANGES = 0.02  # share of the accesses at which a program's priority is drawn anew


class Deadlock(AssertionError):
    """All programs wait, and none can end another's waiting."""


class _Ended(BaseException):
    """Ends the thread of a program that will not go on."""


class _Program:
    def __init__(self, index: tuple[int, int, int], body: Callable[[], object]) -> None:
        self.index, self.body = index, body
        self.turn = threading.Semaphore(0)
        self.done, self.ends = False, False
        self.priority = 0.0
        self.polled: tuple[int, int] | None = None  # where, and what was there, if that was its last access
        self.waits: tuple[int, int] | None = None  # the same, as long as it has not changed
        self.error: BaseException | None = None


class Grid:
    """The programs of one launch, by a schedule."""

    def __init__(self, schedule: random.Random, builder: Any) -> None:
        self._schedule, self._builder = schedule, builder
        self._programs: list[_Program] = []
        self._back = threading.Semaphore(0)
        self._running: _Program | None = None
        self.switches = self.waits = 0

    def add(self, index: tuple[int, int, int], body: Callable[[], object]) -> None:
        self._programs.append(_Program(index, body))

    @property
    def size(self) -> int:
        return len(self._programs)

    def run(self) -> None:
        """All programs to their end.

        Raises:
            Deadlock: none can go on.
            Exception: what a program raised.
        """
        threads = [threading.Thread(target=self._thread, args=(each,)) for each in self._programs]
        for program, thread in zip(self._programs, threads, strict=True):
            program.priority = self._schedule.random()
            thread.start()
        try:
            while left := [each for each in self._programs if not each.done]:
                ready = [each for each in left if each.waits is None]
                if not ready:
                    numbers = ", ".join(str(each.index[0]) for each in left)
                    raise Deadlock(f"programs {numbers} of {len(self._programs)} wait for what no other does")
                program = max(ready, key=lambda each: each.priority)
                self._give(program)
                if program.error is not None:
                    raise program.error
        finally:
            for program in self._programs:
                if not program.done:
                    program.ends = True
                    self._give(program)
            for thread in threads:
                thread.join()

    def _give(self, program: _Program) -> None:
        """The turn, until it comes back."""
        self.switches += self._running is not program
        self._running = program
        self._builder.set_grid_idx(*program.index)
        program.turn.release()
        self._back.acquire()

    def _thread(self, program: _Program) -> None:
        program.turn.acquire()
        try:
            if not program.ends:
                program.body()
        except _Ended:
            pass
        except BaseException as error:
            program.error = error
        program.done = True
        self._back.release()

    def _pause(self, program: _Program) -> None:
        """Others may have their turn."""
        self._back.release()
        program.turn.acquire()
        if program.ends:
            raise _Ended

    def accesses(self) -> None:
        """The running program is about to read or write."""
        program = self._running
        assert program is not None
        program.polled = None
        if self._schedule.random() < _CHANGES:
            program.priority = self._schedule.random()
            self._pause(program)

    def polls(self, address: int, value: Callable[[], int]) -> None:
        """It is about to look at a counter: for the second time, if it saw what it does not wait for."""
        program = self._running
        assert program is not None
        found = (address, value())
        if program.polled == found:
            program.waits = found
            self.waits += 1
            self._pause(program)
            found = (address, value())
        program.polled = found

    def adds(self, address: int) -> None:
        """It has changed a counter, for which others may wait."""
        for program in self._programs:
            if program.waits is not None and program.waits[0] == address:
                program.waits = None


@contextmanager
def side_by_side(seed: int) -> Iterator[list[Grid]]:
    """Runs every grid so while it is entered; all that were run are in the list."""
    schedule = random.Random(seed)
    builder = interpreter.interpreter_builder
    grids: list[Grid] = []
    names = ("create_masked_load", "create_masked_store", "create_atomic_rmw")
    plain = {name: getattr(builder, name) for name in names}
    init = interpreter.GridExecutor.__init__

    def collecting(self, fn: Any, *rest: Any, **more: Any) -> None:
        init(self, fn, *rest, **more)
        grid = Grid(schedule, builder)
        grids.append(grid)

        def program(**arguments: Any) -> None:
            """In place of ``fn``: called for one program after another, the last call runs all of them."""
            grid.add(builder.grid_idx, lambda: fn(**arguments))
            if all(at + 1 == of for at, of in zip(builder.grid_idx, builder.grid_dim, strict=True)):
                grid.run()

        # The interpreter looks at the function's globals and signature.
        self.fn = FunctionType(program.__code__, fn.__globals__, fn.__name__, None, program.__closure__)
        self.fn.__signature__ = inspect.signature(fn)

    def accessing(name: str) -> Callable[..., Any]:
        def access(*arguments: Any) -> Any:
            grids[-1].accesses()
            return plain[name](*arguments)

        return access

    def atomic(operation: Any, pointer: Any, value: Any, mask: Any, *how: Any) -> Any:
        grid, address = grids[-1], int(np.ravel(pointer.data)[0])
        if np.any(value.data):
            grid.accesses()
            done = plain["create_atomic_rmw"](operation, pointer, value, mask, *how)
            grid.adds(address)
            return done

        def look() -> int:
            return int(np.ravel(plain["create_atomic_rmw"](operation, pointer, value, mask, *how).data)[0])

        grid.polls(address, look)
        return plain["create_atomic_rmw"](operation, pointer, value, mask, *how)

    interpreter.GridExecutor.__init__ = collecting
    builder.create_masked_load = accessing("create_masked_load")
    builder.create_masked_store = accessing("create_masked_store")
    builder.create_atomic_rmw = atomic
    try:
        yield grids
    finally:
        interpreter.GridExecutor.__init__ = init
        for name in names:
            delattr(builder, name)
