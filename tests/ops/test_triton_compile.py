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
    assert len(lines) == 6
    for line in lines:
        found = re.search(r"(\d+) B stack", line)
        most = 256 if "on the chip" in line else 128  # every chunk has addresses of its own
        assert found is None or int(found[1]) <= most, line
    # Shared memory is what keeps the weights: 300 units x 64 gates x 2 bytes, and the states that enter.
    kept = {re.split(r"[ ,:]", line)[0]: line for line in lines if "on the chip" in line}
    assert kept.keys() == {"forward", "backward"}
    for line in kept.values():
        found = re.search(r"(\d+) chunks of (\d+) on the chip: (\d+) B shared", line)
        assert found is not None, line
        chunks, size, shared = map(int, found.groups())
        across = 64 if line.startswith("forward") else 32
        assert chunks * size * across * 2 <= shared <= (chunks * across + 32) * size * 2 + 4096, line
