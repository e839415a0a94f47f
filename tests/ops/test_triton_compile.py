"""The kernels compile for GPUs, which the interpreter does not tell."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from triton.backends import backends


@pytest.mark.skipif("nvidia" not in backends, reason="this Triton cannot compile for NVIDIA GPUs")
def test_kernels_compile_and_their_accumulators_stay_in_registers():
    script = Path(__file__).parent / "compile_triton.py"
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, str(script), "--quick"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    stacks = [int(found[1]) for line in lines if (found := re.search(r"(\d+) B stack", line))]
    assert max(stacks, default=0) <= 128, done.stdout
