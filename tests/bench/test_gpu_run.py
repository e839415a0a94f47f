"""benchmarks/gpu/suite.py: what `make gpu` runs, and what it makes of what fails."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


GPU = ROOT / "benchmarks" / "gpu"


@pytest.fixture
def suite(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(GPU)
    return importlib.import_module("suite")


@pytest.fixture
def commands(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(GPU)
    return importlib.import_module("commands")


def program(text: str) -> list[str]:
    return [sys.executable, "-c", text]


class _Blocked:
    """sitecustomize.py of a machine that lacks what others have."""

    TEXT = """
import sys
class Lacking:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.partition(".")[0])
sys.meta_path.insert(0, Lacking())
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {names} else found(name, package)
"""


def lacking(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """An environment in which Python finds none of these packages."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_Blocked.TEXT.format(names=set(names)))
    return os.environ | {"PYTHONPATH": str(folder)}


def test_measuring_needs_torch_and_triton_alone(tmp_path):
    extras = ("matplotlib", "numpy", "rich", "sacrebleu", "safetensors", "tensorboard", "tyro")
    environment = lacking(tmp_path / "site", [name for name in extras if name != "numpy"])
    done = subprocess.run(
        program(f"import sys; sys.modules.update(dict.fromkeys({extras})); import strop.bench.gpu"),
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert done.returncode == 0, done.stderr


# What a machine has whose Python is made for GPUs, torch and what torch needs aside.
GPU_MACHINE = {"matplotlib", "numpy", "rich", "safetensors", "tensorboard", "triton"}


def test_training_needs_what_a_gpu_machine_has(tmp_path):
    """`make gpu-train` from its first line to its archive, with all else blocked; on a path of its own."""
    needed = {
        "contourpy",
        "cycler",
        "dateutil",
        "fontTools",
        "kiwisolver",
        "packaging",
        "PIL",
        "pyparsing",
        "six",
    }
    needed |= {
        "markdown_it",
        "mdurl",
        "pygments",
        "absl",
        "grpc",
        "google",
        "markdown",
        "werkzeug",
        "markupsafe",
    }
    needed |= {"torch", "torchgen", "functorch", "typing_extensions", "sympy", "mpmath", "networkx", "jinja2"}
    needed |= {"filelock", "fsspec", "setuptools", "pkg_resources", "pip", "tensorboard_data_server", "strop"}
    there = {name for dist in packages_distributions() for name in [dist.partition(".")[0]]}
    environment = lacking(tmp_path / "site", sorted(there - needed - GPU_MACHINE))
    data = tmp_path / "ptb"
    data.mkdir()
    words = " ".join(f"w{i % 7}" for i in range(20 * 36 + 1))
    for part in ("train", "valid", "test"):
        (data / f"{part}.txt").write_text(words + "\n")
    runs = tmp_path / "runs"
    line = ["make", "gpu-train", f"PYTHON={sys.executable}", f"PTB={data}", f"GPU_RUNS={runs}"]
    line += ["GPU_DEVICE=cpu", "EPOCHS=1", "ONLY=zaremba-medium-nr-rh-st"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    with tarfile.open(f"{runs}.tgz") as archive:
        kept = {Path(name).name for name in archive.getnames()}
    assert kept >= {"curve.csv", "curve.png", "run.json", "result.json"}


def test_all_tests_of_the_gpu_run(suite, monkeypatch):
    commands = suite.checks()
    kept = {path.stem for path in (ROOT / "tests" / "ops").glob("test_triton_*.py")} - {"test_triton_compile"}
    assert set(commands) == kept | {"test_graphs", "test_captured"}
    for name in commands:
        assert Path(commands[name][-1]).is_file()
    monkeypatch.setattr(suite, "find_spec", lambda name: None)
    assert suite.checks() == {}


@pytest.mark.parametrize("options", [[], ["--no-tests"]])
def test_the_tests_can_be_left_out(suite, monkeypatch, options):
    ran = []
    monkeypatch.setattr(suite, "run_all", lambda commands, seconds: ran.append("tests") or True)
    monkeypatch.setattr(
        suite.subprocess,
        "run",
        lambda line: (
            ran.append(float(line[line.index("--minutes") + 1])) or subprocess.CompletedProcess(line, 0)
        ),
    )
    monkeypatch.setattr("sys.argv", ["suite.py", *options])
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    assert suite.main() == 0
    assert ran == (["tests"] if not options else []) + [pytest.approx(suite.MINUTES, abs=0.1)]
    assert os.environ["PYTHONPATH"] == os.pathsep.join([str(ROOT / "src"), "elsewhere"])


def test_a_test_file_is_run_by_its_command(suite, tmp_path):
    command = suite.checks()["test_graphs"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout or "skipped" in done.stdout


def test_what_fails_is_told_and_the_others_run(commands, capfd):
    given = {
        "good": program("print('3 passed')"),
        "bad": program("print('first'); print('E   assert 1 == 2'); raise SystemExit(1)"),
    }
    assert not commands.run_all(given, 60)
    told = capfd.readouterr().out
    assert "gpu: good: 3 passed" in told
    assert "gpu: bad failed:\nfirst\nE   assert 1 == 2" in told


def test_what_takes_too_long_is_interrupted_and_no_failure(commands, capfd):
    slow = """
import time
try:
    print("so far", flush=True)
    time.sleep(100)
except KeyboardInterrupt:
    raise SystemExit("told")
"""
    start = time.monotonic()
    assert commands.run_all({"slow": program(slow)}, 3)
    assert time.monotonic() - start < 30
    assert "gpu: slow was cut off after 3 seconds:\nso far\ntold" in capfd.readouterr().out


def test_what_ignores_an_interruption_is_killed(commands, monkeypatch):
    ends = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(1000)"
    monkeypatch.setattr(commands, "_PATIENCE", 1.0)
    process = subprocess.Popen(program(ends), start_new_session=True)
    time.sleep(1)
    assert not commands.ends(process, 0)
    assert process.returncode == -9
