"""Published model shapes, converted, trained and reverted."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from published import AWDModel, Decoder, Tagger, WordModel
from torch import Tensor, nn

import strop

convert = partial(strop.convert, only_if_faster=False)  # at sizes at which nothing pays

T, B, WORDS = 5, 3, 30
IDS = torch.randint(WORDS, (T, B), generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([3, 5, 1])
MEMORY = torch.randn(6, B, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """A model, what it reads, and what becomes of which of its layers."""

    make: Callable[[], nn.Module]
    inputs: Any
    swapped: set[str]
    taken_over: set[str]

    def call(self, model: nn.Module) -> Tensor:
        output = model(*self.inputs) if isinstance(self.inputs, tuple) else model(self.inputs)
        return output[0] if isinstance(output, tuple) else output


CASES = {
    "word language model": Case(WordModel, IDS, {"rnn", "decoder"}, {"drop"}),
    "tied": Case(lambda: WordModel(tied=True), IDS, {"rnn", "decoder"}, {"drop"}),
    "AWD-LSTM": Case(lambda: AWDModel(False), IDS, {"rnns.0", "rnns.1", "rnns.2", "decoder"}, {"locked"}),
    "AWD-LSTM with weight drop": Case(lambda: AWDModel(True), IDS, set(), set()),
    "tagger": Case(lambda: Tagger(nn.LSTM, False), (IDS, LENGTHS), {"rnn", "classifier"}, {"dropout"}),
    "tagger, batch first": Case(
        lambda: Tagger(nn.LSTM, True), (IDS.t(), LENGTHS), {"rnn", "classifier"}, {"dropout"}
    ),
    "GRU tagger": Case(lambda: Tagger(nn.GRU, False), (IDS, LENGTHS), {"rnn", "classifier"}, {"dropout"}),
    "RNN tagger": Case(lambda: Tagger(nn.RNN, False), (IDS, LENGTHS), {"rnn", "classifier"}, {"dropout"}),
    "decoder with input feeding": Case(
        Decoder, (IDS, MEMORY), {"lower", "upper", "output"}, {"between", "output_drop"}
    ),
    "in DataParallel": Case(
        lambda: nn.DataParallel(WordModel()), IDS, {"module.rnn", "module.decoder"}, {"module.drop"}
    ),
}


def gradients(case: Case, model: nn.Module) -> tuple[Tensor, dict[str, Tensor | None]]:
    model.zero_grad()
    output = case.call(model)
    output.pow(2).sum().backward()
    return output.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


def types(model: nn.Module) -> dict[str, type]:
    return {name: type(module) for name, module in model.named_modules()}


@pytest.mark.parametrize("name", CASES)
def test_converted_trained_and_reverted(name):
    case = CASES[name]
    model, plain = case.make().double(), case.make().double()
    plain.load_state_dict(model.state_dict())
    kinds = types(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    with nullcontext() if case.swapped else pytest.warns(UserWarning, match="has changed nothing"):
        report = convert(model, recurrent_dropout=0.5, example_inputs=case.inputs)
    assert {entry.name for entry in report.swapped} == case.swapped
    assert {entry.name for entry in report.taken_over} == case.taken_over
    assert {name for name, kind in types(model).items() if kind is not kinds[name]} == (
        case.swapped | case.taken_over
    )

    # In eval nothing is dropped: outputs and gradients are torch's.
    actual, expected = gradients(case, model.eval()), gradients(case, plain.eval())
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)

    model.train()
    before = copy.deepcopy(model.state_dict())
    for _ in range(2):
        _, found = gradients(case, model)
        assert {key for key, grad in found.items() if grad is None} == {
            key for key, grad in expected[1].items() if grad is None
        }
        optimizer.step()
    assert all(
        not torch.equal(tensor, before[key])
        for key, tensor in model.state_dict().items()
        if expected[1].get(key) is not None
    )

    parameters = dict(model.named_parameters())
    strop.revert(model)
    assert types(model) == kinds
    assert all(parameter is parameters[key] for key, parameter in model.named_parameters())
    plain.load_state_dict(model.state_dict())
    for mode in (False, True):
        outputs = []
        for each in (model, plain):
            torch.manual_seed(3)
            outputs.append(case.call(each.train(mode)))
        assert torch.equal(*outputs)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.swapped])
def test_something_is_dropped_in_training(name):
    case = CASES[name]
    model = case.make().double()
    convert(model, recurrent_dropout=0.5, example_inputs=case.inputs)
    with torch.no_grad():
        assert not torch.equal(case.call(model), case.call(model))


def test_cells_and_patterns_with_one_mask_for_all_steps():
    """A cell cannot know which calls belong to one sequence."""
    model = Decoder().double()
    with pytest.warns(UserWarning, match="has changed nothing"):
        report = convert(model, recurrent_dropout=0.5, pattern="fixed", example_inputs=(IDS, MEMORY))
    reasons = {entry.name: entry.why for entry in report}
    for name in ("lower", "upper"):
        assert reasons[name] == "draws a mask at each call, and pattern 'fixed' has one for all steps"
    assert reasons["output_drop"] == f"feeds 'output': {reasons['lower']}"
    assert not report.swapped


@pytest.fixture
def process_group():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_distributed_data_parallel_still_reduces_all_gradients(process_group):
    """The wrapper was made before; that its hook doubles every gradient shows that it handles them all."""
    plain = WordModel(p=0.0).double()
    wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(plain))

    def doubled(_, bucket):
        future = torch.futures.Future()
        future.set_result(2 * bucket.buffer())
        return future

    wrapped.register_comm_hook(None, doubled)
    report = convert(wrapped, recurrent_dropout=0.0, example_inputs=IDS)
    assert [entry.name for entry in report.swapped] == ["module.rnn"]
    for _ in range(2):  # in its second step DDP rebuilds its buckets
        wrapped.zero_grad()
        wrapped(IDS)[0].pow(2).sum().backward()
    plain(IDS)[0].pow(2).sum().backward()
    for ours, theirs in zip(wrapped.module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, 2 * theirs.grad, rtol=1e-10, atol=1e-10)
