"""One LSTM layer with recurrent dropout, in strop and as one writes it elsewhere, to the same results."""

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

import strop
from strop.bench.baselines import EagerLoop, eager_lstm
from strop.bench.check import beyond_rounding
from strop.bench.measure import one_pass
from strop.bench.presets import Preset
from strop.bench.problem import PARAMETERS, Outcome, Problem
from strop.bench.stack import build, inputs
from strop.ops import dispatch

Peer = Literal["eager", "compile", "jax"]
PEERS: tuple[Peer, ...] = ("eager", "compile", "jax")
OURS = ("rh-st", "nr-rh-st")

_CPU = torch.device("cpu")


class Contestant(Protocol):
    """A layer of a preset's sizes that can be checked and timed."""

    software: str

    def outcome(self, problem: Problem) -> Outcome:
        """Of a given problem."""
        ...

    def seconds(self) -> float:
        """That forward and backward take, with masks of its own, drawn anew."""
        ...


def outcome(y: Tensor, problem: Problem, x: Tensor, parameters: list[nn.Parameter]) -> Outcome:
    grads = torch.autograd.grad(y, [x, *parameters], problem.grad.to(y.dtype))
    names = ("its output", *(f"the gradient of {name}" for name in ("x", *PARAMETERS)))
    return dict(zip(names, (y.detach(), *grads), strict=True))


class Strop:
    """The input's and the state's units dropped, as far as the preset's NR and RH say."""

    def __init__(self, preset: Preset) -> None:
        self.software = f"torch {torch.__version__}"
        torch.manual_seed(0)
        model = build(preset, "nr-rh-st")
        self._pass = one_pass(model, [inputs(preset, _CPU)], _CPU)

    def outcome(self, problem: Problem) -> Outcome:
        return strops(problem, torch.float32)

    def seconds(self) -> float:
        return self._pass(0)["overall"]


def strops(problem: Problem, dtype: torch.dtype) -> Outcome:
    """What strop computes of a problem."""
    layer = strop.LSTM(problem.lstm.input_size, problem.lstm.hidden_size, dtype=dtype)
    layer.load_state_dict(problem.lstm.state_dict())
    x = problem.x.detach().to(dtype).requires_grad_()
    return outcome(layer(x, masks=problem.masks)[0], problem, x, list(layer.parameters()))


class Loop:
    """A loop over the steps in torch.

    Args:
        run: its function, `eager_lstm` or that compiled.
    """

    def __init__(self, preset: Preset, run: Callable[..., Tensor] = eager_lstm) -> None:
        self.software = f"torch {torch.__version__}"
        torch.manual_seed(0)
        model = EagerLoop(preset, run)
        (self._cell,) = (module for module in model.modules() if isinstance(module, nn.LSTMCell))
        self._run = run
        self._pass = one_pass(model, [inputs(preset, _CPU)], _CPU)

    def outcome(self, problem: Problem) -> Outcome:
        parameters = list(self._cell.parameters())
        for parameter, value in zip(parameters, problem.weights, strict=True):
            parameter.data.copy_(value)
        x = problem.x.detach().requires_grad_()
        return outcome(self._run(x, self._cell, *problem.multipliers), problem, x, parameters)

    def seconds(self) -> float:
        return self._pass(0)["overall"]


def compiled(preset: Preset, backend: str | Callable[..., Any] = "inductor") -> Loop:
    """`torch.compile` of that loop, for these shapes alone."""
    return Loop(preset, torch.compile(eager_lstm, backend=backend, dynamic=False))


def contestant(name: str, preset: Preset) -> Contestant:
    """The one called `name`, one of OURS and PEERS.

    Raises:
        ImportError: what it needs is not installed.
    """
    if name in OURS:
        return Strop(preset)
    if name == "eager":
        return Loop(preset)
    if name == "compile":
        return compiled(preset)
    from strop.bench.jax_layer import Scan

    return Scan(preset)


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a contestant, and how long its first result took, compilation included."""

    faults: list[str]
    first_seconds: float
    software: str


class Entry:
    """The contestant called `name`, at a preset's sizes."""

    def __init__(self, name: str, preset: Preset) -> None:
        self._name, self._preset = name, preset
        self._one = contestant(name, preset)

    def judge(self) -> Verdict:
        """Compares a pass, all steps of it, with strop's float64 reference."""
        problem = Problem.of(self._preset)
        start = perf_counter()
        ours = self._one.outcome(problem)
        first = perf_counter() - start
        with dispatch.use("reference"):
            plain, exact = (strops(problem, dtype) for dtype in (torch.float32, torch.float64))
        faults = beyond_rounding(f"{self._name} at {self._preset.name}", ours, plain, exact)
        return Verdict(faults, first, self._one.software)

    def seconds(self) -> float:
        """See `Contestant.seconds`."""
        return self._one.seconds()
