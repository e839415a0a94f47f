"""What a program may ask of the backends, and that what runs is the same in every process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import strop
from strop import backends
from strop.functional import costs, routes
from strop.ops import native

PROGRAM = Path(__file__).with_name("digest_program.py")


@pytest.mark.parametrize("threads", [1, 2])
def test_two_processes_have_the_same_bits(threads):
    command = [sys.executable, str(PROGRAM), str(threads), "200"]
    first, second = (subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2))
    digests = [process.communicate(timeout=300)[0] for process in (first, second)]
    assert len(digests[0]) == 65
    assert digests[0] == digests[1]
    assert not first.returncode
    assert not second.returncode


def test_autotune_is_off_and_takes_bools_alone(monkeypatch):
    assert backends.autotune is False
    monkeypatch.setattr(backends, "autotune", True)
    assert strop.ops.choice.autotune is True
    with pytest.raises(TypeError, match="autotune must be True or False, got 1"):
        backends.autotune = 1


def test_backends_say_what_they_are():
    assert backends.why_not("reference") is None
    with pytest.raises(ValueError, match="backend must be one of"):
        backends.why_not("other")
    with backends.use("reference"):
        assert backends.which(torch.zeros(1)) == "reference"


@pytest.mark.parametrize("isa", ["avx2", "avx512", "portable"])
@pytest.mark.parametrize("phase", costs.PHASES)
@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN_TANH", "RNN_RELU"])
@pytest.mark.parametrize("packed", [True, False])
def test_the_rule_has_an_answer_for_every_call(isa, phase, cell, packed):
    for hidden, steps, batch in ((1, 1, 1), (64, 3, 2), (2048, 400, 256)):
        sizes = costs.Sizes(cell, hidden, hidden, hidden, 1, 1, steps, batch, steps * batch, packed)
        for ways in (("operator", "kernels"), ("kernels, dropping", "operator, dropping")):
            assert routes.cheapest(sizes, phase, ways, isa, isa, 4) in ways


@pytest.mark.skipif(native.missing is not None, reason="nothing is gained without kernels")
def test_gains_are_expected_of_large_layers_and_not_of_small_ones():
    assert routes.pays("LSTM", 650, 650, steps=35, batch=20, input_dropout=0.5)
    assert routes.expected_gain("LSTM", 8, 8, steps=2, batch=1, input_dropout=0.1) == 1
