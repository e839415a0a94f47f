"""On a GPU: a CUDA graph captures a sequence and the drawing of its masks, so nothing waits for the host."""

from __future__ import annotations

import pytest
import torch

import strop
from strop.graphs import capturing
from strop.ops import choice
from strop.ops.cells import LSTM
from strop.ops.products import Keep
from strop.ops.recurrence import Layer
from strop.ops.triton import recurrence, ways
from strop.pattern import Pattern
from strop.tasks.language.model import LanguageModel
from strop.training.gradients import clipped_step, gradient_norm

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")


@pytest.mark.parametrize("way", list(ways.WAYS))
@pytest.mark.parametrize("exact", [True, False], ids=["exact", "bernoulli"])
def test_forward_and_backward_are_captured(monkeypatch, device, exact, way):
    monkeypatch.setattr(ways, "forced", way)
    steps, batch, features, hidden = 5, 20, 33, 70
    x = torch.randn(steps, batch, features, device=device)
    h0, c0 = torch.randn(2, batch, hidden, device=device)
    w_ih = torch.randn(4 * hidden, features, device=device) / 8
    w_hh = torch.randn(4 * hidden, hidden, device=device) / 8
    bias = torch.randn(4 * hidden, device=device)
    pattern = Pattern.named("structured", 0.5, exact=exact)
    layer = Layer(LSTM)

    def draw() -> list[Keep]:
        masks = [pattern.draw(steps, units, batch, device=device) for units in (features, hidden)]
        return [Keep(mask.index, mask.count, mask.scale) for mask in masks]

    def run(keeps: list[Keep]) -> list[torch.Tensor]:
        masks = (*keeps, None)
        y, h, c, saved = recurrence.forward(layer, x, h0, c0, w_ih, w_hh, bias, bias, *masks)
        dgates, dx, dh0, dc0 = recurrence.backward(
            layer, y, h, c, x, y, h0, c0, w_ih, w_hh, saved, *masks, True
        )
        return [y, h, c, dx, dh0, dc0, *recurrence.weight_grad(layer, x, y, h0, dgates, *masks)]

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        run(draw())  # compiles
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        keeps = draw()
        captured = run(keeps)
    lists = []
    for _ in range(3):
        graph.replay()
        lists.append(keeps[1].index.clone())
        for ours, again in zip(captured, run(keeps), strict=True):
            torch.testing.assert_close(ours, again)
    assert not torch.equal(lists[0], lists[1])


@pytest.mark.parametrize("way", [None, *ways.WAYS])
@pytest.mark.parametrize("drops", ["input", "state", "both"])
@pytest.mark.parametrize("pattern", ["structured", "random"])
def test_layers_from_zeros_are_captured(monkeypatch, device, pattern, drops, way):
    """Without states, as layers are called most often: what is captured gives what was given before."""
    monkeypatch.setattr(ways, "forced", way)
    rates = {"input_dropout": 0.5 * (drops != "state"), "recurrent_dropout": 0.5 * (drops != "input")}
    model = strop.LSTM(33, 70, 2, bidirectional=True, pattern=pattern, **rates).to(device)
    x = torch.randn(5, 20, 33, device=device, requires_grad=True)
    masks = model.draw(5, 20)

    def run() -> list[torch.Tensor]:
        y, (h, c) = model(x, masks=masks)
        model(x)  # draws
        return [y, h, c, *torch.autograd.grad(y.square().sum() + h.sum() + c.sum(), [x, *model.parameters()])]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        expected = run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with capturing(graph):
        captured = run()
    graph.replay()
    for ours, value in zip(captured, expected, strict=True):
        torch.testing.assert_close(ours, value)


@pytest.mark.parametrize("dropout", ["nr-random", "nr-st", "nr-rh-st"])
def test_a_whole_step_of_training_is_captured(monkeypatch, device, dropout):
    """Drawing, forward, backward, clipping and SGD: every replay trains on other masks, and learns."""
    monkeypatch.setattr(
        choice, "autotune", True
    )  # as in training, backward passes are measured inside others
    model = LanguageModel(words=50, units=40, layers=2, p=0.5, dropout=dropout).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    parameters = list(model.parameters())
    x, y = torch.randint(50, (2, 5, 20), device=device)
    first = model.first_state(20)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss, _ = model(x, first, y)
        (loss * 5).backward()
        clipped_step(optimizer, parameters, gradient_norm(parameters), 5.0)
        return loss

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()  # compiles, and measures which way is fastest
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    losses = []
    for _ in range(200):
        graph.replay()
        losses.append(loss.clone())
    losses = torch.stack(losses).tolist()
    assert len(set(losses)) > 190
    assert sum(losses[-20:]) < 0.9 * sum(losses[:20])
