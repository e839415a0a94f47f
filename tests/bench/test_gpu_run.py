"""benchmarks/gpu.py: what `make gpu` runs, and what it makes of what fails."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def suite() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_suite", ROOT / "benchmarks" / "gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def program(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_measuring_needs_torch_and_triton_alone():
    extras = ("matplotlib", "numpy", "rich", "sacrebleu", "safetensors", "tensorboard", "tyro")
    blocked = f"import sys; sys.modules.update(dict.fromkeys({extras})); "
    done = subprocess.run(
        program(blocked + "import strop.bench.gpu"), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_all_tests_of_the_gpu_run(suite, tmp_path, monkeypatch):
    monkeypatch.setattr(suite.shutil, "which", lambda name: f"/somewhere/{name}")
    commands = suite.checks(tmp_path)
    kept = {path.stem for path in (ROOT / "tests" / "ops").glob("test_triton_*.py")} - {"test_triton_compile"}
    assert set(commands) == kept | {"test_graphs", "test_captured", "compute-sanitizer"}
    for name in set(commands) - {"compute-sanitizer"}:
        assert Path(commands[name][-1]).is_file()
    monkeypatch.setattr(suite.shutil, "which", lambda name: None)
    monkeypatch.setattr(suite, "find_spec", lambda name: None)
    assert suite.checks(tmp_path) == {}


def test_a_test_file_is_run_by_its_command(suite, tmp_path):
    command = suite.checks(tmp_path)["test_graphs"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout or "skipped" in done.stdout


def test_what_fails_is_told_and_the_others_run(suite, capfd):
    commands = {
        "good": program("print('3 passed')"),
        "bad": program("print('first'); print('E   assert 1 == 2'); raise SystemExit(1)"),
    }
    assert not suite.run_all(commands, 60)
    told = capfd.readouterr().out
    assert "gpu: good: 3 passed" in told
    assert "gpu: bad failed:\nfirst\nE   assert 1 == 2" in told


def test_what_takes_too_long_is_interrupted_and_no_failure(suite, capfd):
    slow = """
import time
try:
    print("so far", flush=True)
    time.sleep(100)
except KeyboardInterrupt:
    raise SystemExit("told")
"""
    start = time.monotonic()
    assert suite.run_all({"slow": program(slow)}, 3)
    assert time.monotonic() - start < 30
    assert "gpu: slow was cut off after 3 seconds:\nso far\ntold" in capfd.readouterr().out


def test_what_ignores_an_interruption_is_killed(suite, monkeypatch):
    ends = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(1000)"
    monkeypatch.setattr(suite, "_PATIENCE", 1.0)
    process = subprocess.Popen(program(ends), start_new_session=True)
    time.sleep(1)
    assert not suite._ends(process, 0)
    assert process.returncode == -9
