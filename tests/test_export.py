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
