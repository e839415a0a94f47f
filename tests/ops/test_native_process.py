"""The native kernels as a process finds them: other instruction sets, no library, peak memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from strop.ops import native
from strop.ops.dispatch import BackendError

TESTS = Path(__file__).parents[1]
built = pytest.mark.skipif(native.missing is not None, reason=f"not built: {native.missing}")

TRAIN = """
import logging, sys
logging.basicConfig(stream=sys.stderr, format="%(name)s: %(message)s")
import torch, strop
from strop.ops import native
lstm = strop.LSTM(5, 7, recurrent_dropout=0.5)
for _ in range(2):
    y, _ = lstm(torch.randn(3, 2, 5))
    y.sum().backward()
assert all(p.grad.isfinite().all() for p in lstm.parameters())
print(native.describe())
"""


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter with these environment variables besides ours, less those that choose kernels."""
    kept = {name: value for name, value in os.environ.items() if name not in ("STROP_ISA", "STROP_BACKEND")}
    return subprocess.run(
        [sys.executable, *arguments],
        env=kept | environment,
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def supported(isa: str) -> bool:
    done = python("-c", "from strop.ops import native; print(native.missing)", STROP_ISA=isa)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip() == "None"


@built
@pytest.mark.parametrize("isa", ["avx512", "avx2", "portable"])
def test_every_instruction_set_equals_the_oracle(isa):
    if isa == native.isa():
        pytest.skip("what the other tests run on")
    if not supported(isa):
        pytest.skip(f"this CPU has no {isa}")
    done = python(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS / "ops/test_products.py")),
        *(str(TESTS / "ops/test_recurrence.py"), str(TESTS / "ops/test_native.py")),
        *(str(TESTS / "test_cross_entropy.py"), str(TESTS / "ops/test_special_values.py")),
        *("-k", "native and (products or structured or variational or missing or accurate or special)"),
        STROP_ISA=isa,
        STROP_BACKEND="native",
        OMP_NUM_THREADS="1",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@built
def test_an_instruction_set_that_does_not_exist():
    done = python("-c", TRAIN, STROP_ISA="nonsense")
    assert done.returncode != 0
    assert "STROP_ISA=nonsense is not available on this CPU" in done.stderr
    assert "use one of: avx512, avx2, portable" in done.stderr


def test_without_the_library_plain_pytorch_runs_and_says_so_once():
    done = python("-c", TRAIN, STROP_NATIVE_LIBRARY="/nowhere/_native.so")
    assert done.returncode == 0, done.stderr
    assert "native kernels are missing: /nowhere/_native.so could not be loaded" in done.stdout
    assert done.stderr.count("strop: running on plain PyTorch") == 1, done.stderr
    assert "/nowhere/_native.so" in done.stderr


def test_the_native_backend_without_the_library_is_an_error():
    done = python("-c", TRAIN, STROP_NATIVE_LIBRARY="/nowhere/_native.so", STROP_BACKEND="native")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert issubclass(BackendError, RuntimeError)
    kind, text = last.split(": ", 1)
    assert kind == f"{BackendError.__module__}.{BackendError.__name__}"
    assert text.startswith("backend 'native' was asked for and cannot run: /nowhere/_native.so")


def test_a_library_that_is_none(tmp_path):
    junk = tmp_path / "_native.so"
    junk.write_bytes(b"not a library")
    done = python("-c", TRAIN, STROP_NATIVE_LIBRARY=str(junk))
    assert done.returncode == 0, done.stderr
    assert f"native kernels are missing: {junk} could not be loaded" in done.stdout


STEPS = """
import resource, sys
import torch, strop
name, hidden, p = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
steps, batch = 35, 20
torch.manual_seed(0)
if name == "torch":
    lstm, drop = torch.nn.LSTM(hidden, hidden, 2, dropout=p), torch.nn.Dropout(p)
else:
    lstm = strop.LSTM(hidden, hidden, 2, dropout=p, input_dropout=p, recurrent_dropout=p)
    drop = torch.nn.Identity()
x, dy = torch.randn(steps, batch, hidden, requires_grad=True), torch.randn(steps, batch, hidden)
hx = (torch.zeros(2, batch, hidden), torch.zeros(2, batch, hidden))
with open("/proc/self/statm") as file:
    before = int(file.read().split()[1]) * resource.getpagesize()
for _ in range(4):
    lstm.zero_grad()
    x.grad = None
    y, hx = lstm(drop(x), hx)
    y.backward(dy)
    hx = tuple(h.detach() for h in hx)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)
"""


@built
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
@pytest.mark.parametrize(("hidden", "p"), [(650, 0.5), (1500, 0.65)], ids=["medium", "large"])
def test_peak_memory_is_no_more_than_torchs(hidden, p):
    """What forward and backward add to the resident memory, at most, in a process of their own."""

    def added(name: str) -> int:
        done = python("-c", STEPS, name, str(hidden), str(p), OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    ours, torchs = added("strop"), added("torch")
    assert ours <= 1.1 * torchs, f"{ours / 2**20:.0f} MiB, torch.nn.LSTM {torchs / 2**20:.0f} MiB"
