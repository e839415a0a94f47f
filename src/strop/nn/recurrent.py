"""What the recurrent layers share: torch's contract around a stack of layers with dropout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.backends.cudnn import rnn
from torch.nn.utils.rnn import PackedSequence

from strop.functional import operator, routes
from strop.functional.autograd import autocast_dtype, exporting
from strop.functional.dense import dense_stack
from strop.functional.recurrence import check_batch_sizes
from strop.functional.stack import stack
from strop.nn.deployment import Unscripted
from strop.nn.masks import (
    Masks,
    check_block,
    pattern_template,
    repr_of_drops,
    repr_of_pattern,
    with_probability,
)
from strop.nn.taken_over import drops_input, get_share, set_share, source_of
from strop.ops import choice, dispatch
from strop.ops.cells import CELLS
from strop.pattern import Mask, Pattern, check_probability, draw_all


class Recurrent(Unscripted, nn.RNNBase):
    """What LSTM, GRU and RNN share: torch's contract around a stack of layers.

    Each of them is one of torch's, too, for those who ask ``isinstance(layer, nn.LSTM)``.
    """

    weight_ih_l0: nn.Parameter
    _title: ClassVar[str]  # in torch's error messages

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        proj_size: int,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        input_dropout: float,
        recurrent_dropout: float,
        pattern: str | Pattern,
        block: int,
    ) -> None:
        dropout = check_probability("dropout", dropout)
        input_dropout = check_probability("input_dropout", input_dropout)
        recurrent_dropout = check_probability("recurrent_dropout", recurrent_dropout)
        template = pattern_template(pattern, block)
        nn.RNNBase.__init__(
            self,
            mode,
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device,
            dtype,
        )
        name = "proj_size" if proj_size else "hidden_size"
        check_block(template, input_dropout, "input_size", input_size)
        check_block(template, recurrent_dropout, name, self._units)
        if num_layers > 1:
            check_block(
                template, dropout, f"2 * {name}" if bidirectional else name, self._directions * self._units
            )
        self.input_dropout = input_dropout
        self.recurrent_dropout = recurrent_dropout
        self.pattern = template
        self.flatten_parameters()  # now that it is known what is dropped

    def flatten_parameters(self) -> None:
        """torch's, but each layer has a chunk of memory of its own where layers run one by one.

        cuDNN takes weights as they lie only from the beginning of a chunk, and copies others at every call.
        """
        super().flatten_parameters()
        flat: Any = self._flat_weights
        drops = "pattern" in vars(self) and (self.dropout or self.input_dropout or self.recurrent_dropout)
        if self.num_layers == 1 or not drops or not all(map(_is_for_cudnn, flat)):
            return
        layers = operator.by_direction(flat, len(flat) // self.num_layers)
        if not operator.share_memory(layers):  # torch has found a reason not to move them
            return
        inputs = self._input_units[:: self._directions]
        mode = rnn.get_cudnn_mode(self.mode)
        with torch.cuda.device_of(flat[0]), torch.no_grad():
            for layer, features in zip(layers, inputs, strict=True):
                torch._cudnn_rnn_flatten_weight(  # pyright: ignore[reportPrivateImportUsage]
                    list(layer),
                    len(self._all_weights[0]),
                    features,
                    mode,
                    self.hidden_size,
                    self.proj_size,
                    1,
                    self.batch_first,
                    bool(self.bidirectional),
                )

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def _units(self) -> int:
        """Of the hidden state."""
        return self.proj_size or self.hidden_size

    @property
    def _input_units(self) -> tuple[int, ...]:
        later = (self._directions * self._units,) * (self._directions * (self.num_layers - 1))
        return (self.input_size,) * self._directions + later

    @property
    def input_dropout(self) -> float:
        """Probability of a unit of the first layer's input to be dropped."""
        return get_share(self, "_input_dropout")

    @input_dropout.setter
    def input_dropout(self, p: float) -> None:
        set_share(self, "_input_dropout", p)

    def _shares(self) -> tuple[float, float, float]:
        """What a call drops of the input, between layers and of the states."""
        of_input, between, of_states = self.input_dropout, self.dropout, self.recurrent_dropout
        of_input = of_input if of_input and drops_input(self) else 0.0
        return (
            (of_input, between, of_states)
            if (between or of_states) and self.training
            else (of_input, 0.0, 0.0)
        )

    def draw(self, steps: int, batch: int, *, generator: torch.Generator | None = None) -> Masks:
        """Draw the masks of ``steps`` steps of ``batch`` rows, for ``forward(masks=)``.

        Args:
            steps: time steps; for packed sequences those of the longest.
            batch: rows of the batch, or sequences that are packed; 1 for an input without batch.
            generator: where randomness comes from, else torch's global one.

        Raises:
            TypeError, ValueError: a size is no int, or below 1.
        """
        return self._draw(steps, batch, (self.input_dropout, self.dropout, self.recurrent_dropout), generator)

    def _draw(
        self,
        steps: int,
        batch: int,
        shares: tuple[float, float, float],
        generator: torch.Generator | None = None,
        source: Any = None,
    ) -> Masks:
        of_input, between, of_states = shares

        def draw(kinds: list[tuple[float, int]]) -> list[Mask | None]:
            patterns = [(with_probability(self.pattern, p), units) for p, units in kinds]
            return draw_all(patterns, steps, batch, generator=generator, device=self.weight_ih_l0.device)

        first = [(of_input, self.input_size)]
        rest = [(between, units) for units in self._input_units[self._directions :: self._directions]]
        rest += [(of_states, self._units)] * len(self._input_units)
        if source is None:
            drawn = draw(first + rest)
        else:
            drawn = [source.draw(steps, batch, self.input_size, lambda: draw(first)[0]), *draw(rest)]
        inputs = tuple(mask for mask in drawn[: self.num_layers] for _ in range(self._directions))
        return Masks(inputs, tuple(drawn[self.num_layers :]))

    def _run(self, input: Tensor | PackedSequence, hx: Any, masks: Masks | None) -> tuple[Any, Any]:
        """``forward`` of all of them: hx and the hidden state that is returned are a tuple for an LSTM."""
        if not isinstance(input, Tensor | PackedSequence):
            raise TypeError(f"input must be a Tensor or a PackedSequence, got {type(input).__name__}")
        if not exporting():  # which would warn of an attribute that changes
            self._update_flat_weights()
        if masks is None and not any(self._shares()):
            done = self._by_operator(input, hx)
            if done is not None:
                return done
        if isinstance(input, PackedSequence):
            x, batch_sizes, order, back = input
            batched = True
        else:
            x, batch_sizes, order, back = input, None, None, None
            if x.dim() not in (2, 3):
                what = "D tensor instead" if self._title == "RNN" else "D instead"
                raise ValueError(f"{self._title}: Expected input to be 2D or 3D, got {x.dim()}{what}")
            batched = x.dim() == 3
            x = x if batched else x.unsqueeze(0 if self.batch_first else 1)
        states = self._states(hx)
        if states is not None:
            if batch_sizes is None:
                _check_dims(states, batched)
            states = states if batched else tuple(state.unsqueeze(1) for state in states)
        self._check(x, states, batch_sizes)
        if order is not None and states is not None:
            states = tuple(state.index_select(1, order) for state in states)
        if batch_sizes is None and self.batch_first:
            x = x.transpose(0, 1)
        if x.shape[0] == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")

        y, last = self._stack(x, states, masks, batch_sizes, order)
        if back is not None:
            last = tuple(state.index_select(1, back) for state in last)
        if isinstance(input, PackedSequence):
            return PackedSequence(y, batch_sizes, order, back), last if self.mode == "LSTM" else last[0]
        y = y.transpose(0, 1) if self.batch_first else y
        if not batched:
            y, last = y.squeeze(0 if self.batch_first else 1), tuple(state.squeeze(1) for state in last)
        return y, last if self.mode == "LSTM" else last[0]

    def _states(self, hx: Any) -> tuple[Tensor, ...] | None:
        """hx as a tuple of tensors."""
        if hx is None:
            return None
        lstm = self.mode == "LSTM"
        if lstm and (isinstance(hx, Tensor) or (isinstance(hx, Sequence) and len(hx) != 2)):
            raise RuntimeError("lstm expects two hidden states")
        states = hx if lstm else (hx,)
        if not isinstance(states, Sequence) or not all(isinstance(state, Tensor) for state in states):
            what = "a tuple of two tensors" if lstm else "a tensor"
            raise TypeError(f"hx must be {what}, got {_types(hx)}")
        return tuple(states)

    def _weights_have_changed(self) -> bool:
        # torch's looks each weight up twice by way of Module.__getattr__: as long as a third of a small call.
        parameters = self._parameters
        for name, ref in zip(self._flat_weights_names, self._flat_weight_refs, strict=True):
            if ref is None or ref() is not parameters.get(name):
                return super()._weights_have_changed()
        return False

    def _by_operator(self, input: Tensor | PackedSequence, hx: Any) -> tuple[Any, Any] | None:
        """A call so small that torch's operator is faster, with nothing dropped; None for any other.

        The questions of the general way would take as long as the operator itself.
        """
        packed = isinstance(input, PackedSequence)
        x, batch_sizes, order, back = input if packed else (input, None, None, None)
        flat: Any = self._flat_weights
        weight, cell, hidden = flat[0], CELLS[self.mode], self.hidden_size
        if (
            (x.dim() != (2 if packed else 3) or x.shape[-1] != self.input_size or not x.numel())
            or (x.dtype is not weight.dtype or not (x.is_cpu and weight.is_cpu))
            or (torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling())
            or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        ):
            return None
        batch_first = self.batch_first
        if batch_sizes is not None:
            sizes, batch_first = check_batch_sizes(batch_sizes, x.shape[0]), False
            steps, batch = len(sizes), sizes[0]
            if steps * batch == x.shape[0]:  # a plain sequence after all
                x, batch_sizes = x.view(steps, batch, -1), None
        else:
            steps, batch = x.shape[1::-1] if batch_first else x.shape[:2]
        gradients = torch.is_grad_enabled() and (weight.requires_grad or x.requires_grad)
        if not dispatch.may_leave_kernels() or choice.timing() or dispatch.select(x) != "native":
            return None
        directions, packed_now = 2 if self.bidirectional else 1, batch_sizes is not None
        each = len(self._all_weights[0])
        sizes = routes.sizes_of(cell, x, flat, each, directions, steps, batch, packed_now)
        phase = "inference" if not gradients else "training" if self.training else "forward"
        if routes.dense(sizes, phase) != "operator":
            return None
        shapes = [(len(self._all_weights), batch, units) for units in (self._units, hidden)[: 1 + cell.has_c]]
        if hx is None:
            states = [x.new_zeros(shape) for shape in shapes]
        else:
            states = hx if cell.has_c else (hx,)
            if not _are_like(x, shapes, states):
                return None
            states = states if order is None else [state.index_select(1, order) for state in states]
        how = (flat, self.bias, self.num_layers, 0.0, False, self.bidirectional)
        hx = states if cell.has_c else states[0]
        if batch_sizes is None:
            y, *last = operator.STACKS[cell.name](x, hx, *how, batch_first)
        else:
            y, *last = operator.STACKS[cell.name](x, batch_sizes, hx, *how)
        if packed:
            y = PackedSequence(y if y.dim() == 2 else y.flatten(0, 1), *input[1:])
            last = last if back is None else [state.index_select(1, back) for state in last]
        return y, tuple(last) if cell.has_c else last[0]

    def _stack(
        self,
        x: Tensor,
        states: tuple[Tensor, ...] | None,
        masks: Masks | None,
        batch_sizes: Tensor | None,
        order: Tensor | None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        if masks is not None and not isinstance(masks, Masks):
            raise TypeError(f"masks must be what draw() returns, got {type(masks).__name__}")
        shares = self._shares()
        if masks is not None or any(shares):
            steps, batch = x.shape[:2] if batch_sizes is None else (len(batch_sizes), int(batch_sizes[0]))
            if masks is not None:
                masks.check(steps, batch, self._input_units, self._units, x)
            elif batch:  # an empty batch has nothing to drop
                masks = self._draw(steps, batch, shares, source=source_of(self))
        cell, how = CELLS[self.mode], {"bidirectional": self.bidirectional, "batch_sizes": batch_sizes}
        if masks is None or not any((*masks.input, *masks.recurrent)):
            flat: Any = self._flat_weights
            if exporting():
                flat = [getattr(self, name) for name in self._flat_weights_names]
            each = len(self._all_weights[0])
            return dense_stack(cell, x, states, flat, each, training=self.training, **how)
        masks = masks.permuted(order)
        weights = [[getattr(self, name) for name in names] for names in self._all_weights]
        return stack(cell, x, states, weights, masks.input, masks.recurrent, **how)

    def _check(self, x: Tensor, states: tuple[Tensor, ...] | None, batch_sizes: Tensor | None) -> None:
        """Refuse what does not fit; torch's own errors where torch has one."""
        weight: Any = self._flat_weights[0]
        if x.device != weight.device:
            raise RuntimeError(
                "Input and parameter tensors are not at the same device, "
                f"found input tensor at {x.device} and parameter tensor at {weight.device}"
            )
        self.check_input(x, batch_sizes)
        if states is None:
            return
        shape = self.get_expected_hidden_size(x, batch_sizes)
        casts = autocast_dtype(x) is not None
        for index, state in enumerate(states):
            expected = (*shape[:2], self.hidden_size) if index else shape
            name = f"hidden[{index}]" if self.mode == "LSTM" else "hidden"
            self.check_hidden_size(state, expected, f"Expected {name} size {{}}, got {{}}")
            if state.device != x.device:
                raise RuntimeError(
                    "Input and hidden tensors are not at the same device, "
                    f"found input tensor at {x.device} and hidden tensor at {state.device}"
                )
            if state.dtype != x.dtype and not casts:
                raise RuntimeError(
                    f"{name} must be {x.dtype} on {x.device} as the input is, "
                    f"got {state.dtype} on {state.device}"
                )

    def extra_repr(self) -> str:
        """torch's, and what is dropped."""
        drops = repr_of_drops(self, "input_dropout", "recurrent_dropout")
        return super().extra_repr() + (drops or (repr_of_pattern(self) if self.dropout else ""))


def _is_for_cudnn(weight: Any) -> bool:
    return isinstance(weight, Tensor) and weight.is_cuda and torch.backends.cudnn.is_acceptable(weight)


def _types(given: Any) -> str:
    name = type(given).__name__
    return f"{name} of {', '.join(map(_types, given))}" if isinstance(given, tuple | list) else name


def _are_like(x: Tensor, shapes: list[tuple[int, ...]], states: Any) -> bool:
    """Whether these are states of such shapes, and otherwise as x."""
    return (
        isinstance(states, tuple | list)
        and len(states) == len(shapes)
        and all(
            isinstance(state, Tensor) and state.shape == shape and state.dtype is x.dtype and state.is_cpu
            for state, shape in zip(states, shapes, strict=True)
        )
    )


def _check_dims(states: tuple[Tensor, ...], batched: bool) -> None:
    wanted = 3 if batched else 2
    dims = [state.dim() for state in states]
    if all(each == wanted for each in dims):
        return
    what = "batched 3-D" if batched else "unbatched 2-D"
    if len(states) == 2:
        raise RuntimeError(
            f"For {what} input, hx and cx should also be {wanted}-D "
            f"but got ({dims[0]}-D, {dims[1]}-D) tensors"
        )
    raise RuntimeError(f"For {what} input, hx should also be {wanted}-D but got {dims[0]}-D tensor")
