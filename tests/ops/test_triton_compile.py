"""The kernels compile for GPUs, which the interpreter does not tell, to the code that is meant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from triton.backends import backends

pytestmark = pytest.mark.skipif("nvidia" not in backends, reason="this Triton cannot compile for NVIDIA GPUs")


@pytest.fixture(scope="module")
def made() -> dict[str, dict[str, Any]]:
    """What the compiler says of each kernel, by what it is for."""
    script = Path(__file__).parent / "compile_triton.py"
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, str(script), "--quick"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = {line["label"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert len(found) == 10
    return found


def beginning(instructions: list[str], *names: str) -> list[int]:
    """Where instructions are whose names begin so."""
    return [at for at, name in enumerate(instructions) if name.startswith(names)]


def test_accumulators_stay_in_registers(made):
    for label, kernel in made.items():
        assert kernel["stack"] <= 64, label  # some addresses of a kernel with every option


def test_writes_are_released_and_reads_come_after_what_the_others_wrote(made):
    """One thread tells the grid after a fence; whoever saw it reads nothing old from L1."""
    for label, kernel in made.items():
        code = kernel["instructions"]
        fences, tells = beginning(code, "MEMBAR.ALL.GPU", "MEMBAR.SC.GPU"), beginning(code, "RED", "ATOMG")
        polls, discards = beginning(code, "LDG.E.STRONG.GPU"), beginning(code, "CCTL.IVALL")
        assert len(tells) == len(polls) == (2 if "backward" in label else 1), label
        for tell in tells:
            assert any(tell - 12 < fence < tell for fence in fences), label
            stored = [at for at in beginning(code, "STG") if at < tell]
            parted = [at for at in beginning(code, "BAR.SYNC") if at < tell]
            assert parted, label
            assert max(stored, default=-1) < max(parted), label
        for poll in polls:
            assert any(poll < discard < poll + 8 for discard in discards), label
            assert any(poll < at < poll + 40 for at in beginning(code, "BAR.SYNC")), label


def test_a_wait_without_an_end_is_an_error(made):
    for label, kernel in made.items():
        waits = 2 if "backward" in label else 1
        assert len(beginning(kernel["instructions"], "BPT.TRAP")) == waits, label


def test_the_state_is_read_in_whole_rows(made):
    """Kept units lie apart, their rows side by side. Only the input's share of the gates comes by 2 bytes."""
    for label in ("zaremba-medium", "nmt-luong", "zaremba-large"):
        kernel = next(kernel for key, kernel in made.items() if label in key and "forward" in key)
        by_two = beginning(kernel["instructions"], "LDG.E.U16")
        assert len(by_two) <= 10, label
        assert beginning(kernel["instructions"], "LDG.E.128", "LDGSTS.E.BYPASS.128", "LDGSTS.E.128"), label


def test_no_product_is_done_twice(made):
    """A warp multiplies its own share, 16 by 16 by 8 at once, where the loop begins and in the loop."""
    checked = 0
    for label, kernel in made.items():
        plan = kernel["plan"]
        if "bf16" not in label or plan["shares"] != 8:
            continue
        across = plan["kept"] if "backward" in label else 4 * plan["lanes"]
        once = (plan["chunk"] // 8 // 16) * (plan["rows"] // 16) * (across // 8)
        places = plan["resident"] or 2
        assert len(beginning(kernel["instructions"], "HMMA")) == once * places, label
        checked += 1
    assert checked >= 6


def test_nothing_is_fetched_or_stored_later_or_earlier_than_need_be(made):
    """The first weights are on their way before a program waits; what no other needs is stored later."""
    for label, kernel in made.items():
        if "persistent" not in label or "bf16" not in label:
            continue
        code = kernel["instructions"]
        poll, tell = beginning(code, "LDG.E.STRONG.GPU")[-1], beginning(code, "RED", "ATOMG")[0]
        assert any(at < poll for at in beginning(code, "LDG.E.128", "LDGSTS.E.BYPASS.128")), label
        assert any(at > tell for at in beginning(code, "STG")), label


def test_the_chip_keeps_the_weights(made):
    for label, kernel in made.items():
        if "on-chip" in label:
            plan = kernel["plan"]
            across = 4 * plan["lanes"] if "forward" in label else plan["kept"]
            weights = plan["resident"] * plan["chunk"] * across * 2
            in_registers = 64 * 1024  # of 256 threads with 64 each
            assert weights <= kernel["shared"] + in_registers, label
