import os
from pathlib import Path

import pytest

from strop import cli

MODEL = """
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.rnn = nn.LSTM(8, 8)

    def forward(self, x, *, scale):
        return {"y": self.rnn(self.drop(x))[0] * scale, "length": len(x)}


def build():
    return Model(), {"x": torch.randn(5, 3, 8), "scale": 2.0}


def dense():
    return nn.Linear(3, 3), torch.randn(2, 3)


def model_only():
    return Model()


def broken():
    return 1 / 0


def no_inputs():
    return Model(), None


def picky():
    raise ValueError("too small")


def bad_inputs():
    return Model(), torch.randn(5, 3, 7)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_model.py"
    path.write_text(MODEL)
    return path


def check(target: str, *more: str) -> int:
    return cli.main(["convert-check", target, "--seconds", "0", *more])


def test_reports_and_times_a_model(file, capsys):
    assert check(f"{file}:build", "--recurrent-dropout", "0.5") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["layer", "was", "is", "expected", "gain"]
    assert "p=0.5 now dropped by 'rnn'" in lines[1]
    assert "input_dropout=0.5, recurrent_dropout=0.5" in lines[2]
    rows = {line.split()[0]: line.split()[1:] for line in lines[4:] if line.startswith(("before", "after"))}
    assert rows["before"][-1] == "1.00x"
    p50 = {name: float(row[1]) for name, row in rows.items()}
    assert float(rows["after"][-1][:-1]) == pytest.approx(p50["before"] / p50["after"], rel=0.02)
    differ = next(line for line in lines if line.startswith("In eval mode"))
    assert float(differ.split()[-3]) < 1e-5


def test_nothing_to_convert(file, capsys):
    assert check(f"{file}:dense") == 1
    out, errors = capsys.readouterr()
    assert "No recurrent layer, no dropout." in out
    assert "Nothing to convert" in errors


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("{file}", "FILE.py:FUNCTION is needed"),
        ("{file}:", "FILE.py:FUNCTION is needed"),
        ("{file}.txt:build", ".txt' does not exist"),
        ("absent.py:build", "target: 'absent.py' does not exist"),
        (f"{os.devnull}:build", "is not a Python file"),
        ("{file}:no_inputs", ":no_inputs returns cannot be used: "),
        ("{file}:picky", "my_model.py:picky failed with ValueError: too small"),
        ("{file}:bulid", "has no function 'bulid'"),
        ("{file}:model_only", "model_only must return a model and example inputs, it returned Model"),
        ("{file}:broken", "failed with ZeroDivisionError: division by zero"),
        ("{file}:bad_inputs", "example_inputs: the model fails on them in training mode: TypeError"),
    ],
)
def test_targets_that_cannot_be_checked(file, capsys, target, message):
    assert check(target.format(file=file)) == 2
    assert message in capsys.readouterr().err


def test_bad_options(file, capsys):
    assert check(f"{file}:build", "--recurrent-dropout", "1") == 2
    assert "recurrent_dropout must be in [0, 1), got 1.0" in capsys.readouterr().err
    assert check(f"{file}:build", "--threads", "0") == 2
    assert "threads: 0; at least 1 is needed" in capsys.readouterr().err
