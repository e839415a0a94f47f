"""The scripts in examples/: they run with and without the line that converts, and compare."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from strop.functional import routes

EXAMPLES = Path(__file__).parent.parent / "examples"
TINY = {
    "word_language_model": ["--units", "8", "--words", "200", "--batch", "200", "--epochs", "1"],
    "source_tagger": ["--units", "8", "--batch", "300", "--longest", "20"],
}


def run(name, *more, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr(sys, "argv", [name, *TINY[name], *more])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("how", [[], ["--strop"]], ids=["torch", "strop"])
def test_trains(name, how, monkeypatch, capsys):
    out = run(name, *how, monkeypatch=monkeypatch, capsys=capsys)
    last = out.splitlines()[-1]
    assert re.search(r"valid perplexity \d+\.\d|accuracy \d+\.\d%", last)


@pytest.mark.parametrize("name", TINY)
def test_compares(name, monkeypatch, capsys):
    monkeypatch.setattr(routes, "PAYS", 0.0)  # at tiny sizes, too
    out = run(name, "--compare", "--seconds", "0", monkeypatch=monkeypatch, capsys=capsys)
    assert out.count("taken over") == 1
    assert out.count("swapped") == 2
    assert re.search(r"torch \d+ ms, strop \d+ ms, speed-up \d\.\d\dx", out.splitlines()[-1])


@pytest.mark.parametrize("name", TINY)
def test_one_line_makes_the_difference(name):
    lines = (EXAMPLES / f"{name}.py").read_text().splitlines()
    training = [line for line in lines if "strop.convert(model" in line]
    assert len(training) == 1
