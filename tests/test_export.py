"""torch.export and ONNX: torch's own operators, and the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import recurrent
import strop

STEPS, WORDS = 7, 11
DROPS = {"dropout": 0.5, "input_dropout": 0.4, "recurrent_dropout": 0.6}


class Tagger(nn.Module):
    """Words ``[STEPS, batch]`` to logits."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 6)
        self.rnn = recurrent.make(mode, 6, 8, 2, bidirectional=True, **DROPS)
        self.head = strop.Linear(16, 5, dropout=0.5)

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.rnn(self.embedding(words))[0])


def trained(mode: str) -> Tagger:
    """After three steps, in evaluation."""
    model = Tagger(mode)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    for _ in range(3):
        words = torch.randint(WORDS, (STEPS, 4))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(words).flatten(0, 1), words.flatten() % 5).backward()
        optimizer.step()
    return model.eval()


def operators(program: torch.export.ExportedProgram) -> set[str]:
    return {str(node.target) for node in program.graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize("mode", recurrent.MODES)
def test_an_exported_model_is_torchs_operator(mode):
    model, words = trained(mode), torch.randint(WORDS, (STEPS, 4))
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(model, (words,), dynamic_shapes=({1: batch},))
    assert f"aten.{mode.lower()}.input" in operators(program)
    assert not any("strop" in name for name in operators(program))
    exported = program.module()
    for size in (4, 1, 9):
        words = torch.randint(WORDS, (STEPS, size))
        torch.testing.assert_close(exported(words), model(words))


@pytest.mark.parametrize("kind", [strop.LSTMCell, strop.GRUCell, strop.RNNCell])
def test_exported_cells(kind):
    cell, x = kind(6, 8, recurrent_dropout=0.5).eval(), torch.randn(3, 6)
    exported = torch.export.export(cell, (x,)).module()
    torch.testing.assert_close(exported(x), cell(x))


# torch's exporter, about itself.
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:_check_is_size will be removed:FutureWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.filterwarnings("ignore:The tensor attributes self.rnn._flat_weights:UserWarning")  # nn.LSTM's
@pytest.mark.parametrize(("mode", "reverted"), [("LSTM", False), ("LSTM", True), ("GRU", True)])
def test_onnxruntime_gives_the_logits_of_the_trained_model(mode, reverted, tmp_path: Path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    model, words = trained(mode), torch.randint(WORDS, (STEPS, 4))
    samples = [torch.randint(WORDS, (STEPS, size)) for size in (4, 1, 9)]
    with torch.no_grad():
        expected = [model(words) for words in samples]
    if reverted:
        strop.revert(model)
        assert type(model.rnn) is getattr(nn, mode)
    program = torch.onnx.export(model, (words,), dynamo=True, dynamic_shapes=({1: "batch"},), verbose=False)
    assert mode in {node.op_type for node in program.model.graph}
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for words, logits in zip(samples, expected, strict=True):
        (found,) = session.run(None, {session.get_inputs()[0].name: words.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), logits, rtol=1e-5, atol=1e-5)


class Packed(nn.Module):
    """Padded sequences ``[STEPS, batch, 6]`` and their lengths to logits, packed on the way."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.rnn = recurrent.make(mode, 6, 8, 2, bidirectional=True, **DROPS)
        self.head = strop.Linear(16, 5, dropout=0.5)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        y, _ = self.rnn(nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False))
        return self.head(nn.utils.rnn.pad_packed_sequence(y)[0])


# torch's older exporter and tracer, about themselves and about torch's packing.
older_tools = [
    pytest.mark.filterwarnings(f"ignore:{what}")
    for what in (
        "You are using the legacy TorchScript-based ONNX export:DeprecationWarning",
        "The feature will be removed:DeprecationWarning",
        "Exporting a model to ONNX with a batch_size other than 1:UserWarning",
        "`torch.jit.trace.?`:DeprecationWarning",
        "`torch.jit.trace_method.?`:DeprecationWarning",
        "Converting a tensor to a Python:torch.jit.TracerWarning",
        "Using len to get tensor shape:torch.jit.TracerWarning",
    )
]


def older(test):
    for mark in older_tools:
        test = mark(test)
    return test


@older
@pytest.mark.parametrize("mode", recurrent.MODES)
def test_the_older_exporter_and_the_tracer_see_torchs_operator(mode, tmp_path: Path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = Packed(mode).eval()
    given = torch.randn(STEPS, 3, 6), torch.tensor([4, STEPS, 2])
    others = torch.randn(5, 4, 6), torch.tensor([1, 3, 5, 5])
    traced = torch.jit.trace(model, given)
    assert f"aten::{mode.lower()}(" in str(traced.inlined_graph)
    axes = {"x": {0: "steps", 1: "batch"}, "lengths": {0: "batch"}}
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, given, path, dynamo=False, input_names=list(axes), dynamic_axes=axes)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for inputs in (given, others):
        expected = model(*inputs)
        torch.testing.assert_close(traced(*inputs), expected)
        (found,) = session.run(None, {name: each.numpy() for name, each in zip(axes, inputs, strict=True)})
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-5)


@older
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN", "LSTMCell", "GRUCell", "RNNCell"])
def test_the_older_exporter_takes_a_bare_module(kind, tmp_path: Path):
    onnxruntime = pytest.importorskip("onnxruntime")
    module, x = getattr(strop, kind)(6, 8, recurrent_dropout=0.5).eval(), torch.randn(3, 6)
    if "Cell" not in kind:
        x = x.unsqueeze(0)
    torch.onnx.export(module, (x,), tmp_path / "model.onnx", dynamo=False, input_names=["x"])
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    found, expected = session.run(None, {"x": x.numpy()})[0], module(x)
    expected = expected if isinstance(expected, Tensor) else expected[0]
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-5, atol=1e-5)
