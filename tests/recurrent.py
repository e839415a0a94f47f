"""Calling recurrent modules in every way that torch allows, with one form of results to compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import oracle
import strop

#: As torch calls the modes: the classes, and what makes them of that mode.
MODES: dict[str, tuple[type, type, dict[str, Any]]] = {
    "LSTM": (strop.LSTM, nn.LSTM, {}),
    "GRU": (strop.GRU, nn.GRU, {}),
    "RNN_TANH": (strop.RNN, nn.RNN, {}),
    "RNN_RELU": (strop.RNN, nn.RNN, {"nonlinearity": "relu"}),
}
#: The cells, likewise, by the module's mode.
CELLS: dict[str, tuple[type, type, dict[str, Any]]] = {
    "LSTM": (strop.LSTMCell, nn.LSTMCell, {}),
    "GRU": (strop.GRUCell, nn.GRUCell, {}),
    "RNN_TANH": (strop.RNNCell, nn.RNNCell, {}),
    "RNN_RELU": (strop.RNNCell, nn.RNNCell, {"nonlinearity": "relu"}),
}
#: Which dropout is on; the one between layers needs two of them.
DROPS = {
    "input": {"dropout": 0.5, "input_dropout": 0.4},
    "recurrent": {"recurrent_dropout": 0.5},
    "both": {"dropout": 0.5, "input_dropout": 0.4, "recurrent_dropout": 0.6},
}
LAYOUTS = ("batched", "unbatched", "sorted", "unsorted")


def make(mode: str, *sizes: Any, **options: Any) -> Any:
    """strop's module of that mode."""
    kind, _, own = MODES[mode]
    return kind(*sizes, **own, **options)


def make_torchs(mode: str, *sizes: Any, **options: Any) -> Any:
    """torch's."""
    _, kind, own = MODES[mode]
    return kind(*sizes, **own, **options)


def drops(which: str, layers: int) -> dict[str, float]:
    """The arguments of one of ``DROPS`` for a stack of so many layers."""
    return {name: p for name, p in DROPS[which].items() if layers > 1 or name != "dropout"}


def lengths_of(layout: str, steps: int, batch: int) -> list[int] | None:
    """Of the rows of a packed batch, of which one has all steps and one, if there are more, a single one."""
    if layout not in ("sorted", "unsorted"):
        return None
    lengths = torch.randint(1, steps + 1, (batch,))
    lengths[batch // 2], lengths[0] = 1, steps
    lengths = lengths.sort(descending=True).values if layout == "sorted" else lengths.flip(0)
    return lengths.tolist()


def call(
    module,
    x: Tensor,
    states: Sequence[Tensor] | None,
    layout: str,
    lengths: list[int] | None,
    **arguments: Any,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """``module`` on x ``[T, B, I]`` and states ``[layers * directions, B, units]``, passed in that layout.

    Returns:
        y ``[T, B, units]`` and the last states, in the same form.
    """
    steps, batch_first = x.shape[0], module.batch_first
    hx = None if states is None else states if module.mode == "LSTM" else states[0]
    given: Any = x.transpose(0, 1) if batch_first else x
    if layout == "unbatched":
        given = x.squeeze(1)
        hx = None if states is None else [state.squeeze(1) for state in states]
        hx = hx[0] if hx and module.mode != "LSTM" else hx
    elif lengths is not None:
        given = pack_padded_sequence(given, torch.tensor(lengths), batch_first, layout == "sorted")
    y, last = module(given, hx, **arguments)
    last = last if module.mode == "LSTM" else (last,)
    if layout == "unbatched":
        return y.unsqueeze(1), tuple(state.unsqueeze(1) for state in last)
    if lengths is not None:
        assert type(y) is type(given)
        assert torch.equal(y.batch_sizes, given.batch_sizes)
        y, got = pad_packed_sequence(y, batch_first, total_length=steps)
        assert got.tolist() == lengths
    return (y.transpose(0, 1) if batch_first else y), tuple(last)


def upstream(module, steps: int, batch: int) -> tuple[Tensor, ...]:
    """Random gradients of y and of the last states."""
    directions = 2 if module.bidirectional else 1
    units, rows = module.proj_size or module.hidden_size, directions * module.num_layers
    last = (torch.randn(rows, batch, units), torch.randn(rows, batch, module.hidden_size))
    return torch.randn(steps, batch, directions * units), *(last if module.mode == "LSTM" else last[:1])


def zeros(module, batch: int) -> tuple[Tensor, ...]:
    """Zero states."""
    return tuple(torch.zeros_like(each) for each in upstream(module, 1, batch)[1:])


def results(
    module,
    x: Tensor,
    states: Sequence[Tensor] | None,
    grads: Sequence[Tensor],
    layout: str = "batched",
    lengths: list[int] | None = None,
    **arguments: Any,
) -> dict[str, Tensor]:
    """Outputs, and the gradients of x, of the states and of all parameters, by name."""
    x = x.clone().requires_grad_()
    sources = {"x": x}
    if states is not None:
        states = [state.clone().requires_grad_() for state in states]
        sources |= dict(zip(("h0", "c0"), states, strict=False))
    sources |= dict(module.named_parameters())
    y, last = call(module, x, states, layout, lengths, **arguments)
    found = torch.autograd.grad((y, *last), list(sources.values()), grads)
    values = {"y": y} | dict(zip(("h", "c"), last, strict=False))
    values |= {f"d{name}": grad for name, grad in zip(sources, found, strict=True)}
    return {name: value.detach() for name, value in values.items()}


class Oracle(nn.Module):
    """The oracle on a copy of a module's parameters, whatever the layout."""

    def __init__(self, module, lengths: list[int] | None) -> None:
        super().__init__()
        for name, parameter in module.named_parameters():
            self.register_parameter(name, nn.Parameter(parameter.detach().clone()))
        self.mode, self.lengths = module.mode, lengths
        self.layers, self.bidirectional = module.num_layers, module.bidirectional
        self.zeros = lambda batch: zeros(module, batch)
        self.batch_first = False

    def forward(self, x, hx, masks):
        states = self.zeros(x.shape[1]) if hx is None else hx if self.mode == "LSTM" else (hx,)
        states = [state.to(x.dtype) for state in states]
        suffixes = [
            f"_l{k}{way}" for k in range(self.layers) for way in ("", "_reverse")[: 1 + self.bidirectional]
        ]
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        layers = [[getattr(self, name + suffix, None) for name in names] for suffix in suffixes]
        y, *last = oracle.stack(
            self.mode,
            x,
            states,
            layers,
            masks.input,
            masks.recurrent,
            bidirectional=self.bidirectional,
            lengths=self.lengths,
        )
        return y, tuple(last) if self.mode == "LSTM" else last[0]


def cast(values: Sequence[Tensor] | None, dtype: torch.dtype) -> list[Tensor] | None:
    """Each of them in another dtype."""
    return None if values is None else [value.to(dtype) for value in values]
