"""LSTM, GRU and RNN in training: checkpointing, accumulation, threads, determinism, autocast."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn.utils.rnn import pack_sequence
from torch.utils.checkpoint import checkpoint

import recurrent
import strop
from recurrent import make
from strop.ops import native

modes = pytest.mark.parametrize("mode", recurrent.MODES)
EVERYWHERE = {"dropout": 0.5, "input_dropout": 0.4, "recurrent_dropout": 0.6}


def first(hx):
    return hx[0] if isinstance(hx, tuple) else hx


def gradients(loss, module):
    return torch.autograd.grad(loss, list(module.parameters()))


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("name", ["structured", "random"])
@modes
def test_checkpointing_recomputes_with_the_same_masks(backend, mode, name, use_reentrant):
    module = make(mode, 6, 8, 2, bidirectional=True, **EVERYWHERE, pattern=name).to(backend.dtype)
    x = torch.randn(4, 3, 6, dtype=backend.dtype, requires_grad=True)

    def run(forward):
        module.zero_grad()
        x.grad = None
        torch.manual_seed(5)
        y, h = forward(x)
        torch.rand(3)  # what comes after the checkpoint draws, too
        (y.pow(2).sum() + h.sum()).backward()
        return y.detach(), x.grad, *(parameter.grad for parameter in module.parameters())

    def flat(x):  # reentrant checkpoints pass no gradients to an LSTM's nested pair of states
        y, last = module(x)
        return y, first(last)

    expected = run(flat)
    state = torch.get_rng_state()
    actual = run(lambda x: checkpoint(flat, x, use_reentrant=use_reentrant))
    assert all(map(torch.equal, actual, expected))
    assert torch.equal(torch.get_rng_state(), state)


@modes
def test_gradients_accumulate(backend, mode):
    module = make(mode, 6, 8, 2, **EVERYWHERE).to(backend.dtype)
    parts = [(torch.randn(4, 3, 6, dtype=backend.dtype), module.draw(4, 3)) for _ in range(3)]
    losses = [module(x, masks=masks)[0].pow(2).sum() for x, masks in parts]
    expected = [sum(each) for each in zip(*(gradients(loss, module) for loss in losses), strict=True)]
    for x, masks in parts:
        module(x, masks=masks)[0].pow(2).sum().backward()
    for parameter, gradient in zip(module.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, gradient)


@modes
def test_one_module_twice_in_a_graph(backend, mode):
    module = make(mode, 8, 8, input_dropout=0.4, recurrent_dropout=0.6).to(backend.dtype)
    x, masks = torch.randn(4, 3, 8, dtype=backend.dtype), [module.draw(4, 3) for _ in range(2)]

    def loss(one, two):
        return two(one(x, masks=masks[0])[0], masks=masks[1])[0].pow(2).sum()

    apart = nn.ModuleList([copy.deepcopy(module), copy.deepcopy(module)])
    each = gradients(loss(*apart), apart)
    for actual, *parts in zip(
        gradients(loss(module, module), module), each[: len(each) // 2], each[len(each) // 2 :], strict=True
    ):
        torch.testing.assert_close(actual, sum(parts))


def steps(mode: str, seed: int) -> Iterator[list[torch.Tensor]]:
    """A model of its own, trained; its parameters after each step."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        module = make(mode, 20, 24, 2, bidirectional=True, **EVERYWHERE)
        for parameter in module.parameters():
            parameter.uniform_(-0.2, 0.2, generator=generator)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for _ in range(6):
        x = torch.randn(7, 9, 20, generator=generator)
        optimizer.zero_grad()
        y, _ = module(x, masks=module.draw(7, 9, generator=generator))
        y.pow(2).mean().backward()
        optimizer.step()
        yield [parameter.detach().clone() for parameter in module.parameters()]


@modes
def test_several_threads_train_models_of_their_own(mode):
    expected = [list(steps(mode, seed))[-1] for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        actual = list(pool.map(lambda seed: list(steps(mode, seed))[-1], range(4)))
    for one, other in zip(actual, expected, strict=True):
        assert all(map(torch.equal, one, other))


@modes
def test_deterministic_algorithms(backend, mode):
    module = make(mode, 6, 8, 2, bidirectional=True, **EVERYWHERE).to(backend.dtype)
    cell = recurrent.CELLS[mode][0](6, 8, recurrent_dropout=0.5).to(backend.dtype)
    x = torch.randn(5, 3, 6, dtype=backend.dtype)
    torch.use_deterministic_algorithms(True)
    try:
        found = []
        for _ in range(2):
            torch.manual_seed(5)
            y, _ = recurrent.call(module, x, None, "unsorted", [2, 5, 3])
            plain, _ = module(x)
            h = first(cell(x[0]))
            loss = y.pow(2).sum() + plain.pow(2).sum() + h.pow(2).sum()
            found.append(gradients(loss, nn.ModuleList([module, cell])))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(map(torch.equal, *found))


LOW = pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])


@LOW
@pytest.mark.parametrize("dropping", [True, False])
@pytest.mark.parametrize("layout", ["batched", "unsorted"])
@modes
def test_autocast(mode, layout, dropping, low):
    """Close to float32, in training and in evaluation, for inputs of either dtype; gradients are float32."""
    module = make(mode, 6, 8, 2, bidirectional=True, **(EVERYWHERE if dropping else {}))
    x, masks = torch.randn(5, 3, 6), module.draw(5, 3)
    hx = recurrent.zeros(module, 3)
    lengths = [2, 5, 3] if layout == "unsorted" else None
    for training in (True, False):
        module.train(training)
        arguments = {"masks": masks} if training else {}
        exact, _ = recurrent.call(module, x, hx, layout, lengths, **arguments)
        expected = gradients(exact.pow(2).sum(), module)
        for given in (x, x.to(low)):
            with torch.autocast("cpu", dtype=low):
                y, last = recurrent.call(module, given, hx, layout, lengths, **arguments)
                loss = y.float().pow(2).sum()
                with torch.no_grad():
                    without, _ = recurrent.call(module, given, hx, layout, lengths, **arguments)
            torch.testing.assert_close(y.float(), exact, rtol=0.05, atol=0.05)
            torch.testing.assert_close(without.float(), exact, rtol=0.05, atol=0.05)
            assert all(state.isfinite().all() for state in last)
            for actual, gradient in zip(gradients(loss, module), expected, strict=True):
                assert actual.dtype == torch.float32
                difference = torch.linalg.vector_norm(actual - gradient)
                assert difference <= 0.05 * torch.linalg.vector_norm(gradient) + 0.05


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@LOW
@pytest.mark.parametrize("options", [{}, {"proj_size": 4}, {"dtype": torch.float64}], ids=str)
@modes
def test_autocast_does_not_lower_the_weights_precision_while_something_is_dropped(
    mode, options, low, monkeypatch
):
    """Sums are float32 or better: with an input that is exact in both, there is no difference at all."""
    monkeypatch.setattr(native, "has_bf16", False)  # operands are rounded there: see test_native_bf16.py
    if "proj_size" in options and mode != "LSTM":
        pytest.skip("only LSTMs have projections")
    module = make(mode, 6, 8, 2, **EVERYWHERE, **options)
    x, masks = torch.randn(5, 3, 6).to(low), module.draw(5, 3)
    expected, _ = module(x.to(module.weight_ih_l0.dtype), masks=masks)
    with torch.autocast("cpu", dtype=low):
        y, _ = module(x, masks=masks)
        plain, _ = module.eval()(x)
    assert torch.equal(y, expected)
    assert plain.isfinite().all()


@LOW
@pytest.mark.parametrize("name", ["structured", "random"])
@modes
def test_autocast_of_cells(mode, name, low):
    kind, _, own = recurrent.CELLS[mode]
    cell = kind(6, 8, **own, input_dropout=0.5, recurrent_dropout=0.5, pattern=name)
    x, masks = torch.randn(3, 6), cell.draw(3)
    exact, plainly = first(cell(x, masks=masks)), first(cell.eval()(x))
    for given in (x, x.to(low)):
        with torch.autocast("cpu", dtype=low):
            dropped, plain = first(cell.train()(given, masks=masks)), first(cell.eval()(given))
        torch.testing.assert_close(dropped.float(), exact, rtol=0.05, atol=0.05)
        torch.testing.assert_close(plain.float(), plainly, rtol=0.05, atol=0.05)
        for loss in (dropped.float().sum(), plain.float().sum()):
            assert all(gradient.isfinite().all() for gradient in gradients(loss, cell))


@modes
def test_under_no_grad_and_inference_mode(backend, mode):
    module = make(mode, 6, 8, 2, bidirectional=True, **EVERYWHERE).to(backend.dtype)
    x, masks = torch.randn(4, 3, 6, dtype=backend.dtype), module.draw(4, 3)
    expected, _ = module(x, masks=masks)
    for without in (torch.no_grad, torch.inference_mode):
        with without():
            y, _ = module(x, masks=masks)
        assert not y.requires_grad
        assert torch.equal(y, expected)
    with torch.inference_mode():
        torch.testing.assert_close(module.eval()(x)[0], module(x, hx=None)[0])


def test_a_linear_layer_checkpoints():
    fc, x = strop.Linear(16, 8, dropout=0.5), torch.randn(4, 3, 16, requires_grad=True)
    torch.manual_seed(3)
    expected = gradients(fc(x).pow(2).sum(), fc)
    torch.manual_seed(3)
    actual = gradients(checkpoint(fc, x, use_reentrant=False).pow(2).sum(), fc)
    assert all(map(torch.equal, actual, expected))


@LOW
@pytest.mark.parametrize("name", ["structured", "random"])
def test_autocast_of_linear_layers(name, low):
    fc, x = strop.Linear(16, 8, dropout=0.5, pattern=name), torch.randn(4, 3, 16)
    drop, target, mask = strop.Dropout(0.5, pattern=name), torch.randint(8, (4, 3)), fc.draw(4, 3)
    exact = [fc(x, mask), fc.cross_entropy(x, target, mask), drop(x, mask)]
    for given in (x, x.to(low)):
        with torch.autocast("cpu", dtype=low):
            found = [fc(given, mask), fc.cross_entropy(given, target, mask), drop(given, mask)]
        for actual, expected in zip(found, exact, strict=True):
            torch.testing.assert_close(actual.float(), expected, rtol=0.05, atol=0.05)
        for loss in (found[0].float().sum(), found[1]):
            assert all(gradient.isfinite().all() for gradient in gradients(loss, fc))


@modes
@pytest.mark.parametrize("drops", [{}, {"recurrent_dropout": 0.5}], ids=str)
def test_gradients_share_no_memory(backend, mode, drops):
    module = make(mode, 6, 8, **drops).to(backend.dtype)
    found = gradients(module(torch.randn(4, 3, 6, dtype=backend.dtype))[0].sum(), module)
    assert len({grad.untyped_storage().data_ptr() for grad in found}) == len(found)


@modes
def test_packed_sequences_under_another_default_device(backend, mode):
    module = make(mode, 6, 8, recurrent_dropout=0.5).to(backend.dtype)
    packed = pack_sequence([torch.randn(n, 6, dtype=backend.dtype) for n in (4, 3, 2)])
    with torch.device("meta"):
        y, _ = module(packed)
    assert y.data.device.type == "cpu"


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("mode", ["GRU", "RNN_TANH"])
def test_forward_mode_differentiation_where_torch_has_it(way, mode):
    ours, theirs = make(mode, 6, 8), recurrent.make_torchs(mode, 6, 8)
    theirs.load_state_dict(ours.state_dict())
    x, tangent = torch.randn(2, 4, 3, 6).unbind()
    found = []
    for module in (ours, theirs):
        with forward_ad.dual_level():
            found.append(forward_ad.unpack_dual(module(forward_ad.make_dual(x, tangent))[0]))
    torch.testing.assert_close(*map(tuple, found))
