"""torch is asked what it can run under autocast here, and where it cannot, strop and the recipes can."""

from __future__ import annotations

import threading
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import strop
from strop.functional import dense, operator, trial
from strop.functional.trial import runs_under_autocast
from strop.tasks import baseline
from strop.tasks.baseline import run_lstm

X = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def asked() -> None:
    """Nothing is known from earlier trials."""
    trial._runs.cache_clear()


@pytest.fixture
def cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch runs no LSTM in bfloat16, as on CPUs without instructions for it."""
    monkeypatch.setattr(dense, "runs_under_autocast", lambda *_: False)
    monkeypatch.setattr(baseline, "runs_under_autocast", lambda *_: False)
    monkeypatch.setattr(dense.native, "has_bf16", False)


def run(lstm: nn.Module, dtype: torch.dtype, gradients: bool) -> bool:
    try:
        with torch.autocast("cpu", dtype), torch.set_grad_enabled(gradients):
            y, _ = lstm(X)
            if gradients:
                y.float().sum().backward()
    except RuntimeError:
        return False
    return True


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"proj_size": 5}, {"bidirectional": True}], ids=str)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_the_trial_tells_what_torchs_layers_do(asked, kind, options, dtype, gradients):
    if "proj_size" in options and kind is not nn.LSTM:
        pytest.skip("only LSTMs have projections")
    module = kind(6, 8, 2, **options)
    mode = "RNN_TANH" if kind is nn.RNN else kind.__name__
    found = runs_under_autocast(mode, len(module.all_weights[0]), "cpu", dtype, gradients)
    assert found == run(module, dtype, gradients)


def test_no_mode_of_the_callers_reaches_the_trial(asked):
    expected = runs_under_autocast("LSTM", 4, "cpu", torch.bfloat16, True)

    def under(x: Tensor) -> Tensor:
        trial._runs.cache_clear()
        assert runs_under_autocast("LSTM", 4, "cpu", torch.bfloat16, True) == expected
        return x.sum()

    before = torch.get_rng_state()
    under(X)
    torch.func.grad(under)(X)
    torch.func.vmap(under)(X)
    with torch.inference_mode():
        under(X)
    with torch.autocast("cpu", torch.float16), torch.device("meta"), torch.no_grad():
        under(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        under(X)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")
def test_a_trial_is_made_once(asked, monkeypatch):
    made, threads = [], threading.active_count()
    stack = operator.stack
    monkeypatch.setattr(operator, "stack", lambda *args: made.append("") or stack(*args))
    for _ in range(3):
        runs_under_autocast("GRU", 4, "cpu", torch.bfloat16, True)
    assert len(made) == 1
    with torch.backends.mkldnn.flags(enabled=False):  # another operator of torch's
        runs_under_autocast("GRU", 4, "cpu", torch.bfloat16, True)
    assert len(made) == 2
    assert threading.active_count() == threads


def test_errors_that_are_no_answer_are_passed_on():
    def broken() -> None:
        raise TypeError("a mistake")

    with pytest.raises(TypeError, match="a mistake"):
        trial._succeeds(broken)


def values(output: Tensor | PackedSequence) -> Tensor:
    return output.data if isinstance(output, PackedSequence) else output


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"bidirectional": True}], ids=str)
def test_where_torch_cannot_a_layer_computes_in_float32(cannot, options, training, packed):
    lstm = strop.LSTM(6, 8, 2, **options).train(training)
    x = pack_sequence([X[:4, 0], X[:4, 1]]) if packed else X
    hx = tuple(torch.randn(lstm.num_layers * lstm._directions, 2 if packed else 3, 8) for _ in range(2))
    exact, exact_last = lstm(x, hx)
    with torch.autocast("cpu", torch.bfloat16):
        y, last = lstm(x, hx)
    for found, expected in zip((values(y), *last), (values(exact), *exact_last), strict=True):
        assert found.dtype == torch.bfloat16  # as on other CPUs
        assert torch.equal(found, expected.bfloat16())


@pytest.mark.parametrize("training", [True, False])
def test_where_torch_cannot_compiled_code_can(cannot, training):
    lstm = strop.LSTM(6, 8, 2).train(training)

    @torch.compile(backend="aot_eager", fullgraph=True)
    def step(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(training):
            return lstm(x)[0]

    torch.testing.assert_close(step(X), lstm(X)[0].bfloat16())


@pytest.mark.parametrize("replaced", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_where_torch_cannot_the_baseline_computes_in_float32(cannot, packed, replaced):
    lstm = nn.LSTM(6, 8)
    x = pack_sequence([X[:, 0]]) if packed else X
    low = (torch.randn(1, 1 if packed else 3, 8).bfloat16(),) * 2
    hx = tuple(state.float() for state in low)
    weights = {"weight_hh_l0": torch.randn(32, 8, requires_grad=True)} if replaced else None
    exact, _ = run_lstm(lstm, x, hx, weights)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = run_lstm(lstm, x, low, weights)
    assert torch.equal(values(y), values(exact))
    values(y).sum().backward()
    assert (weights["weight_hh_l0"] if weights else lstm.weight_hh_l0).grad is not None
    assert torch.equal(values(exact), values(lstm(x, hx)[0])) == (not replaced)


CONVERTED = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
AUTOCAST = pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16], ids=str)


def under(dtype: torch.dtype | None) -> torch.autocast:
    return torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None)


def close(found: Tensor, exact: Tensor) -> None:
    torch.testing.assert_close(found.float(), exact, rtol=0.05, atol=0.05)


@CONVERTED
@AUTOCAST
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", [strop.LSTM, strop.GRU, strop.RNN])
def test_converted_layers_run(kind, bidirectional, autocast, dtype):
    """Whatever dtype their parameters have, in training and in evaluation, dropping and not."""
    for p in (0.0, 0.5):
        module = kind(6, 8, 2, bidirectional=bidirectional, recurrent_dropout=p)
        masks = module.draw(4, 3)
        exact, _ = module(X, masks=masks)
        module.to(dtype)
        for training in (False, True):
            with under(autocast):
                y, _ = module.train(training)(X.to(dtype), masks=masks)
            y.float().sum().backward()
            close(y, exact)


@CONVERTED
@AUTOCAST
@pytest.mark.parametrize("kind", [strop.LSTMCell, strop.GRUCell, strop.RNNCell])
def test_converted_cells_run(kind, autocast, dtype):
    if autocast is not None and dtype is torch.float64:
        pytest.skip("torch's own cells refuse it")
    for p in (0.0, 0.5):
        cell = kind(6, 8, recurrent_dropout=p)
        masks, hx = cell.draw(3), torch.randn(3, 8)
        state = (hx, hx) if kind is strop.LSTMCell else hx
        exact = cell(X[0], state, masks)
        cell.to(dtype)
        low = (hx.to(dtype),) * 2 if kind is strop.LSTMCell else hx.to(dtype)
        with under(autocast):
            h = cell(X[0].to(dtype), low, masks)
        close(*((h, exact) if isinstance(h, Tensor) else (h[0], exact[0])))


@CONVERTED
@AUTOCAST
@pytest.mark.parametrize("p", [0.0, 0.5])
def test_converted_linear_layers_run(p, autocast, dtype):
    if autocast is not None and dtype is torch.float64 and not p:
        pytest.skip("torch's own layer refuses it")
    fc = strop.Linear(6, 8, dropout=p)
    mask, target = fc.draw(4, 3), torch.randint(8, (4, 3))
    exact = fc(X, mask), fc.cross_entropy(X, target, mask)
    fc.to(dtype)
    with under(autocast):
        found = fc(X.to(dtype), mask), fc.cross_entropy(X.to(dtype), target, mask)
    for own, expected in zip(found, exact, strict=True):
        close(own, expected)
    (found[0].float().sum() + found[1].float()).backward()
