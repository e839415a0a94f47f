from dataclasses import replace

import pytest
import torch

import strop
from strop.bench import advise
from strop.bench.advise import Net, Options, Setting
from strop.bench.records import Record, Work

TINY = Options(input_size=6, hidden_size=8, layers=2, batch=3, steps=4, p=(0.5, 0.25), seconds=0)


@pytest.fixture(autouse=True)
def _no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strop.bench.machine.peak_gflops", lambda device: 100.0)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_every_setting_is_measured_and_judged(cell, capsys: pytest.CaptureFixture[str]):
    assert advise.run(replace(TINY, cell=cell)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"{cell.upper()} 6 → 2 x 8, batch 3, 4 steps" in lines[0]
    names = [f"torch.nn.{cell.upper()}", "strop nothing dropped", "strop NR+ST p=0.25", "strop NR+ST p=0.5"]
    names += ["strop NR+RH+ST p=0.25", "strop NR+RH+ST p=0.5"]
    assert [line[: len(name)] for line, name in zip(lines[2:], names, strict=False)] == names
    assert len(lines) < 25
    assert lines[1].split()[-3:] == ["ideal", "of", "peak"]
    assert lines[7].split()[-2] == "2.00x"


def test_operations_are_those_on_kept_columns():
    dense = 3 * 2 * (3 * 4) * (4 * 8) * (6 + 8 + 8 + 8)
    assert advise.work(TINY, Setting("torch", 0.5), theirs=True) == Work(dense)
    assert advise.work(TINY, Setting("nothing dropped", 0.0)) == Work(dense, 1.0)
    inputs = 3 * 2 * (3 * 4) * (4 * 8) * (3 + 8 + 4 + 8)
    assert advise.work(TINY, Setting("NR+ST p=0.5", 0.5)) == Work(inputs, dense / inputs)
    gru = advise.work(replace(TINY, cell="gru"), Setting("NR+RH+ST p=0.5", 0.5, 0.5))
    assert gru == Work(dense * 3 // 4 // 2, 2.0)


def test_nets_drop_what_their_setting_says():
    setting = Setting("NR+RH+ST p=0.5", 0.5, 0.5)
    ours, theirs = Net(TINY, setting, theirs=False).rnn, Net(TINY, setting, theirs=True)
    assert isinstance(ours, strop.LSTM)
    assert (ours.input_dropout, ours.dropout, ours.recurrent_dropout) == (0.5, 0.5, 0.5)
    assert (theirs.dropout.p, theirs.rnn.dropout) == (0.5, 0.5)
    assert type(theirs.rnn) is torch.nn.LSTM
    assert Net(replace(TINY, layers=1), setting, theirs=False).rnn.dropout == 0


def test_wrong_values_are_not_timed(monkeypatch, capsys):
    monkeypatch.setattr(advise, "discrepancies", lambda label, model, loss: [f"{label}: wrong"])
    assert advise.run(TINY) == 1
    assert "NR+ST p=0.5: wrong" in capsys.readouterr().err


def record(impl: str, speedup: float) -> Record:
    return Record("advise", "lstm", "cpu", impl, "overall", 1, 1, 1, speedup, *[None] * 4)


def test_advice_names_the_fastest_and_what_does_not_pay():
    ours = [record("nothing dropped", 1.0), record("NR+ST p=0.2", 1.01), record("NR+ST p=0.5", 1.3)]
    lines = advise.advice([*ours, record("NR+RH+ST p=0.5", 1.9)])
    assert lines[0] == "Fastest without recurrent dropout: NR+ST p=0.5, 1.30x torch's speed."
    assert lines[1] == "Fastest with recurrent dropout: NR+RH+ST p=0.5, 1.90x torch's speed."
    assert lines[2].startswith("Does not pay here (below 1.05x): NR+ST p=0.2.")


def test_advice_where_nothing_pays():
    lines = advise.advice(
        [record("nothing dropped", 1.0), record("NR+ST p=0.5", 1), record("NR+RH+ST p=0.5", 0.7)]
    )
    assert lines[-1].startswith("For these sizes, stay with torch's layers")
    assert not any(line.startswith("Fastest") for line in lines)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "layers: 0; at least 1 is needed"),
        ({"batch": -1}, "batch: -1; at least 1 is needed"),
        ({"p": (0.5, 1.0)}, r"p must be in \[0, 1\), got 1.0"),
        ({"p": (0.0,)}, "p: 0 drops nothing"),
        ({"p": ()}, "p: at least one share is needed"),
    ],
    ids=str,
)
def test_bad_options(change, message):
    with pytest.raises(ValueError, match=message):
        advise.run(replace(TINY, **change))
