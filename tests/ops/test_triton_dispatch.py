"""When the Triton backend runs, and what is said where it cannot."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

import strop
from strop.functional import operator
from strop.ops import dispatch, selection
from strop.ops.triton import launch


def operand(device: str = "cuda", dtype: torch.dtype = torch.float16) -> SimpleNamespace:
    """What dispatch looks at, of a tensor that this machine may not be able to hold."""
    return SimpleNamespace(device=torch.device(device), dtype=dtype, is_cuda=device == "cuda")


@pytest.fixture
def gpu(monkeypatch):
    """A machine with an A100."""
    monkeypatch.setattr(launch, "interpreting", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.delenv("STROP_BACKEND", raising=False)


def test_importing_strop_imports_no_triton():
    code = "import sys, strop; assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_triton_everything_else_works(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "triton" else find(name))
    assert "not installed" in (dispatch.why_not("triton") or "")
    assert dispatch.select(torch.zeros(1)) in ("native", "reference")
    assert dispatch.select(operand()) == "reference"  # pyright: ignore[reportArgumentType]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_it_is_chosen_on_a_gpu(dtype):
    assert dispatch.select(operand(dtype=dtype)) == "triton"  # pyright: ignore[reportArgumentType]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("device", "dtype", "reason"),
    [("cuda", torch.float64, "the operands are torch.float64"), ("cpu", torch.float32, "run on cuda")],
    ids=str,
)
def test_operands_that_it_cannot_take(device, dtype, reason):
    x = operand(device, dtype)
    assert reason in (dispatch.why_not("triton", x) or "")  # pyright: ignore[reportArgumentType]


@pytest.mark.usefixtures("gpu")
def test_old_gpus_run_plain_pytorch(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "has 7.5" in (dispatch.why_not("triton", operand()) or "")  # pyright: ignore[reportArgumentType]
    assert dispatch.select(operand()) == "reference"  # pyright: ignore[reportArgumentType]


def test_without_a_gpu_or_the_interpreter(monkeypatch):
    monkeypatch.setattr(launch, "interpreting", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no NVIDIA GPU" in (dispatch.why_not("triton") or "")


@pytest.mark.skipif(not launch.interpreting, reason="needs Triton's interpreter")
@pytest.mark.parametrize("packed", [False, True], ids=["", "packed"])
@pytest.mark.parametrize("pattern", ["structured", "random"])
@pytest.mark.parametrize("kind", [strop.LSTM, strop.GRU])
def test_layers_that_drop_their_inputs_alone_are_left_to_cudnn(kind, pattern, packed, monkeypatch):
    module = kind(5, 6, 2, dropout=0.5, input_dropout=0.4, bidirectional=True, pattern=pattern)
    masks, x = module.draw(4, 3), torch.randn(4, 3, 5)
    given = pack_padded_sequence(x, torch.tensor([2, 4, 1]), enforce_sorted=False) if packed else x

    def results() -> list[torch.Tensor]:
        y, last = module(given, masks=masks)
        outputs = [y.data if packed else y, *(last if kind is strop.LSTM else [last])]
        grads = torch.autograd.grad(sum(output.pow(2).sum() for output in outputs), [*module.parameters()])
        return [*outputs, *grads]

    with dispatch.use("reference"):
        expected = results()
    with dispatch.use("triton"):
        monkeypatch.setattr(dispatch, "recurrence", None)
        torch.testing.assert_close(results(), expected)


@pytest.mark.skipif(not launch.interpreting, reason="needs Triton's interpreter")
def test_cudnn_does_not_warn_of_layers_whose_memory_is_their_stacks(monkeypatch):
    module, lstm, calls = strop.LSTM(5, 6, 2, input_dropout=0.4), operator.STACKS["LSTM"], []

    def warning(*operands):
        warnings.warn("RNN module weights are not part of single contiguous chunk of memory.", stacklevel=1)
        calls.append(operands)
        return lstm(*operands)

    monkeypatch.setitem(operator.STACKS, "LSTM", warning)
    with dispatch.use("triton"):
        module(torch.randn(4, 3, 5))
    assert len(calls) == 2


@pytest.mark.skipif(not launch.interpreting, reason="needs Triton's interpreter")
def test_the_interpreter_runs_only_if_it_is_asked_for():
    assert dispatch.select(torch.zeros(1)) != "triton"
    with dispatch.use("triton"):
        assert dispatch.select(torch.zeros(1)) == "triton"
        assert dispatch.products(torch.zeros(1)).__name__ == "strop.ops.triton.products"
        with pytest.raises(RuntimeError, match="wrong products in bfloat16"):
            dispatch.select(torch.zeros(1, dtype=torch.bfloat16))


@pytest.mark.parametrize("distinct", [2, 1000])
def test_masks_drawn_without_waiting_are_the_same(distinct):
    keys = torch.randint(distinct, (7, 33), dtype=torch.int32)
    assert torch.equal(selection.smallest_unseen(keys, 12), selection.smallest(keys, 12))


def test_projections_run_in_plain_pytorch(device):
    """Triton has no kernels for them; asked for by name or not, they compute what they must."""
    module = strop.LSTM(5, 7, 2, proj_size=3, bidirectional=True, input_dropout=0.5, recurrent_dropout=0.5)
    module, x = module.to(device), torch.randn(4, 2, 5, device=device)
    masks = module.draw(4, 2)

    def results(backend):
        with dispatch.use(backend):
            y, (h, c) = module(x, masks=masks)
            return [y, h, c, *torch.autograd.grad((y.sum(), h.sum(), c.sum()), [*module.parameters()])]

    torch.testing.assert_close(results("triton"), results("reference"))


@pytest.mark.parametrize("mode", ["LSTM", "GRU"])
def test_autocast_runs_in_the_dtype_that_is_asked_for(device, mode):
    """As of torch's layers on a GPU."""
    layer = getattr(strop, mode)(5, 7, 2, dropout=0.5, recurrent_dropout=0.5).to(device)
    head = strop.Linear(7, 9, dropout=0.5).to(device)
    x = torch.randn(4, 3, 5, device=device)
    masks, mask = layer.draw(4, 3), head.draw(4, 3)
    parameters = [*layer.parameters(), *head.parameters()]
    found = []
    for backend, enabled in (("triton", True), ("reference", False)):
        with dispatch.use(backend):
            with torch.autocast(device.type, torch.float16, enabled=enabled):
                y, states = layer(x, masks=masks)
                z = head(y, mask)
            found.append([z, y, *(states if mode == "LSTM" else (states,))])
            found[-1] += torch.autograd.grad(z.float().square().sum(), parameters)
    low, exact = found
    forward = len(low) - len(parameters)
    assert {each.dtype for each in low[:forward]} == {torch.float16}
    assert {each.dtype for each in low[forward:]} == {torch.float32}
    for ours, value in zip(low, exact, strict=True):
        assert torch.linalg.vector_norm(ours.float() - value) < 0.01 * torch.linalg.vector_norm(value)
