"""The decoder's training pass: an LSTM stack with attention that is fed its own output, step by step.

Through autograd every step would add its own share to every weight's gradient: 12 MB read and written per
step at 512 units, as long as the products themselves. Here a step's backward pass makes the gradients of
its gates only, and one product per weight gives WG for all steps, on kept columns, as within `strop.LSTM`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from strop.functional.autograd import may_round, without_autocast
from strop.ops import cells as kinds
from strop.ops import dispatch
from strop.ops.products import Keep
from strop.ops.recurrence import Layer
from strop.pattern import Mask
from strop.tasks.translation.attention import Memory, attend, attend_backward


@dataclass(frozen=True, eq=False)
class DecoderMasks:
    """What is dropped at each step; None drops nothing. All are shared by the batch.

    Attributes:
        between: input of every LSTM layer but the first, `[T, H]`.
        recurrent: hidden state of every layer on its way to the next step, `[T, H]`.
        final: output of the last layer, before the attention, `[T, H]`.
        output: attentional output, on its way to the softmax and into the next step, `[T, H]`.
    """

    between: tuple[Mask | None, ...]
    recurrent: tuple[Mask | None, ...]
    final: Mask | None
    output: Mask | None


def input_feeding(
    inputs: Tensor,
    state: tuple[Tensor, Tensor],
    memory: Memory,
    cells: Sequence[Sequence[Tensor]],
    combine: Tensor,
    masks: DecoderMasks,
) -> Tensor:
    """Attentional outputs of every step, before `masks.output` is applied to them.

    Args:
        inputs: embedded target words `[T, B, E]`.
        state: h and c before the first step, `[layers, B, H]` each.
        memory: the source.
        cells: of every layer weight_ih, weight_hh, bias_ih and bias_hh; the first takes `E + H` units,
            the word's and the output's of the step before.
        combine: `[H, 2H]`: from the context and the last layer's output to the attentional output.

    Returns:
        `[T, B, H]`.
    """
    flat = [tensor for cell in cells for tensor in cell]
    bf16, dtype = may_round(inputs), combine.dtype
    floats = (tensor.to(dtype) for tensor in (inputs, *state, memory.keys, memory.values))
    with without_autocast(inputs):
        return _InputFeeding.apply(*floats, memory.padding, combine, masks, bf16, *flat)


class _Layer(NamedTuple):
    """One layer at one step: its input, output, state before, and what the backend saved."""

    x: Tensor
    y: Tensor
    h: Tensor
    c: Tensor
    saved: tuple[Tensor, ...]


class _Step(NamedTuple):
    """One step: its layers, the attention's query and weights, the input of `combine`, and the output."""

    layers: list[_Layer]
    query: Tensor
    weights: Tensor
    both: Tensor
    output: Tensor


class _Plan:
    """The masks as every step's products need them."""

    def __init__(self, masks: DecoderMasks, inputs: Tensor, hidden: int) -> None:
        steps, words = inputs.shape[0], inputs.shape[2]
        self.output = _multipliers(masks.output, inputs)
        self.final = _multipliers(masks.final, inputs)
        # What reaches these products is scaled already. A step is fed what the one before gave; the first
        # is fed zeros.
        fed = None if masks.output is None or steps == 1 else masks.output.index
        if fed is not None:
            fed = torch.cat((fed[:1], fed[:-1]))
        self.first = _after(words, fed)
        self.combine = _after(hidden, None if masks.final is None else masks.final.index)
        self.inputs = [self.first, *(_keep(mask) for mask in masks.between)]
        self.recurrent = [_keep(mask) for mask in masks.recurrent]


def _by_cell(flat: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    return [flat[i : i + 4] for i in range(0, len(flat), 4)]


def _keep(mask: Mask | None) -> Keep | None:
    if mask is None:
        return None
    assert mask.index is not None, "the batch must share a decoder's masks"
    return Keep(mask.index, mask.count, mask.scale)


def _after(units: int, index: Tensor | None) -> Keep | None:
    """All of the first `units` columns, then the kept ones."""
    if index is None:
        return None
    whole = torch.arange(units, dtype=index.dtype, device=index.device).expand(len(index), units)
    return Keep(torch.cat((whole, index + units), 1), None, 1.0)


def _at(keep: Keep | None, step: int) -> Keep | None:
    if keep is None:
        return None
    count = None if keep.count is None else keep.count[step : step + 1]
    return Keep(keep.index[step : step + 1], count, keep.scale)


def _multipliers(mask: Mask | None, like: Tensor) -> Tensor | None:
    """`[T, 1, H]`."""
    return None if mask is None else mask.dense(like.dtype)


def _times(x: Tensor, multipliers: Tensor | None, step: int) -> Tensor:
    return x if multipliers is None else x * multipliers[step]


class _InputFeeding(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        h0: Tensor,
        c0: Tensor,
        keys: Tensor,
        values: Tensor,
        padding: Tensor,
        combine: Tensor,
        masks: DecoderMasks,
        bf16: bool,
        *flat: Tensor,
    ) -> Tensor:
        kind = Layer(kinds.LSTM, bf16=bf16)
        recurrence, products = dispatch.recurrence(inputs), dispatch.products(inputs)
        memory = Memory(keys, values, padding)
        plan = _Plan(masks, inputs, h0.shape[2])
        cells = _by_cell(flat)
        h, c = list(h0), list(c0)
        trace: list[_Step] = []
        fed = torch.zeros_like(h0[0])
        for step, words in enumerate(inputs):
            x = torch.cat((words, fed), 1)
            layers = []
            for layer, cell in enumerate(cells):
                keeps = _at(plan.inputs[layer], step), _at(plan.recurrent[layer], step), None
                y, h_next, c_next, saved = recurrence.forward(
                    kind, x[None], h[layer], c[layer], *cell, *keeps
                )
                layers.append(_Layer(x, y[0], h[layer], c[layer], saved))
                x, h[layer], c[layer] = y[0], h_next, c_next
            query = _times(x, plan.final, step)
            context, weights = attend(query, memory)
            both = torch.cat((context, query), 1)
            output = products.forward(both[None], combine, None, _at(plan.combine, step), bf16)[0].tanh_()
            trace.append(_Step(layers, query, weights, both, output))
            fed = _times(output, plan.output, step)
        ctx.plan, ctx.trace, ctx.recurrence, ctx.products = plan, trace, recurrence, products
        ctx.kind = kind
        ctx.save_for_backward(h0, keys, values, padding, combine, *flat)
        return torch.stack([step.output for step in trace])

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grad_outputs: Tensor
    ) -> Any:
        h0, keys, values, padding, combine, *flat = ctx.saved_tensors
        plan: _Plan = ctx.plan
        trace: list[_Step] = ctx.trace
        recurrence, products, kind = ctx.recurrence, ctx.products, ctx.kind
        memory = Memory(keys, values, padding)
        cells = _by_cell(flat)
        steps, words = len(trace), flat[0].shape[1] - h0.shape[2]
        dh: list[Tensor | None] = [None] * len(cells)
        dc: list[Tensor | None] = [None] * len(cells)
        dfed: Tensor | None = None
        dinputs = h0.new_empty(steps, h0.shape[1], words)
        of_steps: list[tuple[Tensor, Tensor, Tensor]] = []
        dgates: list[list[tuple[Tensor, ...]]] = [[] for _ in cells]
        for step in reversed(range(steps)):
            done = trace[step]
            doutput = grad_outputs[0][step]
            if dfed is not None:
                doutput = doutput + _times(dfed, plan.output, step)
            dsum = doutput * (1 - done.output * done.output)
            dboth = products.input_grad(dsum[None], combine, _at(plan.combine, step), kind.bf16)[0]
            dcontext, dquery = dboth.chunk(2, 1)
            dcontext = dcontext.contiguous()
            dattended, dscores = attend_backward(dcontext, done.weights, memory)
            of_steps.append((dsum, dcontext, dscores))
            dx = _times(dquery + dattended, plan.final, step)
            for layer in reversed(range(len(cells))):
                x, y, h, c, saved = done.layers[layer]
                keeps = _at(plan.inputs[layer], step), _at(plan.recurrent[layer], step), None
                gates, dbelow, dh[layer], dc[layer] = recurrence.backward(
                    kind,
                    dx[None],
                    dh[layer],
                    dc[layer],
                    x[None],
                    y[None],
                    h,
                    c,
                    *cells[layer][:2],
                    saved,
                    *keeps,
                    True,
                )
                dgates[layer].append(gates)
                dx = dbelow[0]
            dinputs[step] = dx[:, :words]
            dfed = dx[:, words:]
        of_steps.reverse()
        dsums, dcontexts, dscores = (torch.stack(each) for each in zip(*of_steps, strict=True))
        both = torch.stack([step.both for step in trace])
        dcombine = products.weight_grad(both, dsums, plan.combine, kind.bf16)
        weights, queries = (
            torch.stack(each) for each in zip(*((step.weights, step.query) for step in trace), strict=True)
        )
        dvalues = torch.bmm(weights.permute(1, 2, 0), dcontexts.transpose(0, 1))
        dkeys = torch.bmm(dscores.permute(1, 2, 0), queries.transpose(0, 1))
        dcells: list[Tensor] = []
        for layer, gates in enumerate(dgates):
            gates.reverse()
            x = torch.stack([step.layers[layer].x for step in trace])
            y = torch.stack([step.layers[layer].y for step in trace])
            of_all = tuple(torch.cat(each) for each in zip(*gates, strict=True))
            dcells += recurrence.weight_grad(
                kind, x, y, h0[layer], of_all, plan.inputs[layer], plan.recurrent[layer], None
            )
        dstates = (torch.stack([part for part in each if part is not None]) for each in (dh, dc))
        return dinputs, *dstates, dkeys, dvalues, None, dcombine, None, None, *dcells
