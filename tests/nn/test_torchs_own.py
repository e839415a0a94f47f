"""torch's own samples for its recurrent modules, those that its wheel has, run with ours in their place."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

import oracle
import strop

pytestmark = pytest.mark.usefixtures("way")

NAMES = ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"]
DROPS = {"input_dropout": 0.5, "recurrent_dropout": 0.5}
names = pytest.mark.parametrize("name", NAMES)
training = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


@pytest.fixture(scope="module")
def infos() -> dict[str, Any]:
    """By class. Importing them changes settings of the whole process, which are put back here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends, "__allow_nonbracketed_mutation_flag", True)
        for kind in (torch._C.ScriptFunction, torch._C.ScriptMethod):
            patch.setattr(kind, "__call__", kind.__call__)
        from torch.testing._internal.common_modules import module_db
    return {
        info.module_cls.__name__: info
        for info in module_db
        if info.module_cls.__module__ == nn.LSTM.__module__
    }


def samples(info: Any, dtype: torch.dtype, training: bool) -> list[Any]:
    """torch asks for packed sequences in some of its tests only, and has none of an LSTM."""
    packed = {"with_packed_sequence": True} if info.module_cls in (nn.GRU, nn.RNN) else {}
    found = info.module_inputs_func(
        info, device="cpu", dtype=dtype, requires_grad=True, training=training, **packed
    )
    assert len(found) >= 2
    return list(found)


def tensors(values: Any) -> list[Tensor]:
    """All of a nested tuple."""
    if isinstance(values, PackedSequence):
        return [values.data]
    return [values] if isinstance(values, Tensor) else [each for value in values for each in tensors(value)]


def detached(values: Any) -> Any:
    """A copy with leaves of its own."""
    if isinstance(values, PackedSequence):
        return values._replace(data=detached(values.data))
    if isinstance(values, Tensor):
        return values.detach().clone().requires_grad_()
    return tuple(map(detached, values))


def build(kind: Any, sample: Any, **more: Any) -> Any:
    arguments = sample.constructor_input
    return kind(*arguments.args, **arguments.kwargs, **more)


def double(values: Any) -> Any:
    """A copy in float64."""
    if isinstance(values, PackedSequence):
        return values._replace(data=values.data.double())
    return values.double() if isinstance(values, Tensor) else tuple(map(double, values))


def flat(values: Any) -> Tensor:
    return torch.cat([value.detach().flatten() for value in values])


def outcome(module: Any, arguments: Any) -> dict[str, Tensor]:
    """What comes out, and all gradients of the sum of its squares."""
    arguments = detached(arguments)
    found = tensors(module(*arguments))
    leaves = [*tensors(arguments), *module.parameters()]
    grads = torch.autograd.grad(sum(each.pow(2).sum() for each in found), leaves)
    return {"outputs": flat(found), "gradients": flat(grads)}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@training
@names
def test_equals_torchs_module(infos, name, training):
    """Inputs of up to 9 saturate the gates, which magnifies rounding by chance: float32 counts as a whole."""
    found: dict[str, list[dict[str, Tensor]]] = {"ours": [], "torch's": [], "float64": []}
    for sample in samples(infos[name], torch.float32, training):
        ours = build(getattr(strop, name), sample, **({} if training else DROPS)).train(training)
        theirs = build(getattr(nn, name), sample).train(training)
        theirs.load_state_dict(ours.state_dict())
        arguments = sample.forward_input.args
        found["ours"].append(outcome(ours, arguments))
        found["torch's"].append(outcome(theirs, arguments))
        found["float64"].append(outcome(theirs.double(), double(arguments)))
        oracle.assert_exact(outcome(ours.double(), double(arguments)), found["float64"][-1])
    actual, float32, float64 = (
        {kind: torch.cat([one[kind] for one in each]) for kind in each[0]} for each in found.values()
    )
    oracle.assert_as_accurate(actual, [float32], float64)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@training
@names
def test_equals_what_torch_compares_its_module_with(infos, name, training):
    compared = 0
    for sample in samples(infos[name], torch.float32, training):
        if isinstance(sample.forward_input.args[0], PackedSequence):
            continue  # their reference is one for sequences without a batch; torch leaves them out as well
        module = build(getattr(strop, name), sample).train(training)
        expected = sample.reference_fn(module, *sample.forward_input.args)
        torch.testing.assert_close(module(*sample.forward_input.args), expected)
        compared += 1
    assert compared >= 2


@names
def test_gradients_while_dropping(infos, name):
    # Every seventh has each option both on and off; all of them take a minute.
    for number, sample in enumerate(samples(infos[name], torch.float64, True)[::7]):
        module = build(getattr(strop, name), sample, dtype=torch.float64, **DROPS)
        arguments = detached(sample.forward_input.args)
        leaves = [*tensors(arguments), *module.parameters()]

        def run(*_: Tensor, module=module, arguments=arguments) -> Any:
            torch.manual_seed(1)
            return tuple(tensors(module(*arguments)))

        assert torch.autograd.gradcheck(run, leaves, fast_mode=True)
        if number == 0:  # ten times as long
            assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True)


@names
def test_copies_and_dtypes(infos, name):
    for sample in samples(infos[name], torch.float32, True):
        module = build(getattr(strop, name), sample)
        arguments = sample.forward_input.args
        expected = tensors(module(*arguments))
        for clone in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert all(map(torch.equal, tensors(clone(*arguments)), expected))
        with torch.device("meta"):
            assert all(
                p.is_meta for p in build(getattr(strop, name), sample, dtype=torch.float64).parameters()
            )


def spread(values: Any) -> Any:
    """A copy with a gap after each element."""
    if isinstance(values, PackedSequence):
        return values._replace(data=spread(values.data))
    if isinstance(values, Tensor):
        return values.detach().repeat_interleave(2, -1)[..., ::2].requires_grad_()
    return tuple(map(spread, values))


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@training
@names
def test_layout_in_memory(infos, name, training):
    """Inputs with gaps are taken, and results are laid out as torch lays out its own."""
    for sample in samples(infos[name], torch.float64, training):
        ours = build(getattr(strop, name), sample, dtype=torch.float64).train(training)
        theirs = build(getattr(nn, name), sample, dtype=torch.float64).train(training)
        arguments = sample.forward_input.args
        found = tensors(ours(*spread(arguments)))
        torch.testing.assert_close(found, tensors(ours(*arguments)))
        expected = tensors(theirs(*arguments))
        assert [value.stride() for value in found] == [value.stride() for value in expected]


@names
def test_training_is_asked_for_where_it_matters_alone(infos, name):
    info = infos[name]
    for drops in ({}, DROPS):
        for sample in samples(info, torch.float32, True):
            module = build(getattr(strop, name), sample, **drops)
            del module.training
            if drops or info.train_and_eval_differ:
                with pytest.raises(AttributeError, match="'training'"):
                    module(*sample.forward_input.args)
            else:
                module(*sample.forward_input.args)


@dtypes
@names
def test_errors(infos, name, dtype):
    info = infos[name]
    errors = info.module_error_inputs_func(
        info, device="cpu", dtype=dtype, requires_grad=False, training=True
    )
    assert errors
    for error in errors:
        sample = error.module_error_input
        for drops in ({}, DROPS):
            with pytest.raises(error.error_type, match=error.error_regex):  # noqa: PT012
                module = build(getattr(strop, name), sample, **drops)
                module(*sample.forward_input.args)
